"""Changes of light move nothing, and do what their names say."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import make_textured_image
from training.student.light import CHANGES, Light, blur, fog, jpeg, motion, night, temperature


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return torch.from_numpy(make_textured_image(160, 200, 3)).permute(2, 0, 1)[None].float() / 255


def edges(images: torch.Tensor) -> torch.Tensor:
    """``B x H x W`` how much changes from pixel to pixel, which a change of values leaves in its place."""
    grey = images.mean(dim=1)
    dx = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
    dy = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    strength = (dx.square() + dy.square()).sqrt()
    # Where light is even, edges stand out as much everywhere.
    local = F.avg_pool2d(strength[:, None], 31, 1, 15, count_include_pad=False)[:, 0]
    return strength / (local + 1e-3)


def shift_between(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """``B x 2`` (x, y) by how much the edges of the second lie elsewhere: the peak of their correlation, sub-pixel."""
    a, b = (e - e.mean(dim=(1, 2), keepdim=True) for e in (edges(first), edges(second)))
    correlation = torch.fft.ifft2(torch.fft.fft2(a).conj() * torch.fft.fft2(b)).real
    near = torch.roll(correlation, (6, 6), (1, 2))[:, :13, :13]
    peak = near.flatten(1).argmax(dim=1)
    places = []
    for values, at in zip(near, peak.tolist(), strict=True):
        y, x = at // 13, at % 13
        assert 0 < y < 12 and 0 < x < 12, "no peak near the middle"
        place = []
        for low, high in ((values[y, x - 1], values[y, x + 1]), (values[y - 1, x], values[y + 1, x])):
            place.append((low - high) / (2 * (low + high - 2 * values[y, x])))
        places.append(torch.stack(place) + torch.tensor([x - 6.0, y - 6.0]))
    return torch.stack(places)


def test_the_measure_sees_half_a_pixel(picture: torch.Tensor) -> None:
    moved = F.grid_sample(
        picture,
        F.affine_grid(
            torch.tensor([[[1.0, 0, -1.0 / 200], [0, 1, 1.0 / 160]]]), list(picture.shape), align_corners=False
        ),
        align_corners=False,
        padding_mode="reflection",
    )
    shift = shift_between(picture, moved)[0]
    torch.testing.assert_close(shift, torch.tensor([0.5, -0.5]), atol=0.2, rtol=0)


@pytest.mark.parametrize("change", [change for change, _ in CHANGES], ids=lambda change: change.__name__)
def test_nothing_is_moved(change, picture: torch.Tensor) -> None:
    light = Light(0.7, torch.Generator().manual_seed(5))
    changed = change(light, picture.repeat(6, 1, 1, 1)).clamp(0, 1)
    shift = shift_between(picture.repeat(6, 1, 1, 1), changed)
    assert shift.abs().max() < 0.12, shift


@pytest.mark.parametrize("change", [change for change, _ in CHANGES], ids=lambda change: change.__name__)
def test_each_changes_something_and_differs_from_image_to_image(change, picture: torch.Tensor) -> None:
    images = picture.repeat(4, 1, 1, 1)
    changed = change(Light(1.0, torch.Generator().manual_seed(1)), images)
    assert changed.shape == images.shape and torch.isfinite(changed).all()
    assert (changed - images).abs().mean(dim=(1, 2, 3)).max() > 0.004
    assert (changed[0] - changed[1]).abs().mean() > 1e-3


def test_what_the_names_say(picture: torch.Tensor) -> None:
    images = picture.repeat(8, 1, 1, 1)

    def of(change):
        return change(Light(1.0, torch.Generator().manual_seed(2)), images).clamp(0, 1)

    spread = images.std(dim=(1, 2, 3))
    assert (of(fog).std(dim=(1, 2, 3)) < spread).all()
    for soft in (blur, motion):
        assert (edges_of(of(soft)) < edges_of(images)).all()
    assert of(night).mean() < images.mean()
    warm = of(temperature)
    assert (warm[:, 0].mean(dim=(1, 2)) / warm[:, 2].mean(dim=(1, 2))).std() > 0.1
    # A block of one value is left as it is, but for the step of its mean.
    flat = jpeg(Light(1.0, torch.Generator().manual_seed(2)), torch.full((2, 3, 16, 16), 0.4))
    assert flat.std(dim=(2, 3)).max() < 1e-5


def edges_of(images: torch.Tensor) -> torch.Tensor:
    return (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3))


def test_a_batch_keeps_the_share_that_is_to_stay(picture: torch.Tensor) -> None:
    images = picture.repeat(20, 1, 1, 1)
    light = Light(1.0, torch.Generator().manual_seed(0))
    assert torch.equal(light(images, untouched=1.0), images)
    changed = light(images)
    assert changed.min() >= 0 and changed.max() <= 1
    again = Light(1.0, torch.Generator().manual_seed(0))
    again(images, untouched=1.0)
    assert torch.equal(again(images), changed)
