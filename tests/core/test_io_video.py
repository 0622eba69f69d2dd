"""Video files: frames, time stamps, damaged files, whole-or-nothing writing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from semantic_matcher_core.errors import ConfigError, ImageError, OutputError
from semantic_matcher_core.io.video import VideoWriter, read_video, video_info

FPS = 12.5


def frame(index: int) -> np.ndarray:
    """A frame that tells its number by the brightness of its red half; the other half is blue."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32, 0] = 60 + 15 * index
    image[:, 32:, 2] = 200
    return image


def write_clip(path: Path, count: int = 8) -> Path:
    with VideoWriter(path, FPS) as writer:
        for index in range(count):
            writer.write(frame(index))
    return path


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    path = write_clip(tmp_path / f"clip{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    frames = list(read_video(path))
    assert [f.index for f in frames] == list(range(8))
    assert [f.stamp_ns for f in frames] == pytest.approx([i / FPS * 1e9 for i in range(8)], abs=1e6)
    for f in frames:
        assert f.image.shape == (48, 64, 3) and f.image.dtype == np.uint8
        assert f.image[10:40, 8:24, 0].mean() == pytest.approx(60 + 15 * f.index, abs=6)
        assert f.image[10:40, 40:56, 2].mean() == pytest.approx(200, abs=12)
    info = video_info(path)
    assert (info.frame_count, info.width, info.height) == (8, 64, 48) and info.fps == pytest.approx(FPS)


def test_every_nth_frame_keeps_its_own_number_and_stamp(tmp_path: Path) -> None:
    frames = list(read_video(write_clip(tmp_path / "clip.avi"), every=3))
    assert [f.index for f in frames] == [0, 3, 6]
    assert [f.stamp_ns for f in frames] == pytest.approx([i / FPS * 1e9 for i in (0, 3, 6)], abs=1e6)
    assert [round((f.image[10:40, 8:24, 0].mean() - 60) / 15) for f in frames] == [0, 3, 6]
    with pytest.raises(ConfigError, match="every"):
        next(read_video(tmp_path / "clip.avi", every=0))


def test_names_beyond_ascii(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "Película 映像.avi")
    assert len(list(read_video(path))) == 8


def _refuse(path: Path, mode: str) -> None:
    raise PermissionError(13, "Permission denied", str(path))


def test_files_that_are_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match="is a folder, no video"):
        video_info(tmp_path)
    with pytest.raises(ImageError, match="no such video file"):
        next(read_video(tmp_path / "absent.mp4"))
    with (
        monkeypatch.context() as patch,
        pytest.raises(ImageError, match=r"cannot read video .*locked\.mp4: Permission"),
    ):
        (tmp_path / "locked.mp4").write_bytes(b"")
        patch.setattr(Path, "open", _refuse)
        video_info(tmp_path / "locked.mp4")
    (tmp_path / "text.mp4").write_bytes(b"not a video at all" * 50)
    with pytest.raises(ImageError, match=r"text\.mp4 is no video"):
        next(read_video(tmp_path / "text.mp4"))
    clip = write_clip(tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(clip[: len(clip) // 3])
    with pytest.raises(ImageError, match=r"cut\.mp4"):
        list(read_video(tmp_path / "cut.mp4"))


def test_a_video_without_frames(tmp_path: Path) -> None:
    clip = bytearray(write_clip(tmp_path / "clip.avi", count=1).read_bytes())
    movi = clip.index(b"movi")
    # An index-less AVI that ends where its frames would begin.
    (tmp_path / "none.avi").write_bytes(clip[: movi + 4])
    with pytest.raises(ImageError, match=r"none\.avi"):
        list(read_video(tmp_path / "none.avi"))


def test_writer_refuses_bad_frames_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="frame is 10x10"), VideoWriter(tmp_path / "out.avi", FPS) as writer:
        writer.write(frame(0))
        writer.write(np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(ImageError, match="float64"), VideoWriter(tmp_path / "out.avi", FPS) as writer:
        writer.write(np.zeros((10, 10, 3)))
    with pytest.raises(OutputError, match="no frame was given"), VideoWriter(tmp_path / "out.avi", FPS):
        pass
    assert not list(tmp_path.iterdir())


def test_writer_refuses_bad_targets(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"unknown video suffix '\.gif'"):
        VideoWriter(tmp_path / "out.gif", FPS)
    with pytest.raises(OutputError, match="create it first"):
        VideoWriter(tmp_path / "missing" / "out.avi", FPS)
    with pytest.raises(ConfigError, match="fps"):
        VideoWriter(tmp_path / "out.avi", 0)


def test_a_real_clip(shared: Path) -> None:
    path = shared / "data" / "video" / "deform_bag.mp4"
    info = video_info(path)
    frames = []
    for f in read_video(path, every=10):
        frames.append(f)
        if len(frames) == 4:
            break
    assert [f.index for f in frames] == [0, 10, 20, 30]
    assert frames[3].stamp_ns == pytest.approx(30 / info.fps * 1e9, rel=0.05)
    assert frames[0].image.shape == (info.height, info.width, 3)


_TOO_LARGE = """
import resource, sys
import numpy as np
from semantic_matcher_core.errors import OutputError
from semantic_matcher_core.io.video import VideoWriter

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
noise = np.random.default_rng(0)
try:
    with VideoWriter(sys.argv[1], 10) as writer:
        for _ in range(30):
            writer.write(noise.integers(0, 256, (120, 160, 3), dtype=np.uint8))
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_a_video_that_finds_no_room_is_not_left_there(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"large{suffix}"
    command = [sys.executable, "-c", _TOO_LARGE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"cannot write {path}: " in done.stdout and "of 30 frames are in it; is the disk full?" in done.stdout
    assert list(tmp_path.iterdir()) == []
