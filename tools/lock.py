"""Write requirements/lock.txt: the exact versions of everything that is installed, for the set-up to repeat."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from tools.messages import SetupError, run_main, say
from tools.ros_env import ros_of
from tools.setup_venv import REPOSITORY, STAMP, lock_for
from tools.stamps import read_stamp

HEADER = """\
# Exact versions of everything the set-up installs where no ROS distribution is sourced. Written by `make lock`.
# torch is not here: the Makefile's TORCH says which build is wanted.
"""


def lockable(freeze: str) -> list[str]:
    """Return the lines of ``pip list --format=freeze`` that pin a package of the index."""
    # The importable ROS packages show up a second time, with the metadata that CMake wrote under their ROS names.
    pins = dict(line.split("==", 1) for line in freeze.splitlines() if "==" in line)
    from_wheels = {name.removeprefix("ros-") for name in pins if name.startswith("ros-")}
    own = {"torch", "pip", "setuptools", "semantic-matcher"}
    return sorted(
        (f"{name}=={version}" for name, version in pins.items() if _skip(name) not in own | from_wheels),
        key=str.lower,
    )


def _skip(name: str) -> str:
    return name.lower().replace("_", "-")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=REPOSITORY / ".venv", help="folder of the virtual environment")
    venv = parser.parse_args().venv.absolute()
    if ros_of(venv) != "wheels":
        raise SetupError("the lock is for ROS from wheels; run this in a shell where no ROS distribution is sourced")
    command = [str(venv / "bin" / "python"), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode != 0:
        raise SetupError(f"pip list failed: {done.stderr.strip()}")
    lines = lockable(done.stdout)
    lock = lock_for(read_stamp(venv / STAMP)["identity"]["python"]["version"])
    lock.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    say(f"{len(lines)} versions written to {lock}")
    return 0


if __name__ == "__main__":
    run_main(main)
