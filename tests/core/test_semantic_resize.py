"""Resizing for the semantic encoder against golden files and hand-made images."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import ConfigError, ShapeError
from semantic_matcher_core.semantics import resize_for_encoder


def position_image(height: int, width: int) -> torch.Tensor:
    """An image whose channels are the x and y pixel index: resized values tell where they came from."""
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    return torch.stack((x, y, torch.zeros_like(x)))[None]


def test_golden_bilinear_resize(shared: Path) -> None:
    golden = np.load(shared / "golden" / "resize_long_edge.npz")
    bgr = cv2.imread(str(shared / "golden" / "xfeat_ref_640x480.png"))
    image = torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1).float() / 255
    # 672 x 896 are multiples of 14, so nothing follows the bilinear step, and both ways agree.
    for registration in ("published", "exact"):
        resized, scale = resize_for_encoder(image[None], 896, 14, registration=registration)
        assert scale == pytest.approx(float(golden["scale"]), abs=1e-12)
        assert resized.shape == (1, 3, 672, 896)
        out = resized[0].numpy()
        np.testing.assert_allclose(out[:, golden["ys"]][:, :, golden["xs"]], golden["patch"], atol=1e-6)
        np.testing.assert_allclose(out[:, ::8, ::8], golden["strided"], atol=1e-6)
        np.testing.assert_allclose(out.mean(axis=(1, 2)), golden["mean"], atol=1e-5)


def test_golden_sizes(shared: Path) -> None:
    shapes = json.loads((shared / "golden" / "resize_shapes.json").read_text())
    checked = 0
    for key, expected in shapes.items():
        if key.startswith("short"):
            continue
        height, width = map(int, key.split("x"))
        resized, scale = resize_for_encoder(torch.zeros(1, 3, height, width), 896, 14, registration="published")
        assert list(resized.shape[-2:]) == expected[4], key
        assert scale == pytest.approx(expected[2], abs=1e-12)
        checked += 1
    assert checked == 7


def test_golden_nearest_to_patch_multiples(shared: Path) -> None:
    source = np.load(shared / "golden" / "dino_nearest_512_to_504.npz")["src_index"]
    # At long side 512 the bilinear step changes nothing, and 512 -> 504 is the nearest step alone.
    resized, scale = resize_for_encoder(position_image(512, 512), 512, 14, registration="published")
    assert scale == 1
    assert np.array_equal(resized[0, 0, 0].numpy(), source)
    assert np.array_equal(resized[0, 1, :, 0].numpy(), source)


@pytest.mark.parametrize("size", [(480, 640), (968, 1296), (480, 641), (375, 1242), (97, 33), (61, 1000)])
def test_exact_resize_shows_the_whole_image(size: tuple[int, int]) -> None:
    height, width = size
    resized, _ = resize_for_encoder(position_image(height, width), 896, 14, registration="exact")
    h, w = resized.shape[-2:]
    assert h % 14 == w % 14 == 0
    assert max(h, w) == 896
    # The aspect ratio is kept to half a patch of the short side.
    assert abs(min(h, w) - 896 * min(size) / max(size)) <= 7
    # Pixel centres map to (i + 0.5) * H / h - 0.5, away from the border where bilinear sampling repeats pixels.
    for axis, (n, full) in enumerate(((w, width), (h, height))):
        line = resized[0, 0, 0] if axis == 0 else resized[0, 1, :, 0]
        expected = ((torch.arange(n) + 0.5) * full / n - 0.5).clamp(0, full - 1)
        torch.testing.assert_close(line, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("registration", ["exact", "published"])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (97, 33), (1, 2000), (2000, 1), (13, 15)])
def test_tiny_and_thin_images_get_at_least_one_patch(size: tuple[int, int], registration: str) -> None:
    image = torch.rand(2, 3, *size)
    for long_side in (14, 15, 100, 896):
        resized, scale = resize_for_encoder(image, long_side, 14, registration=registration)
        h, w = resized.shape[-2:]
        assert h >= 14 and w >= 14 and h % 14 == 0 and w % 14 == 0
        assert max(h, w) == long_side // 14 * 14
        assert scale > 0
        assert resized.isfinite().all()


def test_non_contiguous_input_gives_the_same() -> None:
    image = torch.rand(2, 61, 83, 3).permute(0, 3, 1, 2)
    for registration in ("exact", "published"):
        a, _ = resize_for_encoder(image, 140, 14, registration=registration)
        b, _ = resize_for_encoder(image.contiguous(), 140, 14, registration=registration)
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_errors_name_the_value() -> None:
    image = torch.zeros(1, 3, 20, 20)
    with pytest.raises(ConfigError, match=r"'precise'.*exact, published"):
        resize_for_encoder(image, 896, 14, registration="precise")
    with pytest.raises(ConfigError, match="14 px, got 13"):
        resize_for_encoder(image, 13, 14, registration="exact")
    for bad in (image[0], torch.zeros(1, 3, 0, 5)):
        with pytest.raises(ShapeError, match="B x 3 x H x W"):
            resize_for_encoder(bad, 896, 14, registration="exact")
