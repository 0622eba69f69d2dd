"""Masks: where keypoints are wanted, from files and messages, in extraction, streams and runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semantic_matcher_core.cli import main
from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.extractors.selection import is_wanted, keep_rows
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.features_file import FeaturesReader
from semantic_matcher_core.io.masks import mask_of_message, read_mask, read_masks
from semantic_matcher_core.offline.options import RunOptions
from semantic_matcher_core.offline.run import RunHooks, run
from semantic_matcher_core.offline.sources import BagSource
from semantic_matcher_core.pipeline import SemanticMatcher
from semantic_matcher_core.streams import ReferenceStream, StereoStream, TemporalStream
from semantic_matcher_core.types import Features
from tests.core.recordings import SIZE, write_camera_bag, write_stereo_bag


@pytest.fixture(scope="module")
def matcher() -> SemanticMatcher:
    return SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=300)


def half(size: tuple[int, int] = SIZE) -> np.ndarray:
    """Keypoints are wanted on the left."""
    mask = np.zeros(size, np.uint8)
    mask[:, : size[1] // 2] = 1
    return mask


def written(path: Path, mask: np.ndarray) -> str:
    assert cv2.imwrite(str(path), mask)
    return str(path)


# The pure functions.


@given(
    st.integers(1, 7),
    st.integers(1, 9),
    st.lists(st.tuples(st.floats(-2, 11, width=32), st.floats(-2, 9, width=32)), max_size=12),
    st.integers(0, 2**31),
)
def test_no_row_on_a_zero_is_kept_and_no_other_is_lost(
    height: int, width: int, places: list[tuple[float, float]], seed: int
) -> None:
    masks = torch.from_numpy(np.random.default_rng(seed).random((1, height, width)) < 0.5)
    keypoints = torch.tensor(places, dtype=torch.float32).reshape(1, -1, 2)
    rows = torch.arange(len(places), dtype=torch.float32)
    features = Features(keypoints, rows[None], rows[None, :, None], (height, width))
    kept = keep_rows(features, is_wanted(keypoints, masks))
    expected = [
        i
        for i, (x, y) in enumerate(places)
        if masks[0, min(max(round(y), 0), height - 1), min(max(round(x), 0), width - 1)]
    ]
    assert kept.scores[0].tolist() == expected and kept.valid is None
    np.testing.assert_array_equal(kept.keypoints[0], keypoints[0][expected])


def test_a_batch_keeps_what_each_of_its_masks_wants(textured_image: np.ndarray) -> None:
    extractor = create_extractor("sift", 200, device="cpu")
    images = np.stack([textured_image[:93, :127], textured_image[50:143, 40:167]])
    masks = np.stack([half((93, 127)), 1 - half((93, 127))])
    batch = extractor.extract(images, masks)
    for i, features in enumerate(batch):
        alone = extractor.extract(images[i], masks[i])
        np.testing.assert_array_equal(features.keypoints, alone.keypoints)
        assert len(features.keypoints[0]) > 10
        x = features.keypoints[0, :, 0].round()
        assert bool((x < 63).all() if i == 0 else (x >= 63).all())


@pytest.mark.parametrize("rotation", ["quarter", "any"])
def test_turned_features_keep_to_the_mask(matcher: SemanticMatcher, textured_image: np.ndarray, rotation: str) -> None:
    found = matcher.extract_turned(textured_image[:93, :127], half((93, 127)), rotation=rotation)
    assert float(found.keypoints[..., 0].max()) < 63.5 and len(set(found.turn[0].tolist())) > 3  # type: ignore[index]


def test_an_image_that_is_masked_altogether_has_no_keypoints(
    matcher: SemanticMatcher, textured_image: np.ndarray
) -> None:
    nothing = np.zeros((93, 127), np.uint8)
    features = matcher.extract(textured_image[:93, :127], nothing)
    assert features.keypoints.shape == (1, 0, 2)
    assert len(matcher.match(features, matcher.extract(textured_image[:93, :127]))) == 0
    one = nothing.copy()
    one[40, 60] = 1
    assert matcher.extract(textured_image[:93, :127], one).keypoints.shape[1] <= 1


# Files and messages.


@pytest.mark.parametrize("kind", ["grey", "colour", "alpha", "16 bit", "one pixel", "pgm"])
def test_any_channel_that_is_not_zero_is_wanted(tmp_path: Path, kind: str) -> None:
    mask, name = half((7, 5)), "mask.png"
    wanted = mask != 0
    if kind == "colour":
        mask = np.dstack([mask * 0, mask, mask * 0])
    elif kind == "alpha":
        mask = np.dstack([mask, mask, mask, np.full((7, 5), 255, np.uint8)])
    elif kind == "16 bit":
        mask = mask.astype(np.uint16)
    elif kind == "one pixel":
        mask, wanted = np.ones((1, 1), np.uint8), np.ones((1, 1), bool)
    elif kind == "pgm":
        mask, name = mask * 255, "mask.pgm"
    np.testing.assert_array_equal(read_mask(written(tmp_path / name, mask)).pixels, wanted)


def test_masks_that_cannot_be_meant_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"black\.png is zero everywhere: nothing would be left"):
        read_mask(written(tmp_path / "black.png", np.zeros((3, 4), np.uint8)))
    with pytest.raises(ImageError, match="no such mask file"):
        read_mask(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("mask")
    with pytest.raises(ImageError, match=r"the mask .*text\.png is text, not a picture"):
        read_mask(tmp_path / "text.png")
    path = written(tmp_path / "mask.png", half((6, 8)))
    with pytest.raises(ImageError, match=r"mask\.png is 8 x 6, but the image is 160 x 120; a mask has the size"):
        read_mask(path).of_size(SIZE)
    assert read_masks([], 2) == [None, None]
    assert len({id(mask) for mask in read_masks([path], 3)}) == 1
    assert len({id(mask) for mask in read_masks([path, path], 2)}) == 2
    with pytest.raises(ConfigError, match=r"2 masks, but images of 3 camera\(s\); give one for all, or one for each"):
        read_masks([path, path], 3)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["mono8", "8UC1", "mono16", "16UC1"])
def test_messages_of_one_channel_are_masks(encoding: str, big: bool) -> None:
    wanted = half((3, 5)) != 0
    wide = "16" in encoding
    dtype = np.dtype(("<u2", ">u2")[big] if wide else "u1")
    rows = np.zeros((3, 16), np.uint8)
    # A label of 256 has a byte that is zero.
    rows[:, : 5 * dtype.itemsize] = (wanted * (256 if wide else 1)).astype(dtype).view(np.uint8).reshape(3, -1)
    message = SimpleNamespace(height=3, width=5, step=16, encoding=encoding, is_bigendian=big, data=rows.tobytes())
    np.testing.assert_array_equal(mask_of_message(message, "mask").pixels, wanted)
    message.data = message.data[:20]
    with pytest.raises(ImageError, match="holds 20 bytes"):
        mask_of_message(message, "mask")


def test_a_message_of_another_encoding_is_no_mask() -> None:
    message = SimpleNamespace(height=1, width=1, step=3, encoding="rgb8", is_bigendian=0, data=b"123")
    with pytest.raises(ImageError, match=r"the mask on /mask is of encoding 'rgb8'; expected one of mono8"):
        mask_of_message(message, "the mask on /mask")


# Streams.


def test_streams_take_masks(matcher: SemanticMatcher, textured_image: np.ndarray) -> None:
    first, second = textured_image[:120, :160], textured_image[2:122, 3:163]
    mask = half()
    direct = matcher.match(matcher.extract(first, mask), matcher.extract(second, mask))
    temporal = TemporalStream(matcher)
    temporal.process(first, mask=mask)
    _, pair = temporal.process(second, mask=mask)
    assert pair is not None
    np.testing.assert_array_equal(pair.matches.keypoints1, direct.keypoints1)
    stereo = StereoStream(matcher)
    np.testing.assert_array_equal(
        stereo.process(first, second, masks=(mask, mask)).matches.keypoints1, direct.keypoints1
    )
    one_sided = stereo.process(first, second, masks=(None, mask))
    assert float(one_sided.reference.features.keypoints[..., 0].max()) > 80
    assert float(one_sided.current.features.keypoints[..., 0].max()) < 79.5
    reference = ReferenceStream(matcher)
    reference.set_references([(first, None)])
    _, pairs = reference.process(second, mask=mask)
    whole = matcher.match(matcher.extract(first), matcher.extract(second, mask))
    np.testing.assert_array_equal(pairs[0].matches.keypoints1, whole.keypoints1)


# Runs, and the command line.


def keypoints(path: Path, topic: str) -> list[Any]:
    with BagReader(path) as bag:
        return [item.message.xy.reshape(-1, 2) for item in bag.messages([topic])]


def test_a_run_keeps_to_its_mask(tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray) -> None:
    source = BagSource(write_camera_bag(tmp_path / "in.mcap", textured_image, 3), ["/camera/image"])
    options = RunOptions(images="none", mask=(written(tmp_path / "mask.png", half()),))
    run(source, matcher, tmp_path / "out.mcap", options)
    found = keypoints(tmp_path / "out.mcap", "/temporal_matcher/keypoints")
    assert len(found) == 3 and all(len(xy) > 20 and xy[:, 0].max() < 79.5 for xy in found)
    # The same file under another name is the same run; other contents are another.
    notices: list[str] = []
    moved = RunOptions(images="none", mask=(written(tmp_path / "copy.png", half()),))
    run(source, matcher, tmp_path / "out.mcap", moved, hooks=RunHooks(notice=notices.append))
    assert notices == [f"{tmp_path / 'out.mcap'} is complete already"]
    written(tmp_path / "copy.png", 1 - half())
    for other in (moved, RunOptions(images="none")):
        with pytest.raises(Exception, match="is there already, and not of this run"):
            run(source, matcher, tmp_path / "out.mcap", other)


def test_left_and_right_have_masks_of_their_own(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray
) -> None:
    source = BagSource(write_stereo_bag(tmp_path / "in.mcap", textured_image, 2), ["/left/image", "/right/image"])
    masks = (written(tmp_path / "left.png", half()), written(tmp_path / "right.png", 1 - half()))
    run(source, matcher, tmp_path / "out.mcap", RunOptions(mode="stereo", images="none", mask=masks))
    for xy in keypoints(tmp_path / "out.mcap", "/stereo_matcher/left/keypoints"):
        assert xy[:, 0].max() < 79.5
    for xy in keypoints(tmp_path / "out.mcap", "/stereo_matcher/right/keypoints"):
        assert xy[:, 0].min() >= 79.5


def test_a_mask_of_another_size_ends_a_run_with_both_sizes(
    tmp_path: Path, textured_image: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 2)
    mask = written(tmp_path / "mask.png", half((6, 8)))
    command = ["bag", str(bag), "-o", str(tmp_path / "out.mcap"), "--variant", "plain:sift", "--mask", mask]
    assert main(command) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "2 unreadable; the last one: the mask" in last and "is 8 x 6, but the image is 160 x 120" in last
    assert not (tmp_path / "out.mcap").exists()


def test_extract_and_match_take_a_mask(
    tmp_path: Path, textured_image: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    image = written(tmp_path / "image.png", textured_image[:120, :160])
    left, right = written(tmp_path / "l.png", half()), written(tmp_path / "r.png", 1 - half())
    sift = ["--variant", "plain:sift", "--device", "cpu"]
    assert main(["extract", image, "-o", str(tmp_path / "f.h5"), *sift, "--mask", left]) == 0
    with FeaturesReader(tmp_path / "f.h5") as reader:
        assert float(reader.read("image.png").keypoints[..., 0].max()) < 79.5
    npz = tmp_path / "m.npz"
    assert main(["match", image, image, *sift, "--mask", left, "--npz", str(npz)]) == 0
    with np.load(npz) as arrays:
        assert len(arrays["keypoints0"]) > 20 and arrays["keypoints0"][:, 0].max() < 79.5
    capsys.readouterr()
    assert main(["match", image, image, *sift, "--mask", left, "--mask", right, "--npz", str(npz)]) == 0
    with np.load(npz) as arrays:
        assert (arrays["keypoints1"][:, 0] >= 79.5).all()
    assert main(["match", image, image, *sift, "--mask", str(tmp_path / "absent.png")]) == 1
    assert "error: no such mask file" in capsys.readouterr().err
