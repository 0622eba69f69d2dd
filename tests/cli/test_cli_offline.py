"""``semantic-matcher bag``, ``video`` and ``images``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semantic_matcher_core.cli import main
from semantic_matcher_core.cli.offline import bag_command
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.images import write_image
from semantic_matcher_core.io.mcap import McapWriter
from semantic_matcher_core.io.messages import stamp_of, typestore
from semantic_matcher_core.io.video import VideoWriter
from tests.core.recordings import topics, view, write_camera_bag, write_stereo_bag

SIFT = ["--variant", "plain:sift", "--device", "cpu", "--max-keypoints", "100"]


def test_bag(tmp_path: Path, textured_image: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 4, broken=(2,))
    output = tmp_path / "out.mcap"
    arguments = ["bag", str(bag), "-o", str(output), "-t", "/camera/image", "--geometry", "homography", *SIFT]
    assert main([*arguments, "--hdf5", "--colmap", "--descriptors"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"wrote {output}: 3 images, 2 pairs, ") and "left out 1 unreadable" in captured.out
    assert captured.err.startswith("left out: image 2 of /camera/image")
    assert topics(output) == {
        "/camera/image/compressed": 3,
        "/semantic_matcher/run": 1,
        "/temporal_matcher/descriptors": 3,
        "/temporal_matcher/keypoints": 3,
        "/temporal_matcher/matches": 2,
    }
    expected = ["in.mcap", "out.colmap", "out.features.h5", "out.matches.h5", "out.mcap"]
    assert sorted(p.name for p in tmp_path.iterdir()) == expected
    assert main([*arguments, "--hdf5", "--colmap", "--descriptors"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == f"{output} is complete already\n"


def test_the_bags_only_image_topic_needs_no_name(
    tmp_path: Path, textured_image: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 2)
    assert main(["bag", str(bag), "-o", str(tmp_path / "out.mcap"), "--write-images", "none", *SIFT]) == 0
    assert "/camera/image/compressed" not in topics(tmp_path / "out.mcap")
    stereo = write_stereo_bag(tmp_path / "stereo.mcap", textured_image, 2)
    assert main(["bag", str(stereo), "-o", str(tmp_path / "no.mcap"), *SIFT]) == 1
    assert "several image topics, name one; image topics: /left/image (2 of Image)" in capsys.readouterr().err


def test_stereo_bag(tmp_path: Path, textured_image: np.ndarray) -> None:
    bag = write_stereo_bag(tmp_path / "in.mcap", textured_image, 3, offset_ns=3_000_000)
    arguments = ["bag", str(bag), "-o", str(tmp_path / "out.mcap"), "--mode", "stereo", "--namespace", "robot", *SIFT]
    assert main([*arguments, "-t", "/left/image", "-t", "/right/image", "--slop", "0.005"]) == 0
    assert topics(tmp_path / "out.mcap")["/robot/stereo_matcher/matches"] == 3


def test_reference_bag(tmp_path: Path, textured_image: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 2)
    write_image(tmp_path / "ref.png", view(textured_image, 0))
    arguments = ["bag", str(bag), "-o", str(tmp_path / "out.mcap"), "--mode", "reference", *SIFT]
    assert main([*arguments, "--reference", str(tmp_path / "ref.png")]) == 0
    assert topics(tmp_path / "out.mcap")["/reference_matcher/matches"] == 2
    assert main([*arguments, "--overwrite"]) == 2
    assert "--mode reference and --reference IMAGE belong together" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_several_bags_into_a_folder(
    tmp_path: Path, textured_image: np.ndarray, jobs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bags = [write_camera_bag(tmp_path / f"{name}.mcap", textured_image, 2) for name in ("day1", "day2")]
    (tmp_path / "cut.mcap").write_bytes(bags[0].read_bytes()[:3000])
    names = [str(bags[0]), str(tmp_path / "cut.mcap"), str(bags[1])]
    assert main(["bag", *names, "-o", str(tmp_path / "results"), "--jobs", jobs, *SIFT]) == 1
    captured = capsys.readouterr()
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == ["day1.mcap", "day2.mcap"]
    assert captured.out.count("wrote ") == 2
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ") and "cannot read bag" in line and "cut.mcap" in line


def test_ranks_of_torchrun_share_the_bags(
    tmp_path: Path, textured_image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    bags = [str(write_camera_bag(tmp_path / f"{i}.mcap", textured_image, 2)) for i in range(3)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["bag", *bags, "-o", str(tmp_path / "results"), *SIFT]) == 0
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["1.mcap"]


def test_video(tmp_path: Path, textured_image: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tmp_path / "clip.avi"
    with VideoWriter(clip, 10) as writer:
        for i in range(5):
            writer.write(view(textured_image, i))
    assert main(["video", str(clip), "-o", str(tmp_path / "out.mcap"), "--every", "2", *SIFT]) == 0
    assert "3 images, 2 pairs" in capsys.readouterr().out
    arguments = ["video", str(clip), str(clip), "-o", str(tmp_path / "stereo.mcap"), "--mode", "stereo", *SIFT]
    assert main(arguments) == 0
    assert "10 images, 5 pairs" in capsys.readouterr().out
    assert main(["video", str(tmp_path / "absent.mp4"), "-o", str(tmp_path / "no.mcap"), *SIFT]) == 1
    assert "no such video file" in capsys.readouterr().err


def test_images(tmp_path: Path, textured_image: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    for side, disparity in (("left", 0), ("right", 5)):
        (tmp_path / side).mkdir()
        for i in range(3):
            write_image(tmp_path / side / f"{100 + i}.5.png", view(textured_image, i, disparity))
    left, right = str(tmp_path / "left"), str(tmp_path / "right")
    assert main(["images", left, "-o", str(tmp_path / "l.mcap"), "--stamps-from-names", "--colmap", *SIFT]) == 0
    with BagReader(tmp_path / "l.mcap") as bag:
        stamps = [stamp_of(m.message.header) for m in bag.messages(["/temporal_matcher/matches"])]
    assert stamps == [101_500_000_000, 102_500_000_000]
    assert [p.name for p in (tmp_path / "l.colmap").iterdir()] == ["database.db"]
    assert main(["images", left, right, "-o", str(tmp_path / "s.mcap"), "--mode", "stereo", *SIFT]) == 0
    assert topics(tmp_path / "s.mcap")["/stereo_matcher/matches"] == 3
    assert main(["images", str(tmp_path / "absent"), "-o", str(tmp_path / "no.mcap"), *SIFT]) == 1
    assert "no such image file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        (["--mode", "spatial"], 2, "unknown mode 'spatial'; use one of temporal, stereo, reference"),
        (["--mode", "stereo"], 2, "needs a left and a right stream, got 1"),
        (["--mode", "reference"], 2, "--mode reference and --reference IMAGE belong together"),
        (["--reference-policy", "sometimes"], 2, "unknown reference policy 'sometimes'"),
        (["--reference-policy", "keyframe", "--min-overlap", "2"], 2, "min_overlap must be from 0 to 1"),
        (["--write-images", "png"], 2, "unknown choice of images 'png'"),
        (["--image-topic", "/front"], 1, "has no topic '/front'; image topics: /camera/image (2 of Image)"),
        (["--image-topic", "camera/imag"], 1, "no topic 'camera/imag'; did you mean '/camera/image'? image topics: "),
        (
            ["--descriptors", "--descriptor-dtype", "int8"],
            2,
            "descriptor_dtype = 'int8' is refused: expected one of 'float32', 'float16'",
        ),
        (["--output", "-"], 2, "must end in .mcap, or be a folder"),
        (["--output", "out.bag"], 2, "must end in .mcap, or be a folder"),
        (["--output", "missing/out.mcap"], 1, "folder missing does not exist; create it first"),
        (["--output", "missing/folder"], 1, "missing does not exist; create it first"),
        (["--device", "cuda:7"], 1, "cuda:7"),
        (["--device", "mps"], 2, "unknown device 'mps'"),
        (["--namespace", "my robot"], 2, "namespace 'my robot' is none"),
        (["--namespace", "2nd"], 2, "namespace '2nd' is none"),
        (["--geometry", "essential", "--calibration", "nowhere.yaml"], 1, "no such calibration file: nowhere.yaml"),
    ],
)
def test_refusals(
    tmp_path: Path,
    textured_image: np.ndarray,
    extra: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 2)
    assert main(["bag", str(bag), "-o", str(tmp_path / "out.mcap"), *SIFT, *extra]) == code
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".partial"] == ["in.mcap"]


def test_bags_that_cannot_work(tmp_path: Path, textured_image: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 2)
    assert main(["bag", str(bag), str(bag), "-o", str(tmp_path / "out.mcap"), *SIFT]) == 2
    assert "is one file for 2 inputs; give a folder" in capsys.readouterr().err
    assert main(["bag", str(bag), str(bag), "-o", str(tmp_path / "out"), *SIFT]) == 2
    assert "several inputs are called in" in capsys.readouterr().err
    with McapWriter(tmp_path / "text.mcap") as writer:
        writer.write("/chatter", typestore().types["std_msgs/msg/String"]("hello"), 1)
    assert main(["bag", str(tmp_path / "text.mcap"), "-o", str(tmp_path / "no.mcap"), *SIFT]) == 1
    error = capsys.readouterr().err
    assert (
        "(sensor_msgs Image and CompressedImage); image topics: none; other topics: /chatter (std_msgs/msg/String)"
        in error
    )


def test_defaults_are_those_of_the_nodes() -> None:
    import inspect

    from semantic_matcher_core.offline.options import RunOptions
    from semantic_matcher_core.streams import TemporalPairing

    flat = {name: p.default for name, p in inspect.signature(bag_command).parameters.items()}
    pairing = TemporalPairing()
    assert (flat["reference_policy"], flat["every_nth"]) == (pairing.policy, pairing.every_nth)
    assert (flat["min_inlier_share"], flat["min_overlap"]) == (pairing.min_inlier_share, pairing.min_overlap)
    options = RunOptions()
    assert (flat["sync"], flat["slop"]) == (options.sync, options.slop_s)
    assert flat["geometry_threshold"] == options.geometry_threshold
    assert (flat["mode"], flat["write_images"]) == (options.mode, options.images)
