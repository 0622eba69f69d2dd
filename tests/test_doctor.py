from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from semantic_matcher_core import doctor
from semantic_matcher_core.doctor import Finding, Status, Tool
from tests.conftest import REPOSITORY
from tools.interpreter import probe


def run_doctor(python: str, path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "semantic_matcher_core.doctor", *arguments]
    # No PYTHONPATH, no ROS: what a person has before any set-up.
    env = {"PATH": str(path), "COLUMNS": "300"}
    return subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=800)


def add_tool(folder: Path, name: str, version: str = "") -> None:
    tool = folder / name
    tool.write_text(f"#!/bin/sh\necho '{version or name + ' 9.9'}'\n")
    tool.chmod(0o755)


@pytest.fixture
def bare_python() -> str:
    """The Python that the environment of this test was made from: it has none of the libraries."""
    found = probe(sys.executable)
    assert found is not None
    return found.executable


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    for name in ("cmake", "g++", "make", "git"):
        add_tool(tmp_path, name)
    return tmp_path


def rows(output: str) -> dict[str, Finding]:
    return {row["name"]: Finding(row["name"], Status(row["status"]), row["detail"]) for row in json.loads(output)}


@pytest.mark.parametrize(("tool", "package"), [("cmake", "cmake"), ("g++", "g++"), ("make", "make"), ("git", "git")])
def test_a_missing_tool_is_one_sentence_with_its_package(
    bare_python: str, tools: Path, tool: str, package: str
) -> None:
    (tools / tool).unlink()
    done = run_doctor(bare_python, tools)
    assert done.returncode == 1, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{tool} ")]
    assert "missing" in line
    assert line.endswith(f"install the Debian package {package}.")
    assert done.stdout.rstrip().splitlines()[-1] == f"Missing: {tool}."


def test_before_any_setup_nothing_is_missing_but_there_is_something_to_do(bare_python: str, tools: Path) -> None:
    done = run_doctor(bare_python, tools, "--json")
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert found["cmake"].status is Status.OK and "cmake 9.9" in found["cmake"].detail
    assert found["rclpy"].status is Status.TODO
    assert "torch" not in found, "a Python without the library cannot tell what the environment has"


def test_another_compiler_will_do(bare_python: str, tools: Path) -> None:
    (tools / "g++").unlink()
    add_tool(tools, "clang++", "clang version 17")
    done = run_doctor(bare_python, tools, "--json")
    assert done.returncode == 0
    assert "clang version 17" in rows(done.stdout)["g++"].detail


def test_in_the_environment_the_libraries_are_listed_with_versions(tools: Path) -> None:
    import cv2
    import kornia
    import torch

    done = run_doctor(sys.executable, tools, "--json")
    found = rows(done.stdout)
    assert found["torch"].status is Status.OK and torch.__version__ in found["torch"].detail
    assert "CUDA" in found["torch"].detail
    assert found["kornia"].detail == kornia.__version__
    assert found["opencv-python"].status is Status.OK
    assert cv2.__version__ in found["opencv-python"].detail or "system" in found["opencv-python"].detail


def test_a_python_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (3, 99))
    finding = doctor._python()
    assert finding.status is Status.MISSING
    assert "3.99 or later is needed" in finding.detail


def test_a_package_that_is_not_installed_is_missing_and_says_how_to_get_it() -> None:
    finding = doctor._package("no-such-distribution", "no_such_module", Status.MISSING)
    assert finding.status is Status.MISSING
    assert "pip install no-such-distribution" in finding.detail


def test_a_module_without_metadata_is_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "debians_module.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = doctor._package("debians-distribution", "debians_module", Status.MISSING)
    assert (finding.status, finding.detail) == (Status.OK, f"the system's ({tmp_path})")


def test_a_torch_that_does_not_import_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    assert doctor._torch().status is Status.MISSING


class TestMiddleware:
    def test_a_profile_that_is_set_and_there(self, tmp_path: Path) -> None:
        profile = tmp_path / "profile.xml"
        profile.touch()
        finding = doctor._middleware(None, {"FASTDDS_DEFAULT_PROFILES_FILE": str(profile)})
        assert finding.status is Status.OK and str(profile) in finding.detail

    @pytest.mark.parametrize(("distribution", "major"), [("humble", 2), ("jazzy", 2), ("kilted", 3), ("rolling", 3)])
    def test_the_variable_is_that_of_the_distribution(self, tmp_path: Path, distribution: str, major: int) -> None:
        profile = tmp_path / "profile.xml"
        profile.touch()
        right, wrong = doctor.PROFILE_VARIABLES[major], doctor.PROFILE_VARIABLES[5 - major]
        assert right in doctor._middleware(REPOSITORY, {"ROS_DISTRO": distribution}).detail
        assert wrong not in doctor._middleware(REPOSITORY, {"ROS_DISTRO": distribution}).detail
        environment = {"ROS_DISTRO": distribution, right: str(profile)}
        assert doctor._middleware(None, environment).status is Status.OK
        finding = doctor._middleware(None, {"ROS_DISTRO": distribution, wrong: str(profile)})
        assert finding.status is Status.MISSING and f"reads {right}" in finding.detail

    def test_the_library_reads_the_variable(self) -> None:
        """The one of the wheels, which are Jazzy's, holds the name it asks the environment for."""
        libraries = [p for name in ("fastrtps", "fastdds") for p in Path(sys.prefix, "lib").glob(f"lib{name}.so")]
        if not libraries:
            pytest.skip("Fast DDS is not in this environment (it comes with the ROS wheels: `make setup`)")
        (variable,) = doctor.profile_variables("jazzy")
        assert variable.encode() in libraries[0].read_bytes()
        assert doctor.PROFILE_VARIABLES[3].encode() not in libraries[0].read_bytes()

    def test_a_profile_that_is_not_there_is_named(self) -> None:
        finding = doctor._middleware(None, {"FASTRTPS_DEFAULT_PROFILES_FILE": "/no/profile.xml"})
        assert finding.status is Status.MISSING
        assert "/no/profile.xml names no file" in finding.detail

    def test_the_shipped_profile_is_pointed_out(self) -> None:
        finding = doctor._middleware(REPOSITORY, {})
        assert finding.status is Status.OK
        assert "ros_ws/src/semantic_matcher/config/" in finding.detail

    def test_another_dds_has_its_own_settings(self) -> None:
        finding = doctor._middleware(None, {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"})
        assert finding.status is Status.OK and "not Fast DDS" in finding.detail


class TestWeights:
    def test_folders_are_counted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home, search = tmp_path / "home", tmp_path / "search"
        (home / "weights").mkdir(parents=True)
        (home / "weights" / "xfeat.pt").touch()
        search.mkdir()
        monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(home))
        monkeypatch.setenv("SEMANTIC_MATCHER_WEIGHTS", f"{search}:{tmp_path / 'gone'}")
        cache, found, gone = doctor._weights(installed=True)
        assert cache.status is Status.OK and f"{home}: 1 weights file" in cache.detail
        assert found.status is Status.OK and f"{search}: 0 weights files" in found.detail
        assert gone.status is Status.MISSING and "correct SEMANTIC_MATCHER_WEIGHTS" in gone.detail

    def test_an_empty_cache_is_no_fault(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(tmp_path / "new"))
        monkeypatch.delenv("SEMANTIC_MATCHER_WEIGHTS", raising=False)
        (cache,) = doctor._weights(installed=True)
        assert cache.status is Status.OK and "weights fetch" in cache.detail


class TestAnInstalledWheel:
    """No checkout, and only what the library itself depends on."""

    @pytest.fixture
    def text(self, monkeypatch: pytest.MonkeyPatch) -> str:
        hidden = {"scipy", "onnx", "onnxruntime", "onnxscript", "lightning", "rclpy"}
        own = doctor._is_importable
        monkeypatch.setattr(doctor, "checkout", lambda: None)
        monkeypatch.setattr(doctor, "_is_importable", lambda m: m.partition(".")[0] not in hidden and own(m))
        version = doctor.importlib.metadata.version

        def hide(name: str) -> str:
            if name.partition("-")[0] in hidden:
                raise doctor.importlib.metadata.PackageNotFoundError(name)
            return version(name)

        monkeypatch.setattr(doctor.importlib.metadata, "version", hide)
        return doctor.report(doctor.examine(), width=200)

    def test_says_what_does_not_work_and_how_to_get_it(self, text: str) -> None:
        assert "Not here, and needed for register-surface: pip install scipy" in text
        assert "Everything needed is here." in text

    def test_knows_of_no_makefile(self, text: str) -> None:
        assert "make setup" not in text
        assert "lightning" not in text and "cmake" not in text


def test_build_tools_are_named_one_sentence_each() -> None:
    sentences = doctor.missing_build_tools(which=lambda tool: None)
    assert [sentence.count(".") for sentence in sentences] == [1] * len(doctor.BUILD_TOOLS)
    assert doctor.missing_build_tools(which=lambda tool: "/bin/" + tool.command) == []


def test_a_tool_is_found_under_its_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_tool(tmp_path, "c++")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Tool("g++", "g++", "", ("c++",)).path() == str(tmp_path / "c++")
    assert Tool("cmake", "cmake", "").path() is None


def test_the_report_fits_the_terminal_and_loses_nothing() -> None:
    detail = " ".join(f"word{i}" for i in range(60))
    text = doctor.report([Finding("name", Status.OK, detail), Finding("x", Status.TODO, "short")], width=72)
    assert all(len(line) <= 72 for line in text.splitlines())
    assert all(word in text.split() for word in detail.split())
    assert text.endswith("Nothing is missing. Still to do, by `make build`: x.")


def test_the_exit_code_follows_the_findings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for status, code in ((Status.OK, 0), (Status.TODO, 0), (Status.ABSENT, 0), (Status.MISSING, 1)):
        monkeypatch.setattr(doctor, "examine", lambda status=status: [Finding("thing", status, "detail")])
        assert doctor.main([]) == code
        assert "thing" in capsys.readouterr().out
