"""The published calling convention of DALF gives the published results."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from semantic_matcher_core.compat import DALF
from semantic_matcher_core.errors import CheckpointError, DeviceError, ImageError, WeightsNotFoundError


@pytest.fixture(scope="module")
def dalf(shared: Path) -> DALF:
    return DALF(shared / "weights" / "dalf_ts-fl.pth")


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "golden" / "dalf_crop160.npz") as file:
        return dict(file)


def test_every_keypoint_and_descriptor_is_the_published_one(dalf: DALF, golden: dict[str, np.ndarray]) -> None:
    keypoints, descriptors = dalf.detectAndCompute(golden["image_bgr"], top_k=128)
    assert golden["stable"].all() and len(keypoints) == len(descriptors) == 128
    rows = {keypoint.pt: row for row, keypoint in enumerate(keypoints)}
    order = [rows[tuple(xy)] for xy in golden["keypoints"].tolist()]
    np.testing.assert_allclose(descriptors[order], golden["descriptors"], atol=1e-4)
    np.testing.assert_allclose([keypoints[row].response for row in order], golden["scores"], atol=1e-5)
    assert {(keypoint.size, keypoint.angle) for keypoint in keypoints} == {(6.0, 0.0)}


def test_the_order_of_channels_does_not_matter(dalf: DALF, golden: dict[str, np.ndarray]) -> None:
    both = [dalf.detectAndCompute(image, top_k=64) for image in (golden["image_bgr"], golden["image_bgr"][..., ::-1])]
    # The published rule keeps ties, which a sum in another order breaks; what is common has the same descriptors.
    rows = [{keypoint.pt: row for row, keypoint in enumerate(keypoints)} for keypoints, _ in both]
    common = sorted(set(rows[0]) & set(rows[1]))
    assert len(common) > 50
    np.testing.assert_allclose(*(both[i][1][[rows[i][p] for p in common]] for i in range(2)), atol=1e-4)


def test_a_path_a_map_and_options_of_one_call(dalf: DALF, golden: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "crop.png"
    cv2.imwrite(str(path), golden["image_bgr"])
    found = dalf.detectAndCompute(str(path), return_map=True, top_k=50)
    assert len(found) == 3
    keypoints, descriptors, heat_map = found
    assert len(keypoints) == 50 and descriptors.shape == (50, 128) and heat_map.shape == (160, 160)
    for keypoint in keypoints:
        x, y = (round(value) for value in keypoint.pt)
        assert heat_map[y, x] / heat_map.max() == pytest.approx(keypoint.response, abs=1e-4)
    assert min(keypoint.response for keypoint in keypoints) * heat_map.max() > 25
    hot = dalf.detectAndCompute(path, threshold=200.0)[0]
    assert 0 < len(hot) < len(dalf.detect(path))
    mask = np.zeros((160, 160), np.uint8)
    mask[:, 80:] = 1
    assert all(keypoint.pt[0] >= 80 for keypoint in dalf.detectAndCompute(path, mask)[0])


def test_multi_scale_shares_the_budget(dalf: DALF, golden: dict[str, np.ndarray]) -> None:
    keypoints, descriptors = dalf.detectAndCompute(golden["image_bgr"], top_k=100, MS=True)
    assert len(keypoints) == len(descriptors) == 100
    assert sum(keypoint.pt[0] % 1 != 0 for keypoint in keypoints) > 20


def test_an_image_without_keypoints_has_none(dalf: DALF, golden: dict[str, np.ndarray]) -> None:
    keypoints, descriptors = dalf.detectAndCompute(golden["image_bgr"], threshold=1e6)
    assert keypoints == [] and descriptors.shape == (0, 128)


def test_fixed_patches_are_others(dalf: DALF, golden: dict[str, np.ndarray], shared: Path) -> None:
    fixed = DALF(str(shared / "weights" / "dalf_ts-fl.pth"), fixed_tps=True)
    (keypoints, descriptors), (same, others) = (
        d.detectAndCompute(golden["image_bgr"], top_k=20) for d in (dalf, fixed)
    )
    assert [k.pt for k in keypoints] == [k.pt for k in same]
    assert np.abs(descriptors - others).max() > 0.01


def test_what_is_not_there_is_said(dalf: DALF, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match=r"no such image file: .*missing\.png"):
        dalf.detectAndCompute(tmp_path / "missing.png")
    monkeypatch.setenv("SEMANTIC_MATCHER_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsNotFoundError, match="weights fetch dalf"):
        DALF()
    with pytest.raises(CheckpointError):
        DALF(shared / "weights" / "alike-t.pth")
    with pytest.raises(DeviceError):
        DALF(shared / "weights" / "dalf_ts-fl.pth", dev="cuda:77")
