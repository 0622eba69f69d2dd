"""DALF as an extractor: detect, deform, describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.errors import check_choice
from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.extractors.dalf.backbone import UNet
from semantic_matcher_core.extractors.dalf.modes import MODES, mode_of_state_dict
from semantic_matcher_core.extractors.dalf.patch_network import PatchNetwork
from semantic_matcher_core.extractors.dalf.polar_patches import PolarPatches
from semantic_matcher_core.extractors.options import check_max_side
from semantic_matcher_core.extractors.resizing import fit_long_side, keypoints_at_size
from semantic_matcher_core.extractors.selection import (
    best_candidates,
    highest_neighbour,
    local_maxima,
    mask_at_size,
    zero_padding,
)
from semantic_matcher_core.inference import evaluating
from semantic_matcher_core.inputs import as_image_batch
from semantic_matcher_core.io.images import read_image
from semantic_matcher_core.settings import check_whole
from semantic_matcher_core.types import Features

# Below this the decoder's unpadded convolutions have nothing left to work on.
MINIMUM_SIDE = 32
SCALES = (1 / 6, 1 / 4, 1 / 2, 1.0)
# Patches described at once bound the patch network's memory whatever the number of keypoints. On the CPU the maps of so
# many (4 MB a thread) stay in the cache, and below the size for which the allocator asks for fresh pages every time.
PATCHES_PER_THREAD = 32
PATCHES_ON_GPU = 1024


class Dalf(Extractor):
    """Deformation-aware local features (Potje et al., CVPR 2023), with the published state-dict names.

    Args:
        max_keypoints: keep at most this many keypoints, the best by heat.
        mode: one of :data:`~semantic_matcher_core.extractors.dalf.modes.MODES`; checkpoints say which themselves.
        threshold: a keypoint's heat (a logit) must be above it.
        multi_scale: also look at 1/6, 1/4 and 1/2 of the size, each with a quarter of the keypoints.
        remove_borders: leave out keypoints closer than this to the image's edge; 0 as published.
        margin: how far a keypoint must rise above its highest neighbour, in logits; well above rounding noise, it makes
            the choice reproducible. ``None`` is the published rule, which keeps every pixel of a plateau: on flat
            padding that is two fifths of all keypoints, and which are found changes with the number of threads.
        max_side: an image with a longer side is seen at this one, which bounds memory; ``None`` for no bound, as
            published.

    Scores are the heat divided by the largest heat of the image (at that scale).
    """

    name = "dalf"

    def __init__(
        self,
        max_keypoints: int = 2048,
        mode: str = "ts-fl",
        threshold: float = 25.0,
        multi_scale: bool = False,
        remove_borders: int = 8,
        margin: float | None = 1e-3,
        max_side: int | None = 2048,
    ) -> None:
        super().__init__(max_keypoints)
        check_choice("DALF mode", mode, MODES)
        self.mode = mode
        self.threshold = threshold
        self.multi_scale = multi_scale
        self.remove_borders = check_whole("remove_borders", remove_borders, 0, unit=" of pixels")
        self.margin = margin
        self.max_side = check_max_side(max_side)
        self.layout = MODES[mode]
        self.descriptor_dim = self.layout.descriptor_dim
        # Attribute names are the published state dict's.
        self.net = UNet((32, 64, self.layout.backbone_dim))
        self.tps_net = PolarPatches(self.layout.backbone_dim)
        self.hardnet = PatchNetwork(self.layout.patch_dim)
        if self.layout.fused:
            self.fusion_layer = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128), nn.Sigmoid())

    @staticmethod
    def options_of_state_dict(state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return what the weights decide: the mode they were trained in."""
        return {"mode": mode_of_state_dict(state)}

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Features:
        given = _size(images)
        features = self._of_seen(*fit_long_side(images, masks, self.max_side))
        if features.image_size == given:
            return features
        keypoints = keypoints_at_size(features.keypoints, features.image_size, given)
        return replace(features, keypoints=zero_padding(keypoints, features.valid), image_size=given)

    def _of_seen(self, images: Tensor, masks: Tensor | None) -> Features:
        """Return features of images at the size that the network sees, at one scale or several."""
        if not self.multi_scale:
            return self._at_full_size(images, masks, self.max_keypoints)
        share = self.max_keypoints // len(SCALES)
        found: list[Features] = []
        for scale in SCALES[:-1]:
            shrunk = _shrunk(images, scale)
            small_masks = None if masks is None else mask_at_size(masks, *_size(shrunk))
            features = self._at_full_size(shrunk, small_masks, max(1, share))
            keypoints = zero_padding((features.keypoints + 0.5) / scale - 0.5, features.valid)
            found.append(replace(features, keypoints=keypoints, image_size=_size(images)))
        used = sum(f.keypoints.shape[1] for f in found)
        full = self._at_full_size(images, masks, max(1, self.max_keypoints - used))
        return _merge([*found, full], self.max_keypoints)

    def heat_map(self, images: Tensor) -> Tensor:
        """Return ``B x 3 x H x W``, of any size, to the detector's logits ``B x H x W``."""
        grey, (height, width) = _grey(images)
        return self.net(grey, fold=self.margin is not None)[0][:, 0, :height, :width]

    def detectAndCompute(  # type: ignore[override]
        self,
        image: np.ndarray | str | Path,
        mask: np.ndarray | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        return_map: bool = False,
        multi_scale: bool | None = None,
    ) -> tuple[list[cv2.KeyPoint], np.ndarray] | tuple[list[cv2.KeyPoint], np.ndarray, np.ndarray]:
        """Run the published call: one image as for :meth:`extract`, options for this call alone.

        Returns:
            ``cv2.KeyPoint`` list and ``N x D`` descriptors, and with ``return_map`` the ``H x W`` heat map (logits), of
            the size at which the image was seen.
        """
        if isinstance(image, (str, Path)):
            image = read_image(image)
        chosen = {"max_keypoints": top_k, "threshold": threshold, "multi_scale": multi_scale}
        configured = self.configured(**{name: value for name, value in chosen.items() if value is not None})
        keypoints, descriptors = super(Dalf, configured).detectAndCompute(image, mask)
        if not return_map:
            return keypoints, descriptors
        with torch.inference_mode():
            seen, _ = fit_long_side(as_image_batch(image, self.device), None, self.max_side)
            heat = evaluating(self).heat_map(seen)[0]
        return keypoints, descriptors, heat.float().cpu().numpy()

    def _at_full_size(self, images: Tensor, masks: Tensor | None, max_keypoints: int) -> Features:
        grey, (height, width) = _grey(images)
        # The published rule keeps plateaus, which only the published order of operations leaves level.
        logits, descriptor_map = self.net(grey, fold=self.margin is not None)
        heat = logits[:, 0, :height, :width].float()
        keypoints, scores, valid = best_candidates(
            heat, peaks(heat, self.threshold, self.margin), max_keypoints, margin=self.remove_borders, masks=masks
        )
        keypoints = keypoints.float()
        descriptors = self._describe(grey.float(), descriptor_map.float(), keypoints)
        scores = scores / heat.flatten(1).amax(dim=1, keepdim=True).clamp(min=1e-6)
        return Features(keypoints, scores, zero_padding(descriptors, valid), (height, width), valid)

    def _describe(self, grey: Tensor, descriptor_map: Tensor, keypoints: Tensor) -> Tensor:
        """Return ``B x N x D`` unit descriptors; in float32 whatever the backbone ran in, for the sampling's sake."""
        parts: list[Tensor] = []
        if self.layout.uses_patches:
            parts.append(self._describe_patches(grey, descriptor_map, keypoints))
        if self.layout.uses_backbone:
            size = keypoints.new_tensor([grey.shape[-1], grey.shape[-2]])
            at = (2.0 * keypoints / (size - 1.0) - 1.0)[:, :, None]
            sampled = F.grid_sample(descriptor_map, at, mode="bicubic", align_corners=True)
            parts.append(sampled[..., 0].transpose(1, 2))
        joined = torch.cat(parts, dim=-1)
        if self.layout.fused:
            joined = joined * self.fusion_layer(joined)
        return F.normalize(joined.float(), dim=-1)

    def _describe_patches(self, grey: Tensor, descriptor_map: Tensor, keypoints: Tensor) -> Tensor:
        parameter_map = self.tps_net.parameter_map(descriptor_map).float()
        splines = self.tps_net.splines(parameter_map, grey, keypoints)
        batch, count, _ = keypoints.shape
        out = keypoints.new_zeros(batch, count, self.layout.patch_dim)
        on_cpu = keypoints.device.type == "cpu"
        at_once = PATCHES_PER_THREAD * torch.get_num_threads() if on_cpu else PATCHES_ON_GPU
        step = max(1, at_once // batch)
        for start in range(0, count, step):
            chunk = slice(start, start + step)
            patches = self.tps_net.sample(grey, keypoints[:, chunk], splines[:, chunk])
            described = self.hardnet(patches.flatten(0, 1)[:, None])
            out[:, chunk] = described.view(batch, -1, self.layout.patch_dim)
        return out


def _grey(images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Return mean of the channels, replicated right and down to the least size the network takes, and the true size."""
    height, width = _size(images)
    grey = images.mean(dim=1, keepdim=True)
    pad = (0, max(0, MINIMUM_SIDE - width), 0, max(0, MINIMUM_SIDE - height))
    return (F.pad(grey, pad, mode="replicate") if any(pad) else grey), (height, width)


def peaks(heat_map: Tensor, threshold: float, margin: float | None) -> Tensor:
    """Return ``B x H x W`` bool: which pixels of ``B x H x W`` logits are keypoints, see :class:`Dalf`."""
    if margin is None:
        return local_maxima(heat_map, 1) & (heat_map > threshold)
    return (heat_map - highest_neighbour(heat_map, 1, -torch.inf) > margin) & (heat_map > threshold)


def _shrunk(images: Tensor, scale: float) -> Tensor:
    """Return ``B x 3 x H x W`` in [0, 1] made smaller by area averaging, as OpenCV does it with 8-bit images."""
    pictures = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    height, width = (round(side * scale) for side in _size(images))
    # OpenCV would round a thin side to nothing.
    size = None if height and width else (max(1, width), max(1, height))
    small = [cv2.resize(p, size, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for p in pictures]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).to(images) / 255


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _merge(parts: list[Features], max_keypoints: int) -> Features:
    """Return all scales in one, best first."""
    valid = torch.cat([p.real for p in parts], dim=1)
    scores = torch.cat([p.scores for p in parts], dim=1)
    # Padding sorts last; the sort is stable, so equal scores stay coarse before fine.
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    order = order[:, : min(max_keypoints, int(valid.sum(dim=1).max()))]

    def pick(t: Tensor) -> Tensor:
        return t.gather(1, order if t.ndim == 2 else order[..., None].expand(-1, -1, t.shape[-1]))

    valid = pick(valid)
    return Features(
        pick(torch.cat([p.keypoints for p in parts], dim=1)),
        pick(scores),
        pick(torch.cat([p.descriptors for p in parts], dim=1)),
        parts[-1].image_size,
        None if bool(valid.all()) else valid,
    )
