"""The Makefile, the continuous integration script and the wheel, as a person meets them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY, make_textured_image


def make(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # A `make test` above this process must not lend it its own options, nor the variables it was given: make hands
    # those on to all that it starts.
    own = re.findall(r"^([A-Z]+) \?=", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS")) and k not in own}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env={**inherited, **variables}, capture_output=True, text=True, timeout=800
    )


needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@needs_make
def test_help_is_the_default_and_names_every_target() -> None:
    shown = make().stdout
    phony = re.search(r"^\.PHONY: (.+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert re.findall(r"^  ([a-z-]+)", shown, re.MULTILINE) == phony.group(1).split()


@needs_make
def test_a_machine_without_python_is_told_the_package(tmp_path: Path) -> None:
    for name in ("bash", "make"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = make("setup", PATH=str(tmp_path))
    assert done.returncode != 0
    assert "Python 3.10 or later is needed; install the Debian package python3" in done.stderr


@needs_make
def test_the_wrong_python_stops_the_setup_in_one_line(tmp_path: Path) -> None:
    done = make("setup", f"VENV={tmp_path / 'venv'}", "PYTHON=/no/such/python")
    assert done.returncode != 0
    assert "PYTHON=/no/such/python is not a working Python 3" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "venv").exists()


@needs_make
@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ([], []),
        (["INPUT=my video.mp4"], ["--input", "my video.mp4"]),
        (["VARIANT=plain:sift"], ["--variant", "plain:sift"]),
    ],
)
def test_demo_passes_its_input_on(given: list[str], passed: list[str]) -> None:
    command = shlex.split(make("-n", "demo", *given).stdout.replace("\\\n", " ").splitlines()[-1])
    assert command[command.index("--") + 1 :] == ["python", "-m", "semantic_matcher.demo", *passed, "--output", "demo"]


def test_launch_is_a_link_into_the_package() -> None:
    link = REPOSITORY / "launch"
    assert link.is_symlink()
    assert os.readlink(link) == "ros_ws/src/semantic_matcher/launch"


def test_ci_is_strict_and_runs_the_readmes_command() -> None:
    script = REPOSITORY / ".ci" / "run"
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in text
    assert text.rstrip().endswith("make test")
    assert "$ make test" in (REPOSITORY / "README.md").read_text()
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=800)


def test_the_versions_agree() -> None:
    from semantic_matcher_core import __version__

    for package in ("semantic_matcher", "semantic_matcher_msgs"):
        text = (REPOSITORY / "ros_ws" / "src" / package / "package.xml").read_text()
        assert f"<version>{__version__}</version>" in text
    assert f'version="{__version__}"' in (REPOSITORY / "ros_ws" / "src" / "semantic_matcher" / "setup.py").read_text()


def test_the_wheel_holds_the_core_with_its_data_and_nothing_else(wheel_and_source: tuple[Path, Path]) -> None:
    wheel, source = wheel_and_source
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith("METADATA"))
        assert "License-Expression: Apache-2.0" in archive.read(metadata).decode()
    copied = [p for p in (source / "semantic_matcher_core").rglob("*") if p.is_file()]
    assert [str(p.relative_to(source)) for p in copied if str(p.relative_to(source)) not in names] == []
    # `training` and the like are names that any project may use: they are run from a checkout.
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"semantic_matcher_core", "semantic_matcher"}


MATCHES_ALONE = """
import socket, sys
import numpy as np

def refused(*arguments, **options):
    raise OSError("no network here")

socket.socket.connect = socket.getaddrinfo = refused
import semantic_matcher_core
from semantic_matcher_core import SemanticMatcher

assert semantic_matcher_core.__file__.startswith(sys.prefix), semantic_matcher_core.__file__
matcher = SemanticMatcher.from_pretrained(device="cpu", max_keypoints=500)
assert matcher.variant == "plain:compact" and matcher.reasoner is None
matcher = SemanticMatcher.from_pretrained("compact", device="cpu", max_keypoints=500)
assert matcher.reasoner is not None and matcher.semantic_encoder is not None
picture = np.load(sys.argv[1])
matches = matcher.match_images(picture[:240, :320], picture[16:256, 24:344])
off = np.linalg.norm(matches.keypoints0.numpy() - matches.keypoints1.numpy() - (24, 16), axis=1)
print(len(off), (off < 3).mean())
"""


@pytest.mark.slow
def test_the_wheel_alone_matches_semantically_without_a_network(
    wheel_python: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    np.save(tmp_path / "picture.npy", make_textured_image(260, 350, 3))
    python, environment = wheel_python
    done = subprocess.run(
        [python, "-c", MATCHES_ALONE, "picture.npy"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    count, share = done.stdout.split()
    assert int(count) > 150 and float(share) > 0.9
