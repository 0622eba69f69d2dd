"""Build ros_ws with colcon; does nothing while its sources and the environment are the same."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path

from tools.messages import SetupError, run_main, say
from tools.ros_env import environment, ros_of
from tools.setup_venv import REPOSITORY, STAMP
from tools.stamps import digest, exclusive, read_stamp, write_stamp

BUILD_STAMP = "semantic_matcher.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=REPOSITORY / ".venv", help="folder of the virtual environment")
    venv = parser.parse_args().venv.absolute()
    ros = ros_of(venv)
    workspace = REPOSITORY / "ros_ws"
    with exclusive(workspace / "build" / ".semantic_matcher.lock"):
        build(workspace, venv, ros)
    return 0


def build(workspace: Path, venv: Path, ros: str) -> bool:
    """Bring ``workspace/install`` up to date; returns whether there was anything to do.

    colcon leaves behind what a package no longer has, so the packages whose sources changed start from nothing. The
    node package is rebuilt in seconds; the message package and with it everything after a change of messages or of
    the environment.
    """
    environment_key = digest(str(venv), read_stamp(venv / STAMP).get("workspace_key"), files=[Path(__file__)])
    packages = {
        p.parent.name: digest(files=source_files(p.parent)) for p in sorted(workspace.glob("src/*/package.xml"))
    }
    stamp_path = workspace / "build" / BUILD_STAMP
    stamp = read_stamp(stamp_path)
    now = {"environment": environment_key, "packages": packages}
    if stamp == now and (workspace / "install" / "setup.sh").exists():
        return False
    built = stamp.get("packages", {}) if stamp.get("environment") == environment_key else {}
    interfaces_changed = any(
        built.get(name) != key for name, key in packages.items() if _has_interfaces(workspace / "src" / name)
    )
    keep = set() if interfaces_changed else {name for name, key in packages.items() if built.get(name) == key}
    clear(workspace, keep)
    say(f"building {', '.join(name for name in packages if name not in keep) or 'ros_ws'} with colcon")
    run_colcon(workspace, venv, ros)
    write_stamp(stamp_path, now)
    return True


def source_files(package: Path) -> list[Path]:
    """Return the files of a package, without what tools leave beside them."""
    skipped = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
    return [
        file
        for file in package.rglob("*")
        if file.is_file() and file.suffix != ".pyc" and not skipped.intersection(file.relative_to(package).parts)
    ]


def clear(workspace: Path, keep: set[str]) -> None:
    """Remove what was built of every package that is not in ``keep``, packages that are no more included."""
    for folder in (workspace / "build", workspace / "install"):
        if not folder.is_dir():
            continue
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink() and entry.name not in keep:
                shutil.rmtree(entry)


def run_colcon(workspace: Path, venv: Path, ros: str) -> None:
    """Run ``colcon build`` in the environment of ``venv`` without the workspace itself."""
    env = environment(venv, None, os.environ, ros)
    # setuptools announces in every build that the command colcon calls will go; requirements/build.txt sees to it.
    env.setdefault("PYTHONWARNINGS", "ignore:setup.py install is deprecated,ignore:easy_install command is deprecated")
    # colcon would add a limit of the load, by which a busy machine compiles one file after the other.
    env["MAKEFLAGS"] = f"-j{os.environ.get('CMAKE_BUILD_PARALLEL_LEVEL') or os.cpu_count()}"
    python = venv / "bin" / "python"
    command = [
        "colcon", "--log-base", "log", "--log-level", "error", "build", "--base-paths", "src",
        "--event-handlers", "console_start_end+", "desktop_notification-",
        "--cmake-args", f"-DPython3_EXECUTABLE={python}", "-DBUILD_TESTING=OFF", "-Wno-dev",
    ]  # fmt: skip
    if not shutil.which("colcon", path=env["PATH"]):
        raise SetupError("colcon is not there; run `make setup`")
    done = subprocess.run(command, cwd=workspace, env=env)
    if done.returncode != 0:
        raise SetupError(f"colcon build failed with exit code {done.returncode}; its logs are in {workspace / 'log'}")


def _has_interfaces(package: Path) -> bool:
    return any((package / folder).is_dir() for folder in ("msg", "srv", "action"))


if __name__ == "__main__":
    run_main(main)
