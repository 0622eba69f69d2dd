"""Changes of light, weather and sensor for a batch of views, on its device. None moves anything: each is a change
of values, or a filter that is symmetric about its middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

# The luminance table of JPEG (ITU-T T.81, annex K).
_JPEG_TABLE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)


class Light:
    """Draws and applies changes.

    Args:
        strength: factor of every change.
        generator: draws, on the images' device.
    """

    def __init__(self, strength: float, generator: torch.Generator) -> None:
        self.strength = strength
        self.generator = generator

    def __call__(self, images: Tensor, untouched: float = 0.0) -> Tensor:
        """Return changed images.

        Args:
            images: ``B x 3 x H x W`` float in [0, 1], H and W multiples of 8.
            untouched: share of images that are given back as they are.
        """
        changed = images
        for change, share in CHANGES:
            changed = self.some(changed, share, change)
        changed = changed.clamp(0, 1)
        same = self.uniform(len(images), 0, 1) < untouched
        return torch.where(same[:, None, None, None], images, changed)

    def some(self, images: Tensor, share: float, change: Callable[[Light, Tensor], Tensor]) -> Tensor:
        """Return a change of a random share of the images; the number of them is the same in every batch of a size."""
        count = math.ceil(share * len(images)) if share < 1 else len(images)
        if share * len(images) < 1 and float(self.uniform(1, 0, 1)) > share * len(images):
            return images
        if count == len(images):
            return change(self, images).clamp(0, 1)
        chosen = torch.randperm(len(images), generator=self.generator, device=images.device)[:count]
        return images.index_copy(0, chosen, change(self, images[chosen]).clamp(0, 1))

    def uniform(self, count: int, low: float, high: float, *shape: int) -> Tensor:
        """Return ``count x shape`` numbers."""
        drawn = torch.rand(count, *shape, generator=self.generator, device=self.generator.device)
        return low + (high - low) * drawn

    def spread(self, images: Tensor, amount: float, channels: int = 1) -> Tensor:
        """Return ``B x channels x 1 x 1`` numbers within ``± amount`` times the strength."""
        return self.uniform(len(images), -1, 1, channels, 1, 1) * amount * self.strength

    def noise(self, like: Tensor) -> Tensor:
        """Return normal numbers of a shape."""
        return torch.randn(like.shape, generator=self.generator, device=like.device)

    def smooth(self, images: Tensor, cells: int) -> Tensor:
        """Return ``B x 1 x H x W`` smooth fields of about -1 to 1, that many waves across."""
        coarse = self.uniform(len(images), -1, 1, 1, cells, cells)
        return F.interpolate(coarse, images.shape[-2:], mode="bicubic", align_corners=True)


def exposure(light: Light, images: Tensor) -> Tensor:
    """Make brighter or darker, clipped where it is too bright, with another gamma in each channel."""
    gamma = torch.exp(light.spread(images, 0.4) + light.spread(images, 0.2, 3))
    return images.clamp(min=1e-4).pow(gamma) * torch.exp(light.spread(images, 0.5))


def temperature(light: Light, images: Tensor) -> Tensor:
    """Make the light warmer or colder, and change saturation; one in six loses its colour."""
    warm, tint = light.spread(images, 0.35), light.spread(images, 0.12)
    images = images * torch.exp(torch.cat((warm, tint, -warm), dim=1))
    colour = (1 + light.spread(images, 0.6)).clamp(min=0)
    colour = torch.where(light.uniform(len(images), 0, 1, 1, 1, 1) < 1 / 6, torch.zeros_like(colour), colour)
    return torch.lerp(images.mean(dim=1, keepdim=True), images, colour)


def contrast(light: Light, images: Tensor) -> Tensor:
    """Change contrast about the mean."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * torch.exp(light.spread(images, 0.5)) + mean + light.spread(images, 0.1)


def field(light: Light, images: Tensor) -> Tensor:
    """Vary the light smoothly over the picture."""
    amount = light.uniform(len(images), 0, 1.1, 1, 1, 1) * light.strength
    return images * torch.exp(amount * (light.smooth(images, 3) + 0.3 * light.smooth(images, 6)))


def shadow(light: Light, images: Tensor) -> Tensor:
    """Return the edge of a shadow, straight or wavy, sharp or soft, of any depth and place."""
    x, y = _places(images)
    angle = light.uniform(len(images), 0, 2 * math.pi, 1, 1, 1)
    edge = (
        angle.cos() * x
        + angle.sin() * y
        + 0.25 * light.smooth(images, 4)
        - light.uniform(len(images), -0.6, 0.6, 1, 1, 1)
    )
    sharpness = torch.exp(light.uniform(len(images), 1.0, 5.0, 1, 1, 1))
    depth = light.uniform(len(images), 0.2, 0.85, 1, 1, 1) * min(1.0, light.strength)
    return images * (1 - depth * torch.sigmoid(sharpness * edge))


def spots(light: Light, images: Tensor) -> Tensor:
    """Add lamps: bright places with a colour that also wash out what they cover."""
    x, y = _places(images)
    glow = torch.zeros_like(images[:, :1])
    for _ in range(2):
        dx, dy = (p - light.uniform(len(images), -1, 1, 1, 1, 1) for p in (x, y))
        size = torch.exp(light.uniform(len(images), -2.2, -0.3, 1, 1, 1))
        glow = glow + torch.exp(-(dx**2 + dy**2) / (2 * size**2))
    colour = light.uniform(len(images), 0.6, 1.0, 3, 1, 1)
    lit = light.uniform(len(images), 0.3, 1.0, 1, 1, 1) * light.strength
    return images * (1 + lit * glow) + 0.5 * lit * glow * colour


def night(light: Light, images: Tensor) -> Tensor:
    """Darken, then brighten as a sensor does, with its noise, a colour cast and lamps."""
    dark = torch.exp(light.uniform(len(images), -3.0, -1.0, 1, 1, 1) * light.strength)
    dim = images.clamp(min=1e-4).pow(1.3) * dark * torch.exp(0.8 * light.smooth(images, 4))
    dim = dim * torch.exp(light.uniform(len(images), -0.4, 0.4, 3, 1, 1))
    dim = spots(light, dim)
    read = light.uniform(len(images), 0.002, 0.02, 1, 1, 1) * light.strength
    dim = dim + light.noise(dim) * (read + 0.03 * light.strength * dim.clamp(min=0).sqrt() * dark.sqrt())
    gain = light.uniform(len(images), 0.3, 1.0, 1, 1, 1)
    return dim.clamp(min=0) * (1 / dark) ** gain


def infrared(light: Light, images: Tensor) -> Tensor:
    """Imitate another sensor: other shares of the channels, one perhaps negative, as plants shine in near infrared."""
    weights = light.uniform(len(images), -0.8, 1.0, 3, 1, 1)
    grey = (images * weights).sum(dim=1, keepdim=True)
    low, high = grey.amin(dim=(2, 3), keepdim=True), grey.amax(dim=(2, 3), keepdim=True)
    return ((grey - low) / (high - low + 1e-3)).expand_as(images)


def inversion(light: Light, images: Tensor) -> Tensor:
    """Invert part of the range of values: bright becomes dark where the picture is above or below some grey."""
    turning = light.uniform(len(images), 0.25, 0.75, 1, 1, 1)
    folded = 1 - (images - turning).abs() / torch.maximum(turning, 1 - turning)
    share = light.uniform(len(images), 0.3, 1.0, 1, 1, 1) * min(1.0, light.strength)
    return torch.lerp(images, folded, share)


def fog(light: Light, images: Tensor) -> Tensor:
    """Add fog of varying thickness: less contrast, more grey."""
    thick = (light.uniform(len(images), 0.2, 0.75, 1, 1, 1) + 0.15 * light.smooth(images, 3)) * min(1.0, light.strength)
    colour = light.uniform(len(images), 0.5, 0.95, 1, 1, 1) + light.uniform(len(images), -0.05, 0.05, 3, 1, 1)
    return torch.lerp(images, colour.expand_as(images), thick.clamp(0, 0.9))


def blur(light: Light, images: Tensor) -> Tensor:
    """Blur as out of focus: a Gaussian of up to two pixels."""
    sigma = light.uniform(len(images), 0.3, 2.0) * light.strength
    reach = torch.arange(-5, 6, device=images.device)
    line = torch.exp(-(reach**2) / (2 * sigma[:, None].clamp(min=0.1) ** 2))
    kernels = line[:, :, None] * line[:, None]
    return _filtered(images, kernels / kernels.sum(dim=(1, 2), keepdim=True))


def motion(light: Light, images: Tensor) -> Tensor:
    """Blur by motion, up to eleven pixels, the middle of the exposure being the image's place."""
    return _filtered(images, _streaks(light, len(images), 5))


def rain(light: Light, images: Tensor) -> Tensor:
    """Add bright streaks that fall in one direction, and a little haze."""
    drops = (light.uniform(len(images), 0, 1, 1, *images.shape[-2:]) > 0.995).float()
    streaks = _filtered(drops, _streaks(light, len(images), 5, upright=True)) * 4
    strong = light.uniform(len(images), 0.3, 0.9, 1, 1, 1) * light.strength
    return torch.lerp(images, torch.full_like(images, 0.7), 0.15 * strong) + strong * streaks.clamp(max=0.6)


def noise(light: Light, images: Tensor) -> Tensor:
    """Add noise of the sensor."""
    return images + light.noise(images) * light.uniform(len(images), 0, 0.06, 1, 1, 1) * light.strength


def jpeg(light: Light, images: Tensor) -> Tensor:
    """Return what JPEG at a quality of about 10 to 60 leaves of the blocks of each channel."""
    batch, channels, height, width = images.shape
    steps = torch.arange(8, device=images.device)
    basis = torch.cos(math.pi / 8 * steps[:, None] * (steps + 0.5)) * 0.5
    basis[0] /= math.sqrt(2)
    table = images.new_tensor([float(value) for value in _JPEG_TABLE.split()]).view(8, 8) / 255
    coarse = torch.exp(light.uniform(batch, -0.2, 1.6)) * light.strength
    blocks = images.view(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    frequencies = basis @ (blocks - 0.5) @ basis.T
    step = table * coarse[:, None, None, None, None, None].clamp(min=1e-3)
    blocks = basis.T @ ((frequencies / step).round() * step) @ basis + 0.5
    return blocks.transpose(3, 4).reshape(images.shape)


# In the order of the way of light: scene, weather, lens, sensor, file; each with the share of images that it changes.
CHANGES: tuple[tuple[Callable[[Light, Tensor], Tensor], float], ...] = (
    (field, 0.5),
    (shadow, 0.35),
    (spots, 0.12),
    (fog, 0.08),
    (rain, 0.05),
    (temperature, 0.7),
    (exposure, 0.8),
    (contrast, 0.5),
    (night, 0.18),
    (infrared, 0.1),
    (inversion, 0.06),
    (blur, 0.2),
    (motion, 0.1),
    (noise, 0.4),
    (jpeg, 0.2),
)


def _places(images: Tensor) -> tuple[Tensor, Tensor]:
    height, width = images.shape[-2:]
    y = torch.linspace(-1, 1, height, device=images.device).view(1, 1, -1, 1)
    return torch.linspace(-1, 1, width, device=images.device).view(1, 1, 1, -1), y


def _streaks(light: Light, count: int, reach: int, *, upright: bool = False) -> Tensor:
    """Return ``B x k x k`` kernels of short lines through the middle, k = 2 reach + 1, symmetric about it."""
    turn = light.uniform(count, -0.4, 0.4, 1, 1) + math.pi / 2 if upright else light.uniform(count, 0, math.pi, 1, 1)
    length = light.uniform(count, 1.0, reach, 1, 1) * min(1.0, light.strength)
    steps = torch.arange(-reach, reach + 1, device=turn.device) + 0.0
    y, x = steps[:, None], steps[None]
    along, across = turn.cos() * x + turn.sin() * y, turn.cos() * y - turn.sin() * x
    kernels = (1 - across.abs()).clamp(min=0) * (length + 0.5 - along.abs()).clamp(0, 1)
    return kernels / kernels.sum(dim=(1, 2), keepdim=True)


def _filtered(images: Tensor, kernels: Tensor) -> Tensor:
    """Return each image through its own ``k x k`` kernel; the border is mirrored."""
    batch, channels = images.shape[:2]
    reach = kernels.shape[-1] // 2
    padded = F.pad(images, (reach,) * 4, mode="reflect").reshape(
        1, batch * channels, *(s + 2 * reach for s in images.shape[-2:])
    )
    weights = kernels[:, None].expand(-1, channels, -1, -1).reshape(batch * channels, 1, *kernels.shape[-2:])
    return F.conv2d(padded, weights, groups=batch * channels).view_as(images)
