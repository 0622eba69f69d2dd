"""Which Python the virtual environment is made from, and whether ROS comes from a distribution or from wheels."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from tools.messages import SetupError

OLDEST, NEWEST = (3, 10), (3, 13)  # those of the ROS wheels
# Distributions whose rclpy lacks what the nodes call: events of matching, callbacks round the setting of parameters.
TOO_OLD = ("foxy", "galactic", "humble", "iron")

# Run by the candidate itself; must be understood by any Python 3.
_PROBE = """
import importlib.util, json, os, sys, sysconfig
def version(name):
    try:
        return __import__(name).__version__
    except Exception:
        return None
sourced = bool(os.environ.get("ROS_DISTRO"))
base = getattr(sys, "_base_executable", None) or sys.executable
if base == sys.executable and sys.prefix != sys.base_prefix:  # in virtual environments before Python 3.11
    base = os.path.realpath(base)
found = sourced and importlib.util.find_spec("rclpy") is not None
print(json.dumps({
    "executable": sys.executable,
    "base": base,
    "version": list(sys.version_info[:3]),
    "headers": os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")),
    "ensurepip": importlib.util.find_spec("ensurepip") is not None,
    "ros_distro": os.environ["ROS_DISTRO"] if found else None,
    "numpy": version("numpy") if found else None,
    "opencv": version("cv2") if found else None,
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python that was started and asked.

    ``ros_distro`` is set where a ROS distribution is sourced and this Python imports its rclpy; ``numpy`` and
    ``opencv`` are then the versions this Python sees, which the distribution's compiled modules were built for.
    """

    executable: str
    version: tuple[int, int, int]
    headers: bool
    ensurepip: bool
    ros_distro: str | None = None
    numpy: str | None = None
    opencv: str | None = None

    @property
    def supported(self) -> bool:
        return OLDEST <= self.version[:2] <= NEWEST and self.ros_distro not in TOO_OLD

    @property
    def label(self) -> str:
        return f"Python {'.'.join(map(str, self.version))} ({self.executable})"

    def identity(self) -> dict[str, object]:
        """Return what an environment made from it depends on, whichever of its names it was found by."""
        return {**asdict(self), "executable": os.path.realpath(self.executable), "version": list(self.version)}


def probe(command: str, env: Mapping[str, str] | None = None) -> Interpreter | None:
    """Start ``command`` and ask it; ``None`` if it is not there or is no working Python 3.

    The Python of a virtual environment answers for the one it was made from, so that the choice does not depend on
    what happens to be activated.
    """
    path = shutil.which(command, path=(env or os.environ).get("PATH"))
    if path is None:
        return None
    # The bytecode cache is left alone: the candidate may be an interpreter whose folders are not ours to write to.
    environment = {**(os.environ if env is None else env), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run([path, "-c", _PROBE], capture_output=True, text=True, timeout=60, env=environment)
        answer = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return None  # a shim of a version manager, a broken installation, Python 2
    base = answer.pop("base")
    if os.path.dirname(base) != os.path.dirname(answer["executable"]) and base != command:
        return probe(base, env)
    return Interpreter(**{**answer, "version": tuple(answer["version"])})


def choose(wanted: str = "", env: Mapping[str, str] | None = None) -> Interpreter:
    """Return the interpreter to build on.

    Args:
        wanted: the user's ``PYTHON``; nothing else is tried when it is given.
        env: environment to look in (default: this process's).

    With a ROS distribution sourced, only a Python that imports its rclpy will do if there is one: rclpy is a compiled
    module and works with the distribution's own Python alone.

    Raises:
        SetupError: no supported Python, or one that cannot make virtual environments or compile extensions.
    """
    if wanted:
        found = probe(wanted, env)
        if found is None:
            raise SetupError(f"PYTHON={wanted} is not a working Python 3; give the path of one")
        return _usable(found)
    found_so_far: list[Interpreter] = []
    sourced = bool((os.environ if env is None else env).get("ROS_DISTRO"))
    for candidate in _probe_all(_candidate_names(), env):
        if candidate.supported and (candidate.ros_distro or not sourced):
            return _usable(candidate)
        found_so_far.append(candidate)
    with_ros = [candidate for candidate in found_so_far if candidate.ros_distro]
    supported = [candidate for candidate in found_so_far if candidate.supported]
    if supported and not with_ros:
        return _usable(supported[0])
    span = f"{_dotted(OLDEST)} to {_dotted(NEWEST)}"
    if with_ros:
        raise SetupError(
            f"ROS {with_ros[0].ros_distro} is sourced and its Python is {_dotted(with_ros[0].version)}, but Jazzy or "
            f"later and {span} are needed; use a newer distribution, or a shell without ROS sourced to get ROS from "
            "wheels"
        )
    seen = ", ".join(candidate.label for candidate in found_so_far) or "none"
    raise SetupError(
        f"Python {span} is needed, found {seen}; install one (Debian package python3, python3-venv and python3-dev) "
        "or name it with PYTHON=/path/to/python3"
    )


def _usable(found: Interpreter) -> Interpreter:
    if found.ros_distro in TOO_OLD:
        raise SetupError(
            f"{found.label} is that of ROS {found.ros_distro}, which is sourced; the nodes need Jazzy or later. Use a "
            "newer distribution, or a shell without ROS sourced to get ROS from wheels"
        )
    if not found.supported:
        raise SetupError(f"{found.label} will not do: Python {_dotted(OLDEST)} to {_dotted(NEWEST)} is needed")
    if not found.ensurepip:
        raise SetupError(f"{found.label} cannot make virtual environments; install the Debian package python3-venv")
    if not found.headers:
        raise SetupError(
            f"{found.label} has no C headers (Python.h), which the message package needs; "
            "install the Debian package python3-dev"
        )
    return found


def _candidate_names() -> list[str]:
    numbered = [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    # The absolute path: a distribution's rclpy belongs to the system's Python, which another may hide in PATH.
    return ["python3", "/usr/bin/python3", *numbered, "python"]


def _probe_all(names: Iterable[str], env: Mapping[str, str] | None) -> Iterable[Interpreter]:
    seen: set[str] = set()
    for name in names:
        found = probe(name, env)
        if found is not None and found.executable not in seen:
            seen.add(found.executable)
            yield found


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
