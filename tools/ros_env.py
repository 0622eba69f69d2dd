"""The environment of the built workspace: for a command, or as lines a shell reads (`source tools/env.sh`)."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from tools.messages import SetupError, run_main
from tools.setup_venv import REPOSITORY, STAMP
from tools.stamps import read_stamp

# What `--shell` prints; everything else in the environment is left as it is.
VARIABLES = (
    "PATH",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "AMENT_PREFIX_PATH",
    "CMAKE_PREFIX_PATH",
    "RMW_IMPLEMENTATION",
    "ROS_VERSION",
    "ROS_DISTRO",
    "VIRTUAL_ENV",
    "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
)


def environment(
    venv: Path, workspace: Path | None, base: Mapping[str, str], ros: str, distro_of_wheels: str = "jazzy"
) -> dict[str, str]:
    """Return ``base`` with the virtual environment, ROS and the built workspace in front.

    Args:
        venv: the virtual environment.
        workspace: folder whose ``install`` holds built packages; ``None`` leaves it out, as its own build needs.
        base: the environment to start from.
        ros: ``"wheels"``, or the name of the distribution that ``base`` has sourced.
        distro_of_wheels: the distribution the wheels are built from.
    """
    result = dict(base)
    packages = installed_packages(workspace) if workspace else []
    python_folders = [p for package in packages for p in _python_folders(package)]
    libraries = [package / "lib" for package in packages if (package / "lib").is_dir()]
    # The nodes themselves: `ros2 run` finds them here, but the wheels have no `ros2`.
    nodes = [package / "lib" / package.name for package in packages]
    prepend(result, "PATH", [venv / "bin", *(folder for folder in nodes if folder.is_dir())])
    result["VIRTUAL_ENV"] = str(venv)
    if ros == "wheels":
        # The wheels are the whole of ROS here. What a half-sourced distribution left would be mixed in otherwise.
        for name in ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "COLCON_PREFIX_PATH"):
            result.pop(name, None)
        prefixes = [*packages, venv]
        libraries += [venv / "lib", *sorted(venv.glob("lib/python3.*/site-packages/ros_*.libs"))]
        result.update(ROS_VERSION="2", ROS_DISTRO=distro_of_wheels, RMW_IMPLEMENTATION="rmw_fastrtps_cpp")
        # The wheels restart Python to set LD_LIBRARY_PATH unless this says that it is set.
        result["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] = "1"
    else:
        prefixes = packages
    prepend(result, "AMENT_PREFIX_PATH", prefixes)
    prepend(result, "CMAKE_PREFIX_PATH", prefixes)
    prepend(result, "PYTHONPATH", python_folders)
    prepend(result, "LD_LIBRARY_PATH", libraries)
    return result


def prepend(env: dict[str, str], name: str, folders: Iterable[Path]) -> None:
    """Put ``folders`` in front of a path variable, each once; the variable stays away when there is nothing in it."""
    parts = dict.fromkeys([*map(str, folders), *(part for part in env.get(name, "").split(os.pathsep) if part)])
    if parts:
        env[name] = os.pathsep.join(parts)


def installed_packages(workspace: Path) -> list[Path]:
    """Return the prefixes of the packages that colcon installed, one folder each."""
    return sorted(
        marker.parents[4] for marker in workspace.glob("install/*/share/ament_index/resource_index/packages/*")
    )


def ros_of(venv: Path) -> str:
    """Return ``"wheels"`` or a distribution's name, as the set-up recorded it.

    Raises:
        SetupError: the set-up has not been completed, or the distribution it used is not sourced now.
    """
    ros = read_stamp(venv / STAMP).get("ros")
    if not ros:
        raise SetupError(f"{venv} is not set up; run `make setup`")
    if ros != "wheels" and os.environ.get("ROS_DISTRO") != ros:
        raise SetupError(
            f"{venv} was set up for ROS {ros}; source /opt/ros/{ros}/setup.bash first, or run `make setup`"
        )
    return str(ros)


def shell_lines(env: Mapping[str, str], base: Mapping[str, str]) -> list[str]:
    """Return ``export`` lines, for sh, bash and zsh, of what differs from ``base``."""
    changed = [
        f"export {name}={shlex.quote(env[name])}"
        for name in VARIABLES
        if env.get(name) != base.get(name) and name in env
    ]
    return changed + [f"unset {name}" for name in VARIABLES if name in base and name not in env]


def _python_folders(package: Path) -> list[Path]:
    # Debian's Python installs to local/lib/…/dist-packages, others to lib/…/site-packages.
    patterns = ("lib/python3*/site-packages", "lib/python3*/dist-packages", "local/lib/python3*/dist-packages")
    return [folder for pattern in patterns for folder in sorted(package.glob(pattern))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=REPOSITORY / ".venv", help="folder of the virtual environment")
    parser.add_argument("--shell", action="store_true", help="print lines for a shell instead of running a command")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- command to run")
    arguments = parser.parse_args()
    venv = arguments.venv.absolute()
    env = environment(venv, REPOSITORY / "ros_ws", os.environ, ros_of(venv))
    if arguments.shell:
        print("\n".join(shell_lines(env, os.environ)))
        return 0
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        parser.error("give a command after --, or --shell")
    sys.stdout.flush()
    try:
        os.execvpe(command[0], command, env)
    except FileNotFoundError as error:
        raise SetupError(f"command {command[0]!r} is not there: {error}") from error


if __name__ == "__main__":
    run_main(main)
