"""The demo as a user runs it: a real graph in processes of its own, and what it prints and leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.ros.support import default_signals

pytestmark = [pytest.mark.ros, pytest.mark.xdist_group("ros"), pytest.mark.usefixtures("ros")]

# For a whole run on a busy machine; nothing waits that long when it works.
TIMEOUT_S = 240.0


class Demo:
    """The demo in a process, with a mark in the environment by which all processes it started can be found."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        self.mark = uuid.uuid4().hex
        self.output = folder / "demo"
        environment = {k: v for k, v in os.environ.items() if k != "SEMANTIC_MATCHER_WEIGHTS"}
        environment |= {"SEMANTIC_MATCHER_HOME": str(folder / "home"), "DEMO_TEST_MARK": self.mark, **variables}
        self._log = folder / "demo.log"
        with open(self._log, "wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "semantic_matcher.demo", "--output", str(self.output), *arguments],
                env=environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
                # A group of its own, as a shell gives it.
                start_new_session=True,
                preexec_fn=default_signals,
            )

    @property
    def printed(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the demo did not end:\n{self.printed}") from None

    def children(self) -> list[int]:
        """Processes that carry the mark, without the demo itself and those that have ended."""
        mark = f"DEMO_TEST_MARK={self.mark}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == self.process.pid:
                continue
            try:
                if mark in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:  # ended while we looked
                continue
        return found

    def until(self, condition: Callable[[], object], what: str, timeout: float = TIMEOUT_S) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout:.0f} s for {what}:\n{self.printed}"
            time.sleep(0.05)


def test_the_synthetic_demo(tmp_path: Path) -> None:
    demo = Demo(tmp_path, "--frames", "6", "--rate", "2", "--max-keypoints", "1000")
    assert demo.wait() == 0, demo.printed
    printed = demo.printed

    variant = [line for line in printed.splitlines() if line.startswith("variant")]
    assert variant == ["variant plain:compact: descriptors alone; to match with semantics: make demo VARIANT=compact"]
    assert re.search(r"ROS_DOMAIN_ID=\d+", printed)
    assert str(demo.output / "matches.png") in printed and str(demo.output / "matches.mcap") in printed

    report = json.loads((demo.output / "report.json").read_text())
    for mode, partnerless in (("temporal", 1), ("stereo", 0)):
        row = report[mode]
        assert row["frames"] == 6
        assert row["matched"] >= 2
        assert row["matched"] + row["dropped"] + partnerless == 6
        assert 300 < row["keypoints"] <= 1000
        assert 100 < row["matches"] < row["keypoints"]
        assert row["correct"] > 0.9
        assert 0 < row["latency_ms"] <= row["latency_p95_ms"]
        line = next(line for line in printed.splitlines() if line.split()[:1] == [mode])
        assert line.split()[1:7] == [
            "6",
            str(row["matched"]),
            str(row["dropped"]),
            str(row["keypoints"]),
            str(row["matches"]),
            f"{row['correct']:.1%}",
        ]
    _check_synthetic_recording(demo.output / "matches.mcap", report)
    # It ends by naming the page.
    assert printed.splitlines()[-1].startswith(f"open     {demo.output / 'report.html'}")
    assert (demo.output / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    picture = cv2.imread(str(demo.output / "matches.png"))
    assert picture is not None and picture.shape[0] >= 960 and picture.shape[1] >= 1280
    assert demo.children() == []
    assert not list(demo.output.glob(".*")), "temporary files were left"


def _check_synthetic_recording(path: Path, report: dict[str, dict[str, float]]) -> None:
    from rosbags.rosbag2 import Reader

    from semantic_matcher_core.io.bags import BagReader

    with BagReader(path) as bag:
        counts = {topic.name: topic.count for topic in bag.topics}
        types = {topic.name: topic.msgtype for topic in bag.topics}
        images = list(bag.images(["/camera/image/compressed"]))
        keypoints = [item.message for item in bag.messages(["/temporal_matcher/keypoints"])]
        descriptors = [item.message for item in bag.messages(["/temporal_matcher/descriptors"])]
    for topic in ("/camera/image", "/left/image", "/right/image"):
        assert counts[f"{topic}/compressed"] == 6
        assert types[f"{topic}/compressed"] == "sensor_msgs/msg/CompressedImage"
    assert counts["/temporal_matcher/matches"] == report["temporal"]["matched"]
    assert counts["/stereo_matcher/matches"] == report["stereo"]["matched"]
    for topic, msgtype in (
        ("/temporal_matcher/keypoints", "Keypoints"),
        ("/temporal_matcher/descriptors", "Descriptors"),
        ("/stereo_matcher/left/keypoints", "Keypoints"),
        ("/stereo_matcher/right/descriptors", "Descriptors"),
        ("/stereo_matcher/matches", "Matches"),
    ):
        assert counts[topic] >= 2
        assert types[topic] == f"semantic_matcher_msgs/msg/{msgtype}"
    assert counts["/temporal_matcher/debug_image/compressed"] >= 2
    assert counts["/stereo_matcher/debug_image/compressed"] >= 2
    assert counts["/diagnostics"] >= 2
    assert images[0].decode().shape == (480, 640, 3)
    assert images[0].frame_id == "camera_optical_frame"
    assert (keypoints[0].width, keypoints[0].height) == (640, 480)
    assert (descriptors[0].variant, descriptors[0].dim) == ("plain:compact", 128)
    assert len(descriptors[0].data) == 128 * len(keypoints[0].scores)
    # Foxglove reads messages by the definitions in the file.
    with Reader(path) as reader:
        definitions = {c.topic: c.msgdef.data for c in reader.connections}
    assert "float32[] xy0" in definitions["/temporal_matcher/matches"]
    assert "builtin_interfaces/Time stamp" in definitions["/temporal_matcher/matches"]


def write_views(folder: Path, number: int) -> None:
    """Write images of the synthetic sequence."""
    from semantic_matcher.demo.sequences import temporal

    sequence = temporal()
    for index in range(number):
        (image,) = sequence.images(2 * index)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def test_a_folder_of_images(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_views(folder, 5)
    arguments = ("--input", str(folder), "--rate", "3", "--max-keypoints", "600", "--no-descriptors")
    demo = Demo(tmp_path, "--variant", "plain:sift", *arguments)
    assert demo.wait() == 0, demo.printed
    (variant,) = [line for line in demo.printed.splitlines() if line.startswith("variant")]
    assert variant == "variant plain:sift: descriptors alone; to match with semantics: make demo VARIANT=compact"
    assert f"playing 5 images of {folder}" in demo.printed
    report = json.loads((demo.output / "report.json").read_text())
    assert set(report) == {"variant", "start_s", "temporal"}
    row = report["temporal"]
    assert row["frames"] == 5 and row["matched"] >= 2
    assert row["correct"] is None
    # The images are of one plane.
    assert row["homography"] > 0.9 and row["epipolar"] > 0.9
    from semantic_matcher_core.io.bags import BagReader

    with BagReader(demo.output / "matches.mcap") as bag:
        counts = {topic.name: topic.count for topic in bag.topics}
    assert counts["/camera/image/compressed"] == 5
    assert counts["/temporal_matcher/matches"] == row["matched"]
    assert counts["/temporal_matcher/debug_image/compressed"] >= 1
    assert not any("stereo" in name for name in counts)
    assert not any("descriptors" in name for name in counts)
    assert (demo.output / "matches.png").is_file()


@pytest.mark.parametrize("when", ["starting", "playing"])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, when: str) -> None:
    demo = Demo(tmp_path, "--frames", "500")
    if when == "starting":
        demo.until(lambda: len(demo.children()) >= 4, "all processes of the graph")
    else:
        matcher_log = demo.output / "logs" / "temporal_matcher.log"
        demo.until(lambda: matcher_log.is_file() and "active, waiting" in matcher_log.read_text(), "the matcher")
        time.sleep(0.5)
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait() == 130
    assert "interrupted" in demo.printed and "Traceback" not in demo.printed
    assert demo.children() == []


def test_a_killed_demo_takes_its_processes_along(tmp_path: Path) -> None:
    demo = Demo(tmp_path, "--frames", "500")
    demo.until(lambda: len(demo.children()) >= 4, "all processes of the graph")
    demo.process.kill()
    demo.process.wait()
    demo.until(lambda: demo.children() == [], "the processes of a killed demo to end")


def test_what_cannot_be_played_is_said_before_anything_starts(tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    cv2.imwrite(str(one / "a.png"), np.zeros((40, 40, 3), np.uint8))
    for arguments, words in (
        (("--input", str(tmp_path / "nothing")), "there is no .*nothing; give a video, a folder of images, or a bag"),
        (("--input", str(one)), "holds one image; matching needs two or more"),
        (("--topic", "/camera"), "--topic /camera has no meaning without --input"),
    ):
        demo = Demo(tmp_path, *arguments)
        assert demo.wait() == 1
        assert re.search(f"error: .*{words}", demo.printed), demo.printed
        assert not demo.output.exists()


def test_the_input_is_not_overwritten(tmp_path: Path) -> None:
    recording = tmp_path / "demo" / "matches.mcap"
    recording.parent.mkdir()
    recording.write_bytes(b"precious")
    demo = Demo(tmp_path, "--input", str(recording))
    assert demo.wait() == 1
    assert "is what the demo would overwrite" in demo.printed
    assert recording.read_bytes() == b"precious"


def test_a_matcher_that_fails_is_shown_with_its_last_words(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "xfeat.pt").write_bytes(b"no weights")
    demo = Demo(tmp_path, "--variant", "plain:xfeat", SEMANTIC_MATCHER_WEIGHTS=str(weights))
    assert demo.wait() == 1
    assert re.search(r"error: (temporal|stereo)_matcher ended with exit code 1; its last lines", demo.printed)
    assert "variant plain:xfeat" in demo.printed
    assert "xfeat.pt" in demo.printed
    assert "Traceback" not in demo.printed
    assert demo.children() == []
    assert not (demo.output / "matches.mcap").exists() or (demo.output / "matches.mcap").stat().st_size > 0
