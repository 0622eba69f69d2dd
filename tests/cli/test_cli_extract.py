"""``semantic-matcher extract``, and how images are named on the command line."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semantic_matcher_core.cli import main
from semantic_matcher_core.cli.inputs import collect_images
from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.io.features_file import FeaturesReader
from semantic_matcher_core.io.images import write_image

SIFT = ["--variant", "plain:sift", "--device", "cpu", "--max-keypoints", "100"]


@pytest.fixture
def folder(tmp_path: Path, textured_image: np.ndarray) -> Path:
    """left/{1,2,10}.png, right/1.png and a text file, in a folder of their own."""
    root = tmp_path / "photos"
    for i, name in enumerate(("left/1.png", "left/2.png", "left/10.png", "right/1.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(root / name, textured_image[50 * i : 50 * i + 100, 100:220])
    (root / "left" / "notes.txt").write_text("no image")
    return root


def test_a_folder_becomes_a_file_of_features(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], textured_image: np.ndarray
) -> None:
    output = tmp_path / "features.h5"
    assert main(["extract", str(folder / "left"), "-o", str(output), *SIFT]) == 0
    assert capsys.readouterr().out == f"wrote {output}: 3 images (plain:sift on cpu)\n"
    with FeaturesReader(output) as reader:
        assert sorted(reader.keys()) == ["1.png", "10.png", "2.png"] and reader.variant == "plain:sift"
        read = reader.read("2.png")
        direct = create_extractor("sift", 100, device="cpu").extract(textured_image[50:150, 100:220])
        assert read.image_size == (100, 120) and torch.equal(read.keypoints, direct.keypoints)
        assert torch.equal(read.descriptors, direct.descriptors) and torch.equal(read.scores, direct.scores)


def test_keys_start_at_the_common_folder_or_the_root(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "features.h5"
    assert main(["extract", str(folder / "left" / "1.png"), str(folder / "right"), "-o", str(output), *SIFT]) == 0
    with FeaturesReader(output) as reader:
        assert sorted(reader.keys()) == ["left/1.png", "right/1.png"]
    assert main(["extract", str(folder / "left"), "-o", str(output), "--root", str(tmp_path), *SIFT]) == 0
    with FeaturesReader(output) as reader:
        assert "photos/left/1.png" in reader


def test_unreadable_images_stop_or_are_skipped(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "left" / "3.png").write_bytes(b"not an image")
    output = tmp_path / "features.h5"
    assert main(["extract", str(folder / "left"), "-o", str(output), *SIFT]) == 1
    error = capsys.readouterr().err
    assert "3.png" in error and "--skip-unreadable" in error and not output.exists()
    assert main(["extract", str(folder / "left"), "-o", str(output), "--skip-unreadable", *SIFT]) == 0
    captured = capsys.readouterr()
    assert "3 images, skipped 1 unreadable" in captured.out
    assert captured.err.startswith("skipped: ") and "3.png" in captured.err
    with FeaturesReader(output) as reader:
        assert len(reader) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["features.h5", "photos"]


def test_nothing_readable_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"not an image")
    arguments = ["extract", str(tmp_path / "a.png"), "-o", str(tmp_path / "f.h5"), "--skip-unreadable", *SIFT]
    assert main(arguments) == 1
    assert "none of the 1 images could be read" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_output_is_checked_before_the_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", str(folder / "left"), "-o", str(folder / "missing" / "f.h5"), *SIFT]) == 1
    assert "create it first" in capsys.readouterr().err


def test_collecting_files_folders_and_patterns(folder: Path) -> None:
    def keys(*names: str, **options: bool) -> list[str]:
        return [key for key, _ in collect_images([str(folder / name) for name in names], **options)]

    assert keys("left") == ["1.png", "2.png", "10.png"]
    assert keys("left/*.png") == ["1.png", "2.png", "10.png"]
    assert keys("*/1.png") == ["left/1.png", "right/1.png"]
    assert keys("**/*.png") == ["left/1.png", "left/2.png", "left/10.png", "right/1.png"]
    assert keys(".", recursive=True) == ["left/1.png", "left/2.png", "left/10.png", "right/1.png"]
    # Order as given, each once.
    assert keys("right", "left/2.png", "left") == ["right/1.png", "left/2.png", "left/1.png", "left/10.png"]
    assert keys("left/notes.txt") == ["notes.txt"]
    # A folder that is there is itself, whatever its name looks like.
    (folder / "left").rename(folder / "l [1]*")
    assert keys("l [1]*/*.png") == keys("l [1]*") == ["1.png", "2.png", "10.png"]
    assert keys("l*/../right/?.png") == ["1.png"]
    (folder / "l [1]*").rename(folder / "left")
    # A link to a folder above leads to the same files again and again; one to a folder beside is a name like any other.
    (folder / "left" / "again").symlink_to(folder)
    (folder / "middle").symlink_to(folder / "right")
    assert keys("**/*.png") == ["left/1.png", "left/2.png", "left/10.png", "middle/1.png", "right/1.png"]
    assert keys(".", recursive=True) == ["left/1.png", "left/2.png", "left/10.png", "right/1.png"]


def test_an_image_named_twice_is_told_once_and_not_of_two_cameras(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, out = [str(folder / "right")] * 2, ["-o", str(tmp_path / "o.mcap"), *SIFT, "--overwrite"]
    assert main(["images", *one, *out]) == 0
    assert capsys.readouterr().err.count("note: 2 images are named, 1 of them again; each counts once") == 1
    assert main(["images", *one, *out, "--mode", "stereo"]) == 0
    assert "named" not in capsys.readouterr().err


def test_relative_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert [key for key, _ in collect_images(["left/1.png", "right/*.png"])] == ["left/1.png", "right/1.png"]


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no such image file or folder: .*absent"):
        collect_images([str(folder / "absent")])
    with pytest.raises(ImageError, match=r"no image matches .*\*\.tif"):
        collect_images([str(folder / "left" / "*.tif")])
    with pytest.raises(ImageError, match="no image in folder"):
        collect_images([str(folder)])
    with pytest.raises(ImageError, match="the name of an image is empty"):
        collect_images([""])
    with pytest.raises(ConfigError, match="does not lie below --root"):
        collect_images([str(folder / "left")], root=tmp_path / "elsewhere")


def test_a_folder_that_may_not_be_read_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = os.scandir

    def refuse(path: str) -> Any:
        if path == str(folder / "right"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert len(collect_images([str(folder)], recursive=True)) == 3
    assert capsys.readouterr().err == f"passed over: {folder / 'right'}: Permission denied\n"


def test_what_gives_less_than_is_named_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "black.png", np.zeros((40, 50, 3), np.uint8))
    images = [str(tmp_path / "black.png"), str(folder / "left" / "1.png"), str(folder / "left" / "[12].png")]
    assert main(["extract", *images, "-o", str(tmp_path / "f.h5"), *SIFT]) == 0
    told = capsys.readouterr()
    assert "note: 4 images are named, 1 of them again; each counts once" in told.err
    assert "3 images, 1 without keypoints (plain:sift on cpu)" in told.out
    assert main(["images", *images, "-o", str(tmp_path / "m.mcap"), *SIFT]) == 0
    assert "3 images, 2 pairs" in (out := capsys.readouterr().out) and ", 1 without keypoints" in out


@pytest.mark.parametrize("recursive", [False, True])
def test_pictures_that_are_passed_over_are_said(
    folder: Path, recursive: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("semantic_matcher_core"), "propagate", True)
    for name in ("a.HEIC", "b.heic", "c.avif", "notes.txt", ".hidden.gif"):
        (folder / "left" / name).write_bytes(b"")
    assert collect_images([str(folder / "left")], recursive=recursive)
    assert f"passed over in {folder / 'left'}: 3 files of .avif .heic;" in caplog.text
