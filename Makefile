# Everything sets itself up: `make demo` and `make test` work in a fresh clone. No root; nothing outside this folder
# and the usual caches is written. Steps are skipped while what they depend on is the same (tools/).

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV ?= .venv
# Python to make the environment from; empty: one is looked for.
PYTHON ?=
# What pip is asked for; on most machines the plain pin brings CUDA. Another build: TORCH="torch==2.13.0+cu130".
TORCH ?= torch==2.13.0
# Video, folder of images or bag for the demo; empty: a robot in a drawn hall.
INPUT ?=
# What the demo matches with; empty: the bundled extractor, plain:compact.
VARIANT ?=
OUTPUT ?= demo
# Processes the tests run in, and more arguments for pytest: make test PYTEST_ARGS="-k xfeat".
WORKERS ?= 2
PYTEST_ARGS ?=

VENV_PATH := $(abspath $(VENV))
BIN := $(VENV_PATH)/bin
# The scripts in tools/ run on any Python from 3.8 and find the one to build on themselves.
BOOTSTRAP := $(shell for p in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 8))' >/dev/null 2>&1 && echo "$$p" && break; done)
TOOL = $(if $(BOOTSTRAP),$(BOOTSTRAP),$(error Python 3.10 or later is needed; install the Debian package python3)) -m
RUN = $(TOOL) tools.ros_env --venv $(VENV_PATH) --

.PHONY: help setup build demo test test-fast lint format typecheck docs doctor wheel gpu-bundle lock clean

help: ## Show this help
	@echo "semantic_matcher: make <target>"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: VENV PYTHON TORCH INPUT VARIANT OUTPUT WORKERS PYTEST_ARGS (see the top of the Makefile)"

setup: ## Virtual environment with everything in it; ROS 2 from wheels where none is sourced
	@$(TOOL) tools.setup_venv --venv "$(VENV_PATH)" --python "$(PYTHON)" --torch "$(TORCH)"

build: setup ## ROS messages and nodes, with colcon
	@$(TOOL) tools.build_workspace --venv "$(VENV_PATH)"

demo: build ## Camera to matches on a real ROS graph: make demo [INPUT=video | folder | bag] [VARIANT=plain:sift]
	@$(RUN) python -m semantic_matcher.demo $(if $(INPUT),--input "$(INPUT)") $(if $(VARIANT),--variant "$(VARIANT)") \
		--output "$(OUTPUT)"

test: setup ## Lint, types and all tests
	@$(MAKE) --no-print-directory -j 3 build lint typecheck
	@SEMANTIC_MATCHER_REQUIRE_ROS=1 $(RUN) python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

test-fast: build ## All tests but the slow ones and those on the ROS graph
	@$(RUN) python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow and not ros" $(PYTEST_ARGS)

lint: setup ## Ruff: rules and format; import-linter: the layers
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . || \
		{ echo "semantic_matcher: \`make format\` repairs most of this" >&2; $(BIN)/ruff format --check . ; exit 1; }
	@report="$$($(BIN)/lint-imports --no-cache)" || { echo "$$report" >&2; exit 1; }

format: setup ## Repair what ruff can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

typecheck: setup ## mypy on core, nodes, tools, training and benchmarks
	@$(BIN)/mypy

docs: setup ## site/: the documentation, built strictly and without the network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet && echo "site/index.html"

doctor: ## What was found on this machine and what is missing
	@if [ -x "$(BIN)/python" ] && $(RUN) true 2>/dev/null; then $(RUN) python -m semantic_matcher_core.doctor; \
	else $(TOOL) semantic_matcher_core.doctor; fi

wheel: setup ## dist/semantic_matcher-*.whl of the core
	@$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist . && ls dist/*.whl

gpu-bundle: setup ## dist/gpu-bundle.tar: all that measures a GPU on a machine without network [WEIGHTS=folder] [DATA=folder]
	@$(BIN)/python -m tools.gpu_bundle $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(if $(DATA),--data "$(DATA)")

lock: setup ## Write requirements/lock.txt from what is installed
	@$(TOOL) tools.lock --venv "$(VENV_PATH)"

clean: ## Remove the environment, builds and caches; keeps demo/
	rm -rf "$(VENV_PATH)" ros_ws/build ros_ws/install ros_ws/log build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
