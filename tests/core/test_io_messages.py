"""The messages that go into bags, and their definitions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import ImageError, ShapeError
from semantic_matcher_core.io.messages import (
    compressed_image_message,
    descriptors_message,
    descriptors_of,
    header_message,
    image_message,
    keypoints_message,
    matches_message,
    message_definitions,
    point_rows,
    points_message,
    stamp_of,
    typestore,
)
from semantic_matcher_core.types import Features, Matches

REPOSITORY = Path(__file__).resolve().parents[2]


def features(count: int, *, reasoned: bool = False, batch: int = 1) -> Features:
    generator = torch.Generator().manual_seed(count)
    rows = torch.rand(batch, count, 2, generator=generator) * 100
    extra = {"reasoned": torch.rand(batch, count, 5), "semantic": torch.rand(batch, count, 3)} if reasoned else {}
    scores = torch.rand(batch, count, generator=generator)
    return Features(rows, scores, torch.rand(batch, count, 4), (48, 64), **extra)


def round_trip(message: object) -> object:
    name = message.__msgtype__  # type: ignore[attr-defined]
    return typestore().deserialize_cdr(typestore().serialize_cdr(message, name), name)


def test_definitions_are_those_of_the_ros_package() -> None:
    folder = REPOSITORY / "ros_ws" / "src" / "semantic_matcher_msgs" / "msg"
    ours = message_definitions()
    theirs = {f"semantic_matcher_msgs/msg/{p.stem}": p.read_text(encoding="utf-8") for p in folder.glob("*.msg")}
    assert set(ours) >= {f"semantic_matcher_msgs/msg/{n}" for n in ("Keypoints", "Descriptors", "Matches")}
    assert ours == theirs


@pytest.mark.parametrize("count", [0, 1, 7])
def test_keypoints(count: int) -> None:
    given = features(count)
    read = round_trip(keypoints_message(given, header_message(12_000_000_345, "camera")))
    assert (read.width, read.height) == (64, 48)
    assert stamp_of(read.header) == 12_000_000_345 and read.header.frame_id == "camera"
    assert np.array_equal(read.xy.reshape(-1, 2), given.keypoints[0].numpy())
    assert np.array_equal(read.scores, given.scores[0].numpy())


def test_descriptors_are_what_matching_compares() -> None:
    plain = features(3)
    read = round_trip(descriptors_message(plain, "plain:sift", header_message(0)))
    assert (read.variant, read.dim, read.semantic_dim, len(read.semantic_data)) == ("plain:sift", 4, 0, 0)
    assert np.array_equal(read.data.reshape(3, 4), plain.descriptors[0].numpy())
    reasoned = features(3, reasoned=True)
    read = round_trip(descriptors_message(reasoned, "xfeat", header_message(0)))
    assert (read.dim, read.semantic_dim) == (5, 3)
    assert np.array_equal(read.data.reshape(3, 5), reasoned.reasoned[0].numpy())
    assert np.array_equal(read.semantic_data.reshape(3, 3), reasoned.semantic[0].numpy())


def test_half_precision_descriptors_are_half_the_bytes_and_read_back() -> None:
    given = features(3, reasoned=True)
    whole = descriptors_message(given, "xfeat", header_message(0))
    half = round_trip(descriptors_message(given, "xfeat", header_message(0), dtype="float16"))
    assert (half.dtype, whole.dtype, len(half.data), len(half.semantic_data)) == ("float16", "float32", 0, 0)
    assert half.data16.nbytes * 2 == whole.data.nbytes
    for read, expected in zip(descriptors_of(half), (given.reasoned, given.semantic), strict=True):
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, expected.half().float().numpy().reshape(-1))
    np.testing.assert_array_equal(descriptors_of(round_trip(whole))[0], whole.data)
    # Recordings from before there was a choice.
    old = SimpleNamespace(data=whole.data, semantic_data=whole.semantic_data)
    np.testing.assert_array_equal(descriptors_of(old)[1], whole.semantic_data)


def test_points_carry_their_colour_as_pcl_and_rviz_have_it() -> None:
    points = np.array([[1.0, 2, 3], [-4, 5, 6]], np.float32)
    colours = np.array([[255, 128, 7], [0, 0, 1]], np.uint8)
    plain = round_trip(points_message(points, np.ones(2), header_message(0)))
    assert ([f.name for f in plain.fields], plain.point_step) == (["x", "y", "z", "confidence"], 16)
    cloud = round_trip(points_message(points, np.array([0.5, 0.25]), header_message(0), colours))
    assert [(f.name, f.offset, f.datatype) for f in cloud.fields][4:] == [("rgb", 16, 7)]
    assert (cloud.point_step, cloud.row_step, cloud.width, len(cloud.data)) == (20, 40, 2, 40)
    rows = cloud.data.reshape(2, 20)
    np.testing.assert_array_equal(rows[:, :12].copy().view(np.float32), points)
    np.testing.assert_array_equal(rows[:, 12:16].copy().view(np.float32)[:, 0], [0.5, 0.25])
    # Blue, green, red from the lowest byte on.
    np.testing.assert_array_equal(rows[:, 16:19], colours[:, ::-1])
    assert rows[:, 19].tolist() == [0, 0]
    assert point_rows(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 3), np.uint8))[1].shape == (0, 5)


def test_matches_with_and_without_a_geometric_check() -> None:
    indices = torch.tensor([[0, 5], [2, 1], [3, 70000]])
    points = torch.rand(3, 4)[:, ::2]  # not contiguous
    plain = Matches(indices, points, points + 1, torch.rand(3))
    current, reference = header_message(2_000_000_000, "right"), header_message(1_000_000_000, "left")
    read = round_trip(matches_message(plain, "stereo", current, reference))
    assert (read.mode, read.model_type, len(read.inlier)) == ("stereo", "", 0)
    assert (stamp_of(read.header), read.header.frame_id) == (2_000_000_000, "right")
    assert (stamp_of(read.reference_header), read.reference_header.frame_id) == (1_000_000_000, "left")
    assert read.index0.tolist() == [0, 2, 3] and read.index1.tolist() == [5, 1, 70000]
    assert np.array_equal(read.xy0.reshape(-1, 2), points.numpy())
    assert np.array_equal(read.xy1.reshape(-1, 2), (points + 1).numpy())
    assert np.array_equal(read.model, np.zeros(9))
    checked = Matches(
        indices,
        points,
        points,
        torch.rand(3),
        inlier=torch.tensor([True, False, True]),
        model=torch.arange(9, dtype=torch.float64).reshape(3, 3).T,
        model_type="homography",
    )
    read = round_trip(matches_message(checked, "temporal", current, reference))
    assert read.inlier.tolist() == [1, 0, 1] and read.model_type == "homography"
    assert read.model.tolist() == [0, 3, 6, 1, 4, 7, 2, 5, 8]


def test_no_matches_at_all() -> None:
    none = Matches(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0))
    read = round_trip(matches_message(none, "temporal", header_message(1), header_message(0)))
    assert len(read.index0) == len(read.xy0) == len(read.confidence) == 0


def test_batches_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"batch of 2; take features\[i\]"):
        keypoints_message(features(3, batch=2), header_message(0))
    with pytest.raises(ShapeError, match="padding"):
        descriptors_message(
            Features(torch.rand(1, 2, 2), torch.rand(1, 2), torch.rand(1, 2, 4), (4, 4), torch.tensor([[True, False]])),
            "x",
            header_message(0),
        )
    two = Matches(
        torch.zeros(1, 2).long(), torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1), torch.zeros(1).long(), 2
    )
    with pytest.raises(ShapeError, match="one pair, got 2"):
        matches_message(two, "temporal", header_message(0), header_message(0))


def test_images_survive(textured_image: np.ndarray) -> None:
    from semantic_matcher_core.io.image_messages import compressed_to_rgb, image_to_rgb

    image = textured_image[:61, :83]
    assert np.array_equal(image_to_rgb(round_trip(image_message(image, header_message(0)))), image)
    assert np.array_equal(image_to_rgb(round_trip(image_message(image[..., 0], header_message(0)))), image[..., 0])
    lossy = compressed_to_rgb(round_trip(compressed_image_message(image, header_message(0), quality=95)))
    assert lossy.shape == image.shape
    assert np.abs(lossy.astype(int) - image.astype(int)).mean() < 12
    swapped = np.abs(lossy.astype(int)[..., ::-1] - image.astype(int)).mean()
    assert swapped > 20
    with pytest.raises(ImageError, match="float32"):
        image_message(image.astype(np.float32), header_message(0))


def test_stamps_of_ros1_headers() -> None:
    from rosbags.typesys import Stores, get_typestore

    types = get_typestore(Stores.ROS1_NOETIC).types
    header = types["std_msgs/msg/Header"](7, types["builtin_interfaces/msg/Time"](3, 5), "camera")
    assert stamp_of(header) == 3_000_000_005
