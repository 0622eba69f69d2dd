"""Offline runs: what comes out of recordings, resumed runs, recordings that are not as they should be."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import BagError, ConfigError, ImageError, OutputError
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.images import write_image
from semantic_matcher_core.io.messages import stamp_of
from semantic_matcher_core.io.run_info import read_run_info
from semantic_matcher_core.io.video import VideoWriter
from semantic_matcher_core.matching.verification import verify
from semantic_matcher_core.offline.options import RunOptions
from semantic_matcher_core.offline.run import Progress, RunHooks, run
from semantic_matcher_core.offline.sources import BagSource, FilesSource, ImageSource, VideoSource
from semantic_matcher_core.pipeline import SemanticMatcher
from semantic_matcher_core.streams import TemporalPairing
from semantic_matcher_core.weights.hashing import sha256_of_weights
from tests.core.mcap_files import write_mcap
from tests.core.recordings import (
    DISPARITY,
    PERIOD_NS,
    RECORDED_NS,
    SHIFT,
    START_NS,
    messages,
    topics,
    view,
    write_camera_bag,
    write_stereo_bag,
)

REPOSITORY = Path(__file__).resolve().parents[2]
NODE = "/temporal_matcher"


@pytest.fixture(scope="module")
def matcher() -> SemanticMatcher:
    return SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=200)


def pairs_of(path: Path, topic: str = f"{NODE}/matches") -> list[tuple[int, int]]:
    """(reference, current) frame numbers of the Matches, by their stamps."""
    return [
        ((stamp_of(m.reference_header) - START_NS) // PERIOD_NS, (stamp_of(m.header) - START_NS) // PERIOD_NS)
        for m in messages(path, topic)
    ]


def test_temporal(tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray) -> None:
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image)
    output = tmp_path / "out.mcap"
    progress = run(BagSource(bag), matcher, output, RunOptions())
    assert (progress.done, progress.total, progress.frames, progress.pairs) == (8, 8, 8, 7)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mcap", "out.mcap"]
    assert topics(output) == {
        "/camera/image/compressed": 8,
        "/semantic_matcher/run": 1,
        f"{NODE}/keypoints": 8,
        f"{NODE}/matches": 7,
    }
    assert pairs_of(output) == [(i, i + 1) for i in range(7)]
    features = [matcher.extract(view(textured_image, i)) for i in range(8)]
    for i, message in enumerate(messages(output, f"{NODE}/keypoints")):
        assert stamp_of(message.header) == START_NS + i * PERIOD_NS and message.header.frame_id == "camera_optical"
        assert (message.width, message.height) == (160, 120)
        assert np.array_equal(message.xy.reshape(-1, 2), features[i].keypoints[0].numpy())
    for i, message in enumerate(messages(output, f"{NODE}/matches")):
        direct = matcher.match(features[i], features[i + 1])
        assert message.mode == "temporal" and message.model_type == "" and len(message.inlier) == 0
        assert np.array_equal(message.index0, direct.indices[:, 0].numpy())
        assert np.array_equal(message.index1, direct.indices[:, 1].numpy())
        assert np.array_equal(message.confidence, direct.confidence.numpy())
        moved = message.xy1.reshape(-1, 2) - message.xy0.reshape(-1, 2)
        assert (np.abs(moved - SHIFT).max(axis=1) < 1).mean() > 0.7
    with BagReader(output) as reader:
        received = {m.received_ns for m in reader.messages([f"{NODE}/matches"])}
        assert received == {START_NS + i * PERIOD_NS + RECORDED_NS for i in range(1, 8)}
        for i, image in enumerate(reader.images(["/camera/image/compressed"])):
            assert image.stamp_ns == START_NS + i * PERIOD_NS
            assert np.abs(image.decode().astype(int) - view(textured_image, i)).mean() < 12


def test_the_file_says_how_it_was_made(tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray) -> None:
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 2)
    options = RunOptions(geometry="homography", images="none", namespace="/robot/")
    run(BagSource(bag), matcher, tmp_path / "out.mcap", options)
    info = read_run_info(tmp_path / "out.mcap")
    assert info is not None
    assert info["variant"] == "plain:sift" and info["source"]["name"] == "in.mcap"
    assert info["source"]["streams"] == ["/camera/image"] and info["options"]["geometry"] == "homography"
    assert info["weights_sha256"] == sha256_of_weights(matcher) == ""
    assert info["model"]["extractor"]["max_keypoints"] == 200
    assert set(topics(tmp_path / "out.mcap")) == {
        "/semantic_matcher/run",
        "/robot/temporal_matcher/keypoints",
        "/robot/temporal_matcher/matches",
    }
    assert read_run_info(bag) is None


def test_geometry_and_descriptors(tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray) -> None:
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 3)
    options = RunOptions(geometry="homography", geometry_threshold=1.5, descriptors=True, images="none")
    run(BagSource(bag), matcher, tmp_path / "out.mcap", options)
    first, second = (matcher.extract(view(textured_image, i)) for i in range(2))
    direct = verify(matcher.match(first, second), "homography", threshold_px=1.5)
    message = messages(tmp_path / "out.mcap", f"{NODE}/matches")[0]
    assert message.model_type == "homography" and direct.inlier is not None and direct.model is not None
    assert np.array_equal(message.inlier.astype(bool), direct.inlier.numpy())
    assert np.array_equal(message.model.reshape(3, 3), direct.model.numpy())
    described = messages(tmp_path / "out.mcap", f"{NODE}/descriptors")
    assert len(described) == 3 and described[0].variant == "plain:sift" and described[0].dim == 128
    assert np.array_equal(described[0].data.reshape(-1, 128), first.descriptors[0].numpy())


@pytest.mark.parametrize(
    ("pairing", "expected"),
    [
        (TemporalPairing("every_nth", every_nth=3), [(0, 1), (0, 2), (0, 3), (3, 4), (3, 5), (3, 6), (6, 7)]),
        (TemporalPairing("keyframe", min_inlier_share=0.0, min_overlap=0.0), [(0, i) for i in range(1, 8)]),
        (TemporalPairing("keyframe", min_inlier_share=1.0), [(i, i + 1) for i in range(7)]),
    ],
)
def test_reference_policies(
    tmp_path: Path,
    matcher: SemanticMatcher,
    textured_image: np.ndarray,
    pairing: TemporalPairing,
    expected: list[tuple[int, int]],
) -> None:
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image)
    run(BagSource(bag), matcher, tmp_path / "out.mcap", RunOptions(pairing=pairing, images="none"))
    assert pairs_of(tmp_path / "out.mcap") == expected


def test_repeated_late_and_restarted_stamps(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray
) -> None:
    numbers = [10, 11, 11, 12, 9, 13, -10, -9]  # frame 2 repeats, 4 is late; from 6 on the clock began again
    stamps = [START_NS + n * PERIOD_NS for n in numbers]
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, stamps=stamps)
    progress = run(BagSource(bag), matcher, tmp_path / "out.mcap", RunOptions(images="none"))
    assert progress.left_out == {"repeated stamp": 1, "late stamp": 1}
    assert pairs_of(tmp_path / "out.mcap") == [(10, 11), (11, 12), (12, 13), (-10, -9)]


def test_images_that_do_not_decode_are_left_out(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray
) -> None:
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, broken=(0, 3))
    notices: list[str] = []
    hooks = RunHooks(notice=notices.append)
    progress = run(BagSource(bag), matcher, tmp_path / "out.mcap", RunOptions(), hooks=hooks)
    assert progress.left_out == {"unreadable": 2} and progress.frames == 6
    assert pairs_of(tmp_path / "out.mcap") == [(1, 2), (2, 4), (4, 5), (5, 6), (6, 7)]
    assert [n.split(":")[0] for n in notices] == ["left out"] * 2 and "image 3 of /camera/image" in notices[1]
    bag = write_camera_bag(tmp_path / "bad.mcap", textured_image, 3, broken=(0, 1, 2))
    for _ in range(2):  # the second time goes on where the first one ended
        with pytest.raises(ImageError, match=r"bad\.mcap gave no usable image: 3 unreadable; the last one: image 2 of"):
            run(BagSource(bag), matcher, tmp_path / "bad_out.mcap", RunOptions())
    assert not (tmp_path / "bad_out.mcap").exists()


def test_recorded_jpegs_are_kept_as_they_are(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray
) -> None:
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 2, compressed=True)
    run(BagSource(bag), matcher, tmp_path / "out.mcap", RunOptions(jpeg_quality=10))
    topic = "/camera/image/compressed"
    assert [bytes(m.data) for m in messages(tmp_path / "out.mcap", topic)] == [
        bytes(m.data) for m in messages(bag, topic)
    ]


def test_stereo(tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray) -> None:
    bag = write_stereo_bag(tmp_path / "in.mcap", textured_image, offset_ns=2_000_000, missing=(2,))
    source = BagSource(bag, ["/left/image", "/right/image"])
    progress = run(source, matcher, tmp_path / "out.mcap", RunOptions(mode="stereo", slop_s=0.01))
    assert (progress.pairs, progress.frames, progress.left_out) == (4, 8, {"without partner": 1})
    assert topics(tmp_path / "out.mcap") == {
        "/left/image/compressed": 4,
        "/right/image/compressed": 4,
        "/semantic_matcher/run": 1,
        "/stereo_matcher/left/keypoints": 4,
        "/stereo_matcher/right/keypoints": 4,
        "/stereo_matcher/matches": 4,
    }
    for message in messages(tmp_path / "out.mcap", "/stereo_matcher/matches"):
        assert message.mode == "stereo"
        assert stamp_of(message.header) - stamp_of(message.reference_header) == 2_000_000
        assert (message.reference_header.frame_id, message.header.frame_id) == ("left_optical", "right_optical")
        disparity = message.xy0.reshape(-1, 2) - message.xy1.reshape(-1, 2)
        assert (np.abs(disparity - (DISPARITY, 0)).max(axis=1) < 1).mean() > 0.7
    with pytest.raises(ImageError, match="gave no usable image"):
        run(source, matcher, tmp_path / "none.mcap", RunOptions(mode="stereo", sync="exact"))


def test_reference(tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray) -> None:
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 3)
    references = tuple(tmp_path / name for name in ("first.png", "fifth.png"))
    for path, number in zip(references, (0, 4), strict=True):
        write_image(path, view(textured_image, number))
    run(BagSource(bag), matcher, tmp_path / "out.mcap", RunOptions(mode="reference"), references=references)
    found = topics(tmp_path / "out.mcap")
    assert found["/reference_matcher/matches"] == 6 and found["/reference_matcher/reference/keypoints"] == 2
    assert found["/reference_matcher/reference/image/compressed"] == 2
    stored = messages(tmp_path / "out.mcap", "/reference_matcher/reference/keypoints")
    assert [message.image_name for message in stored] == [path.name for path in references]
    for i, message in enumerate(messages(tmp_path / "out.mcap", "/reference_matcher/matches")):
        frame, reference = divmod(i, 2)
        assert message.mode == "reference" and message.reference_name == references[reference].name
        assert message.reference_header.frame_id == ""
        moved = message.xy1.reshape(-1, 2) - message.xy0.reshape(-1, 2)
        expected = np.array(SHIFT) * (frame - (0, 4)[reference])
        assert (np.abs(moved - expected).max(axis=1) < 1).mean() > 0.6


def test_stored_images_are_seen_as_large_as_the_first_image_that_can_be_read(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray
) -> None:
    stored = tmp_path / "large.png"
    write_image(stored, view(textured_image, 1).repeat(3, 0).repeat(3, 1))
    found = []
    for broken in ((), (0,)):
        bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 2, broken=broken)
        output = tmp_path / f"{len(broken)}.mcap"
        run(BagSource(bag), matcher, output, RunOptions(mode="reference"), references=(stored,), part_seconds=0)
        assert topics(output)["/reference_matcher/keypoints"] == 2 - len(broken)
        found += messages(output, "/reference_matcher/reference/keypoints")
    assert len(found) == 2 and np.array_equal(found[0].xy, found[1].xy)


def test_several_cameras_have_topics_of_their_own(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray
) -> None:
    bag = write_stereo_bag(tmp_path / "in.mcap", textured_image, 3)
    source = BagSource(bag, ["/left/image", "/right/image"])
    run(source, matcher, tmp_path / "out.mcap", RunOptions(images="none"))
    for side in ("left", "right"):
        assert pairs_of(tmp_path / "out.mcap", f"{NODE}/{side}/image/matches") == [(0, 1), (1, 2)]
        for message in messages(tmp_path / "out.mcap", f"{NODE}/{side}/image/matches"):
            assert message.header.frame_id == message.reference_header.frame_id == f"{side}_optical"


def test_videos_and_files_give_what_a_bag_of_the_same_frames_gives(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray
) -> None:
    files = []
    for i in range(4):
        files.append((f"{i}.png", tmp_path / f"{i}.png"))
        write_image(files[-1][1], view(textured_image, i))
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 4)
    for name, source in (("bag", BagSource(bag)), ("files", FilesSource([files], fps=10))):
        run(source, matcher, tmp_path / f"{name}_out.mcap", RunOptions(images="none"))
    from_bag, from_files = (messages(tmp_path / f"{n}_out.mcap", f"{NODE}/matches") for n in ("bag", "files"))
    for a, b in zip(from_bag, from_files, strict=True):
        assert np.array_equal(a.xy0, b.xy0) and np.array_equal(a.xy1, b.xy1)
    assert [stamp_of(m.header) for m in from_files] == [100_000_000, 200_000_000, 300_000_000]

    with VideoWriter(tmp_path / "clip.avi", 10) as writer:
        for i in range(6):
            writer.write(view(textured_image, i))
    video = VideoSource([tmp_path / "clip.avi"], every=2)
    assert video.total == 3
    progress = run(video, matcher, tmp_path / "video_out.mcap", RunOptions())
    assert (progress.done, progress.pairs) == (3, 2)
    for message in messages(tmp_path / "video_out.mcap", f"{NODE}/matches"):
        moved = message.xy1.reshape(-1, 2) - message.xy0.reshape(-1, 2)
        assert np.median(moved, axis=0) == pytest.approx(2 * np.array(SHIFT), abs=0.5)
    stereo = VideoSource([tmp_path / "clip.avi", tmp_path / "clip.avi"])
    progress = run(stereo, matcher, tmp_path / "stereo_out.mcap", RunOptions(mode="stereo"))
    assert (progress.done, progress.pairs) == (12, 6)


# Resuming.


class Killed(Exception):
    pass


class DyingSource(ImageSource):
    """A recording whose reader dies before the image of a given number."""

    def __init__(self, source: ImageSource, before: int) -> None:
        super().__init__()
        self._source, self._before = source, before
        self.path, self.streams, self.total = source.path, source.streams, source.total

    def images(self) -> Any:
        for image in self._source.images():
            if image.index == self._before:
                raise Killed
            yield image

    def digest(self) -> str:
        return self._source.digest()

    def settings(self) -> dict[str, Any]:
        return self._source.settings()

    def calibration(self, stream: str) -> Any:
        return self._source.calibration(stream)


RUNS = {
    "previous": RunOptions(),
    "keyframe": RunOptions(pairing=TemporalPairing("keyframe", min_overlap=0.75), geometry="homography"),
    "every_nth": RunOptions(pairing=TemporalPairing("every_nth", every_nth=3), descriptors=True),
    "stereo": RunOptions(mode="stereo", slop_s=0.01),
    "reference": RunOptions(mode="reference"),
}


@pytest.mark.parametrize(
    ("name", "cuts"),
    [
        ("previous", (1,)),
        ("previous", (8,)),
        ("keyframe", (2, 3, 7)),
        ("keyframe", (4, 5)),
        ("every_nth", (2, 3, 7)),
        ("every_nth", (4, 5)),
        ("stereo", (2, 3, 7)),
        ("stereo", (8,)),
        ("reference", (1,)),
    ],
)
def test_a_resumed_run_ends_with_the_same_bytes(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray, name: str, cuts: tuple[int, ...]
) -> None:
    options = RUNS[name]
    references: tuple[Path, ...] = ()
    if options.mode == "stereo":
        bag = write_stereo_bag(tmp_path / "in.mcap", textured_image, 5, offset_ns=1_000_000, missing=(1,))
        source: ImageSource = BagSource(bag, ["/left/image", "/right/image"])
    else:
        stamps = [START_NS + n * PERIOD_NS for n in (20, 21, 22, 22, 23, 0, 1, 2, 3)]
        bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 9, stamps=stamps, broken=(6,))
        source = BagSource(bag)
    if options.mode == "reference":
        references = (tmp_path / "reference.png",)
        write_image(references[0], view(textured_image, 2))
    (tmp_path / "whole").mkdir()
    whole = tmp_path / "whole" / "out.mcap"
    expected = run(source, matcher, whole, options, references=references)

    output = tmp_path / "out.mcap"
    for cut in cuts:
        with pytest.raises(Killed):
            dying = DyingSource(source, cut)
            # Parts of one image each: whatever is done is kept.
            run(dying, matcher, output, options, references=references, part_seconds=0)
        assert not output.exists()
    seen: list[Progress] = []
    notices: list[str] = []
    hooks = RunHooks(progress=seen.append, notice=notices.append)
    progress = run(source, matcher, output, options, references=references, hooks=hooks)
    assert progress.resumed == cuts[-1] and notices[0] == f"going on after {cuts[-1]} images of an earlier run"
    assert (progress.pairs, progress.matches, progress.left_out) == (
        expected.pairs,
        expected.matches,
        expected.left_out,
    )
    assert output.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_a_complete_run_is_not_repeated(tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray) -> None:
    source = BagSource(write_camera_bag(tmp_path / "in.mcap", textured_image, 3))
    output = tmp_path / "out.mcap"
    run(source, matcher, output, RunOptions())
    before = output.stat().st_mtime_ns
    notices: list[str] = []
    progress = run(source, matcher, output, RunOptions(), hooks=RunHooks(notice=notices.append))
    assert notices == [f"{output} is complete already"] and progress.done == 3
    assert output.stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="is there already, and not of this run; use --overwrite"):
        run(source, matcher, output, RunOptions(geometry="homography"))
    run(source, matcher, output, RunOptions(geometry="homography"), overwrite=True)
    info = read_run_info(output)
    assert info is not None and info["options"]["geometry"] == "homography"
    (tmp_path / "text.mcap").write_text("something else")
    with pytest.raises(OutputError, match="not of this run"):
        run(source, matcher, tmp_path / "text.mcap", RunOptions())
    assert (tmp_path / "text.mcap").read_text() == "something else"


def test_parts_of_another_run_are_thrown_away(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray
) -> None:
    source = BagSource(write_camera_bag(tmp_path / "in.mcap", textured_image, 4))
    output = tmp_path / "out.mcap"
    with pytest.raises(Killed):
        run(DyingSource(source, 2), matcher, output, RunOptions(), part_seconds=0)
    notices: list[str] = []
    options = RunOptions(geometry="homography")
    progress = run(source, matcher, output, options, hooks=RunHooks(notice=notices.append))
    assert progress.resumed == 0 and "of another run" in notices[0] and len(messages(output, f"{NODE}/matches")) == 3


@pytest.mark.parametrize("damage", ["state", "part", "stray"])
def test_a_damaged_work_folder_is_no_obstacle(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray, damage: str
) -> None:
    source = BagSource(write_camera_bag(tmp_path / "in.mcap", textured_image, 4))
    output = tmp_path / "out.mcap"
    with pytest.raises(Killed):
        run(DyingSource(source, 2), matcher, output, RunOptions(), part_seconds=0)
    folder = tmp_path / "out.mcap.partial"
    if damage == "state":
        (folder / "state.json").write_text("{")
    elif damage == "part":
        (folder / "part-000001.mcap").unlink()
    else:
        (folder / ".part-000002.99.part").mkdir()
        (folder / ".part-000002.99.part" / "half.mcap").write_bytes(b"half")
    progress = run(source, matcher, output, RunOptions())
    assert progress.resumed == (2 if damage == "stray" else 0)
    assert len(messages(output, f"{NODE}/matches")) == 3 and not folder.exists()


def test_two_runs_do_not_write_one_output(tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray) -> None:
    source = BagSource(write_camera_bag(tmp_path / "in.mcap", textured_image, 3))
    refused: list[str] = []

    def again(progress: Progress) -> None:
        with pytest.raises(OutputError) as caught:
            run(source, matcher, tmp_path / "out.mcap", RunOptions())
        refused.append(str(caught.value))

    run(source, matcher, tmp_path / "out.mcap", RunOptions(), hooks=RunHooks(progress=again))
    assert len(refused) == 3 and all("another run is writing" in text for text in refused)


_KILLED_RUN = """
import sys
from pathlib import Path
from semantic_matcher_core.offline.options import RunOptions
from semantic_matcher_core.offline.run import RunHooks, run
from semantic_matcher_core.offline.sources import BagSource
from semantic_matcher_core.pipeline import SemanticMatcher
import torch, time
torch.set_num_threads(int(sys.argv[3]))
def tell(progress):
    print(progress.done, flush=True)
    time.sleep(0.05 if progress.done < 12 else 600)  # it is killed before
run(BagSource(Path(sys.argv[1])), SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=200),
    Path(sys.argv[2]), RunOptions(), part_seconds=0, hooks=RunHooks(progress=tell))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_is_resumed(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray, number: signal.Signals
) -> None:
    source = BagSource(write_camera_bag(tmp_path / "in.mcap", textured_image, 20))
    output = tmp_path / "out.mcap"
    command = [sys.executable, "-c", _KILLED_RUN, tmp_path / "in.mcap", output, str(torch.get_num_threads())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 5:
            pass
        process.send_signal(number)
        process.wait(timeout=240)
    assert process.returncode == -number and not output.exists()
    progress = run(source, matcher, output, RunOptions())
    assert 4 <= progress.resumed < 20
    (tmp_path / "whole").mkdir()
    run(source, matcher, tmp_path / "whole" / "out.mcap", RunOptions())
    assert output.read_bytes() == (tmp_path / "whole" / "out.mcap").read_bytes()


def test_a_full_disk_keeps_what_is_done(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    source = BagSource(write_camera_bag(tmp_path / "in.mcap", textured_image, 5))
    output = tmp_path / "out.mcap"
    real = os.replace

    def full(a: Any, b: Any) -> None:
        if Path(b).name in ("part-000003.mcap", "out.mcap"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(a, b)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="disk is full"):
        run(source, matcher, output, RunOptions(), part_seconds=0)
    assert not output.exists()
    monkeypatch.undo()
    assert run(source, matcher, output, RunOptions()).resumed == 3
    (tmp_path / "whole").mkdir()
    run(source, matcher, tmp_path / "whole" / "out.mcap", RunOptions())
    assert output.read_bytes() == (tmp_path / "whole" / "out.mcap").read_bytes()


# What cannot work.


def test_of_a_truncated_bag_the_rest_is_matched_and_the_loss_is_said(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray
) -> None:
    whole = write_mcap(tmp_path / "in.mcap", textured_image).read_bytes()
    (tmp_path / "cut.mcap").write_bytes(whole[: len(whole) * 3 // 4])
    notices: list[str] = []
    hooks = RunHooks(notice=notices.append)
    progress = run(BagSource(tmp_path / "cut.mcap"), matcher, tmp_path / "out.mcap", RunOptions(), hooks=hooks)
    assert 2 <= progress.frames < 8 and pairs_of(tmp_path / "out.mcap")[0] == (0, 1)
    assert len(progress.problems) == 1 and "cut.mcap: it is cut short" in progress.problems[0]
    assert notices == [f"warning: {progress.problems[0]}"]
    (tmp_path / "cut.mcap").write_bytes(whole[:200])
    with pytest.raises(BagError, match=r"cannot read bag .*cut\.mcap: no message of it can be read: it is cut short"):
        BagSource(tmp_path / "cut.mcap")


def test_a_message_that_is_no_image_is_left_out(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray
) -> None:
    bag = write_mcap(tmp_path / "in.mcap", textured_image, messages={2: b"\0\1\0\0" + b"\xff" * 9})
    progress = run(BagSource(bag), matcher, tmp_path / "out.mcap", RunOptions(images="none"))
    assert (progress.done, progress.frames, progress.left_out) == (8, 7, {"unreadable": 1})
    assert pairs_of(tmp_path / "out.mcap") == [(0, 1), (1, 3), (3, 4), (4, 5), (5, 6), (6, 7)]


def test_options_that_do_not_fit(tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray) -> None:
    source = BagSource(write_camera_bag(tmp_path / "in.mcap", textured_image, 2))
    with pytest.raises(ConfigError, match="needs a left and a right stream, got 1"):
        run(source, matcher, tmp_path / "out.mcap", RunOptions(mode="stereo"))
    with pytest.raises(ConfigError, match="needs reference images"):
        run(source, matcher, tmp_path / "out.mcap", RunOptions(mode="reference"))
    write_image(tmp_path / "a.png", view(textured_image, 0))
    with pytest.raises(ConfigError, match="of no use in mode 'temporal'"):
        run(source, matcher, tmp_path / "out.mcap", RunOptions(), references=(tmp_path / "a.png",))
    for bad in ({"mode": "spatial"}, {"images": "png"}, {"jpeg_quality": 0}):
        with pytest.raises(ConfigError):
            RunOptions(**bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="left has 1 images and right 2"):
        FilesSource([[("a", tmp_path / "a")], [("b", tmp_path / "b"), ("c", tmp_path / "c")]])
    with pytest.raises(OutputError, match="create it first"):
        run(source, matcher, tmp_path / "missing" / "out.mcap", RunOptions())
