"""Fixtures of the tests against a real ROS graph; without ROS they are skipped, saying what is missing."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.ros.interfaces import Interfaces
    from tests.ros.support import Client

# Without semantics and on one thread: starts fast, and leaves cores to the other processes of the graph.
PLAIN_SIFT = {"variant": "plain:sift", "max_keypoints": 500, "torch_threads": 1, "diagnostics_period": 0.2}


def _require_ros() -> None:
    for module in ("rclpy", "semantic_matcher_msgs", "semantic_matcher"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} cannot be imported: source a built workspace, or run `make test`")


@pytest.fixture(scope="session")
def ros(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Skips where there is no ROS; sets Fast DDS up for camera images, for this process and those it starts."""
    _require_ros()
    from semantic_matcher.fastdds_profile import large_message_environment
    from semantic_matcher.orphaned_memory import remove_orphaned_segments

    os.environ.update(large_message_environment())
    # Or every process writes a log file below the user's home.
    os.environ["ROS_LOG_DIR"] = str(tmp_path_factory.mktemp("ros_log"))
    yield
    # Of processes that tests killed.
    remove_orphaned_segments()


@pytest.fixture
def client(ros: None) -> Iterator[Client]:
    """A node in this process to feed and hear others with."""
    from tests.ros.support import Client

    instance = Client()
    yield instance
    instance.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file for what a node prints."""
    return tmp_path / "node.log"


@pytest.fixture(scope="session")
def interfaces(ros: None, tmp_path_factory: pytest.TempPathFactory) -> Interfaces:
    """Messages of packages that no wheel has, which takes some seconds to make; skips where that is not possible."""
    from tests.ros.interfaces import build

    return build(tmp_path_factory.mktemp("interfaces"))


@pytest.fixture
def interfaces_here(interfaces: Interfaces) -> Iterator[dict[str, str]]:
    """The same, importable in this process; the environment of processes that have them."""
    with interfaces.here():
        yield interfaces.environment
