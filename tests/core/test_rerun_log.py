"""What is put on Rerun's time line, and that its recording can be read."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semantic_matcher_core.cli import main
from semantic_matcher_core.errors import BagError
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.mcap import McapWriter
from semantic_matcher_core.io.messages import header_message, typestore
from semantic_matcher_core.viz.palette import INLIER, OUTLIER
from semantic_matcher_core.viz.rerun_log import _cloud, shown
from tests.conftest import REPOSITORY
from tests.core.test_viz_report import COUNTS, PERIOD, START, features, odometry, write_recording

# The environment that has rerun-sdk: a second one, see .ci/run.
PYTHON = os.environ.get("SEMANTIC_MATCHER_APP_PYTHON") or (sys.executable if importlib.util.find_spec("rerun") else "")


def cloud_message(stamp_ns: int) -> Any:
    kinds = typestore().types
    field = kinds["sensor_msgs/msg/PointField"]
    fields = [field(name, 4 * i, 7, 1) for i, name in enumerate(("x", "y", "z", "confidence"))]
    values = np.array([[1, 2, 3, 0.5], [4, 5, np.nan, 0.7]], "<f4")
    return kinds["sensor_msgs/msg/PointCloud2"](
        header_message(stamp_ns, "c"), 1, 2, fields, False, 16, 32, values.view(np.uint8).ravel(), False
    )


def write_all_kinds(path: Path) -> Path:
    """Images, keypoints and matches; then a way of three places and a cloud."""
    results = write_recording(path.with_name("images.mcap"))
    with BagReader(results) as bag, McapWriter(path) as writer:
        for item in bag.messages([t.name for t in bag.topics]):
            writer.write(item.topic, item.message, item.received_ns)
        for i in range(3):
            header = header_message(START + i * PERIOD, "odom")
            writer.write("/odometry", odometry(header, (float(i), 0.0, 0.0)), START + 10**10 + i)
        writer.write("/points", cloud_message(START), START + 10**10 + 3)
    return path


def test_images_keypoints_and_matches_at_their_stamps(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "results.mcap")
    things = list(shown(path))
    by_kind = {kind: [t for t in things if t.kind == kind] for kind in ("image", "points2", "arrows")}
    assert [len(v) for v in by_kind.values()] == [7, 7, 6] and len(things) == 20
    assert [t.stamp_ns for t in by_kind["image"]] == [START + i * PERIOD for i in range(7)]
    assert all(t.data.startswith(b"\xff\xd8") for t in by_kind["image"])
    # On the image: half a pixel from its corner is the centre of its first pixel.
    first = by_kind["points2"][0]
    assert first.place == "temporal_matcher/image/keypoints" and first.stamp_ns == START
    np.testing.assert_allclose(first.data, features(60, 0).keypoints[0] + 0.5, atol=1e-4)
    for arrows, (count, good) in zip(by_kind["arrows"], COUNTS, strict=True):
        assert arrows.data.shape == (count, 4) and arrows.colours is not None
        assert (arrows.colours == INLIER).all(axis=1).sum() == good
        assert (arrows.colours == OUTLIER).all(axis=1).sum() == count - good


def test_a_path_grows(tmp_path: Path) -> None:
    paths = [t.data.tolist() for t in shown(write_all_kinds(tmp_path / "all.mcap")) if t.kind == "path"]
    assert paths[-1] == [[0, 0, 0], [1, 0, 0], [2, 0, 0]] and len(paths) == 3


def test_points_of_a_cloud() -> None:
    points, confidence = _cloud(cloud_message(1))
    assert points.tolist() == [[1, 2, 3]] and confidence.tolist() == [0.5]


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with McapWriter(tmp_path / "text.mcap") as writer:
        writer.write("/chatter", typestore().types["std_msgs/msg/String"]("hello"), 1)
    with pytest.raises(BagError, match="no results of semantic_matcher"):
        list(shown(tmp_path / "text.mcap"))
    assert main(["view", "x.mcap", "-o", "x.txt"]) == 2
    assert "must end in .rrd" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert main(["view", str(tmp_path / "text.mcap"), "-o", str(tmp_path / "x.rrd")]) == 1
    assert "pip install rerun-sdk" in capsys.readouterr().err
    assert not (tmp_path / "x.rrd").exists()


@pytest.mark.skipif(not PYTHON, reason="no rerun-sdk: pip install rerun-sdk, or name a Python that has it (.ci/run)")
def test_a_recording_for_rerun(tmp_path: Path) -> None:
    results, recording = write_all_kinds(tmp_path / "results.mcap"), tmp_path / "results.rrd"

    def run(*command: str) -> str:
        done = subprocess.run([PYTHON, "-m", *command], capture_output=True, text=True, cwd=REPOSITORY, timeout=800)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = run("semantic_matcher_core.cli", "view", str(results), "-o", str(recording))
    assert said.startswith("24 entries") and recording.read_bytes()[:3] == b"RRF"
    run("rerun", "rrd", "verify", str(recording))
    stored = run("rerun", "rrd", "stats", str(recording))
    image = "temporal_matcher/image"
    for place in (f"{image}/image", f"{image}/keypoints", f"{image}/matches", "world/odometry", "world/points"):
        assert f"/{place}: " in stored
    for component in ("EncodedImage:blob", "Points2D:positions", "Arrows2D:vectors", "LineStrips3D:strips", "Points3D"):
        assert component in stored
    assert "num_rows = 25\n" in stored  # one describes the recording itself
