"""What can be told of the container's files without an engine that builds it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER = REPOSITORY / "docker"


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def test_the_image_is_built_from_what_is_here() -> None:
    found = instructions()
    assert [name for name, _ in found[:2]] == ["ARG", "FROM"]
    arguments = {value.partition("=")[0] for name, value in found if name in ("ARG", "ENV")}
    used = {match for _, value in found for match in re.findall(r"\$\{(\w+)\}", value)}
    assert used <= arguments
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    wanted = [target for _, value in found for target in re.findall(r"\bmake ([a-z][a-z-]*) ", value)]
    assert wanted == ["build"] and set(wanted) <= set(targets)
    folder = next(value for name, value in found if name == "WORKDIR")
    entry = next(value for name, value in found if name == "ENTRYPOINT").strip('[]"')
    assert entry.startswith(f"{folder}/") and (REPOSITORY / entry.removeprefix(f"{folder}/")).is_file()


def test_what_is_built_here_is_not_copied() -> None:
    # Built for this machine's paths: copied along, it would be taken for up to date.
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().split()
    assert {".venv", "ros_ws/build", "ros_ws/install", "build"} <= set(ignored)


def test_the_entry_point_sources_and_hands_over(tmp_path: Path) -> None:
    distribution = tmp_path / "opt" / "ros" / "test"
    distribution.mkdir(parents=True)
    (distribution / "setup.bash").write_text("export SOURCED=distribution\n")
    (tmp_path / "docker").mkdir()
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "env.sh").write_text('export SOURCED="$SOURCED and workspace"\n')
    script = (DOCKER / "entrypoint.sh").read_text()
    assert os.access(DOCKER / "entrypoint.sh", os.X_OK)
    copy = tmp_path / "docker" / "entrypoint.sh"
    copy.write_text(script.replace("/opt/ros/", f"{tmp_path}/opt/ros/"))
    done = subprocess.run(
        ["bash", str(copy), "sh", "-c", 'echo "$SOURCED: $1"; exit 7', "sh", "two words"],
        env={"ROS_DISTRO": "test", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "distribution and workspace: two words\n", "")
