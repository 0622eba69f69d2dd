"""From a map of detection scores to the best keypoints of each image, batched and without host synchronisation.

Everything here works on whole batches with fixed shapes. On the CPU the candidates are first gathered, because
ranking a tenth of the pixels is several times cheaper; elsewhere all pixels are ranked, because gathering needs a
synchronisation. Both give the same result, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.constants import constant
from semantic_matcher_core.optimisations import is_enabled
from semantic_matcher_core.types import Features

BORDERS = ("clipped", "valid")

_LOW_BITS = (1 << 32) - 1
_BLOCK, _HALF_A_STEP = 8, 0.5 / 255
_NO_KEY = torch.iinfo(torch.int64).min


class Selection(NamedTuple):
    """Keypoints of a batch of B score maps, N rows each, best first.

    Attributes:
        keypoints: ``B x N x 2`` int64, (x, y) indices into the score map; zero in padding rows.
        scores: ``B x N`` float32, descending; zero in padding rows.
        valid: ``B x N`` bool, true for real keypoints (which come first), or ``None`` when every row is real.
    """

    keypoints: Tensor
    scores: Tensor
    valid: Tensor | None


def select_keypoints(
    score_map: Tensor,
    max_keypoints: int,
    *,
    nms_radius: int = 2,
    threshold: float = 0.0,
    border: str = "clipped",
    margin: int = 0,
    masks: Tensor | None = None,
    rescore: Callable[[Tensor], Tensor] | None = None,
    fixed_size: bool = False,
) -> Selection:
    """Return the best local maxima of each score map.

    Args:
        score_map: ``B x H x W`` float.
        max_keypoints: keep at most this many per map.
        nms_radius, border: see :func:`local_maxima`.
        threshold: a keypoint's value in ``score_map`` must be above it.
        margin, masks, rescore, max_keypoints, fixed_size: see :func:`best_candidates`.

    Returns:
        See :func:`best_candidates`.
    """
    score_map = score_map.float()
    candidates = local_maxima(score_map, nms_radius, border) & (score_map > threshold)
    return best_candidates(
        score_map, candidates, max_keypoints, margin=margin, masks=masks, rescore=rescore, fixed_size=fixed_size
    )


def local_maxima(score_map: Tensor, radius: int, border: str = "clipped") -> Tensor:
    """Return where a score map has a maximum of its ``(2 radius + 1)²`` window.

    Args:
        score_map: ``B x H x W`` float.
        radius: 0 makes every position a maximum.
        border: ``"clipped"`` clips the window at the border of the map and takes a position that equals the maximum
            of its window, so all positions of a plateau are taken (max-pooling, as in XFeat's, SuperPoint's and
            ALIKE's published code). ``"valid"`` takes a position only when it is above all others of its window,
            which must lie wholly inside the map, so plateaus and the outer ``radius`` rows and columns are left out
            (kornia's ``nms2d``).

    Returns:
        ``B x H x W`` bool.
    """
    if radius == 0:
        return torch.ones_like(score_map, dtype=torch.bool)
    if border == "clipped":
        return score_map == window_maximum(score_map, radius)
    # Positions off the map count as infinite, so that no window that reaches them is won.
    return score_map > highest_neighbour(score_map, radius, torch.inf)


def highest_neighbour(score_map: Tensor, radius: int, beyond: float) -> Tensor:
    """Return ``B x H x W`` maximum over the ``(2 radius + 1)²`` window of each position without the position itself.

    Args:
        score_map: ``B x H x W`` float.
        radius: 1 or more.
        beyond: what counts as the value of positions off the map.
    """
    padded = F.pad(score_map, (radius, radius, radius, radius), value=beyond)
    height, width = score_map.shape[-2:]
    others = _sliding_maximum(_sliding_maximum(padded, 2 * radius + 1, -1), radius, -2)
    row = _sliding_maximum(padded[..., radius : radius + height, :], radius, -1)
    neighbours = torch.maximum(others[..., :height, :], others[..., radius + 1 :, :])
    return torch.maximum(neighbours, torch.maximum(row[..., :width], row[..., radius + 1 :]))


def iterative_maxima(score_map: Tensor, radius: int, iterations: int = 2) -> Tensor:
    """Find maxima, also those that only a suppressed position stood above (SuperPoint, DeTone et al. 2018).

    A maximum suppresses its window; what is left is searched again, ``iterations`` times. Windows are clipped at the
    border of the map and plateaus are taken whole, as in the published code of SuperPoint and ALIKE.

    Args:
        score_map: ``B x H x W`` float, not negative.
        radius: of the ``(2 radius + 1)²`` window.
        iterations: 0 gives :func:`local_maxima`.

    Returns:
        ``B x H x W`` bool.
    """
    maxima = local_maxima(score_map, radius)
    if radius == 0:
        return maxima
    for _ in range(iterations):
        suppressed = window_maximum(maxima.to(score_map.dtype), radius) > 0
        rest = score_map.masked_fill(suppressed, 0)
        maxima = maxima | ((rest == window_maximum(rest, radius)) & ~suppressed)
    return maxima


def window_maximum(score_map: Tensor, radius: int) -> Tensor:
    """Return ``B x H x W`` maximum over the ``(2 radius + 1)²`` window of each position, clipped at the border of the
    map.

    The same numbers as ``max_pool2d`` with stride 1, some thirty times faster on the CPU.
    """
    if not is_enabled("sliding_maximum"):
        return F.max_pool2d(score_map[:, None], 2 * radius + 1, stride=1, padding=radius)[:, 0]
    padded = F.pad(score_map, (radius, radius, radius, radius), value=-torch.inf)
    return _sliding_maximum(_sliding_maximum(padded, 2 * radius + 1, -1), 2 * radius + 1, -2)


def best_candidates(
    score_map: Tensor,
    candidates: Tensor,
    max_keypoints: int,
    *,
    margin: int = 0,
    masks: Tensor | None = None,
    rescore: Callable[[Tensor], Tensor] | None = None,
    fixed_size: bool = False,
) -> Selection:
    """Return the best of the marked positions, by descending score; equal scores in row-major order.

    Args:
        score_map: ``B x H x W`` float.
        candidates: ``B x H x W`` bool.
        max_keypoints: keep at most this many per map.
        margin: leave out positions closer than this many pixels to the border of the map.
        masks: bool, ``B x H x W`` or broadcast to it: positions that may be kept. Applied after suppression, so that a
            mask removes keypoints and never makes new ones.
        rescore: gives the scores to rank and report instead of the map's: called once with ``B x C x 2`` int64 (x, y),
            padding included, it returns ``B x C``. What it scores NaN or minus infinity is left out.
        fixed_size: always give ``max_keypoints`` rows and ``valid``, without any host synchronisation off the CPU (for
            CUDA graphs). Otherwise rows are trimmed to the longest image, at the price of one synchronisation.
    """
    if masks is not None:
        candidates = candidates & masks
    if margin > 0:
        inside = torch.zeros_like(candidates)
        inside[
            ..., margin : max(margin, inside.shape[-2] - margin), margin : max(margin, inside.shape[-1] - margin)
        ] = True
        candidates = candidates & inside
    gathers = score_map.device.type == "cpu" and is_enabled("candidate_ranking")
    index, present = _gathered(candidates) if gathers else _everything(candidates)
    return _ranked(score_map, index, present, max_keypoints, rescore, fixed_size, whole=not gathers)


def mask_at_size(masks: Tensor, height: int, width: int) -> Tensor:
    """Resize masks of the image as given to the size that a network works at.

    Args:
        masks: ``B x H x W`` bool.
        height, width: the size to which the image is resized (pixel centres kept, see ``extractors.base``).

    Returns:
        ``B x height x width`` bool: the mask at the nearest pixel of the image as given.
    """
    for dim, size in ((1, height), (2, width)):
        given = masks.shape[dim]
        if given != size:
            centres = (torch.arange(size, device=masks.device) + 0.5) * (given / size) - 0.5
            masks = masks.index_select(dim, centres.round().long().clamp_(0, given - 1))
    return masks


def keep_rows(features: Features, keep: Tensor) -> Features:
    """Leave rows out of features.

    Args:
        features: of a batch.
        keep: ``B x N`` bool; padding is left out whatever it says.
    """
    valid = keep if features.valid is None else keep & features.valid
    # Real rows first, in their order; what is left out becomes padding.
    order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
    kept = valid.gather(1, order)

    def moved(rows: Tensor) -> Tensor:
        if rows.ndim == 2:
            return rows.gather(1, order).masked_fill(~kept, 0)
        return rows.gather(1, order[..., None].expand_as(rows)).masked_fill(~kept[..., None], 0)

    rows: dict[str, Any] = {name: moved(value) for name, value in features.tensors().items()}
    return replace(features, **{**rows, "valid": kept}).trimmed()


def is_wanted(keypoints: Tensor, masks: Tensor) -> Tensor:
    """Return ``B x N`` bool: which keypoints lie on pixels that masks want.

    Detectors read a mask at their candidates; refinement may move these over its border afterwards.

    Args:
        keypoints: ``B x N x 2`` (x, y) pixels.
        masks: ``B x H x W`` bool.
    """
    height, width = masks.shape[-2:]
    x = keypoints[..., 0].round().long().clamp(0, width - 1)
    y = keypoints[..., 1].round().long().clamp(0, height - 1)
    return masks.reshape(len(masks), -1).gather(1, y * width + x)


def textured(images: Tensor) -> Tensor:
    """Return where an image shows anything: values differ by half an 8-bit step in a pixel's 8 x 8 block or those round
    it.

    A covered lens, a burnt-out sky, the black border of a rectified image: networks that rank by what surrounds a pixel
    find keypoints there all the same, at the same places in every image.

    Args:
        images: ``B x 3 x H x W`` in [0, 1].

    Returns:
        ``B x H x W`` bool.
    """
    height, width = images.shape[-2:]
    if images.device.type == "cpu" and _textured_everywhere(images):
        return images.new_ones((1, 1, 1), dtype=torch.bool).expand(len(images), height, width)
    seen = _seen(images, _BLOCK)
    return seen.repeat_interleave(_BLOCK, 1).repeat_interleave(_BLOCK, 2)[:, :height, :width]


def _textured_everywhere(images: Tensor) -> bool:
    """Tell by a twelfth of the values whether images show something everywhere, as most do.

    On a GPU asking would wait for it.
    """
    return bool(_seen(images[:, 1:2, ::2, ::2], _BLOCK // 2).all())


def _seen(images: Tensor, side: int) -> Tensor:
    """Return of each block of ``side`` pixels of ``B x C x H x W`` whether values differ in it or a block beside it."""
    height, width = images.shape[-2:]
    padding = (0, -width % side, 0, -height % side)
    blocks = (F.pad(images, padding, mode="replicate") if any(padding) else images).unflatten(-2, (-1, side))
    # Rows first: a reduction over a dimension that is not the last is several times faster on a CPU.
    brightest, darkest = (
        window_maximum(rows.unflatten(-1, (-1, side)).amax(-1).flatten(0, 1), 1).unflatten(0, images.shape[:2])
        for rows in (blocks.amax(-2), -blocks.amin(-2))
    )
    return (brightest + darkest > _HALF_A_STEP).any(1)


def zero_padding(tensor: Tensor, valid: Tensor | None) -> Tensor:
    """Return ``tensor`` (``B x N`` or ``B x N x D``) with zeros in the rows that are not valid."""
    if valid is None:
        return tensor
    return torch.where(valid if tensor.ndim == 2 else valid[..., None], tensor, constant((0,), tensor))


def _sliding_maximum(x: Tensor, window: int, dim: int) -> Tensor:
    """Find maxima of all whole windows along ``dim`` by doubling: a window of 5 takes three element-wise maxima."""
    covered = 1
    while covered < window:
        step = min(covered, window - covered)
        length = x.shape[dim] - step
        x = torch.maximum(x.narrow(dim, 0, length), x.narrow(dim, step, length))
        covered += step
    return x


def _gathered(candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``B x C`` flat indices of the candidates of each map in row-major order, and which of them are no
    padding.
    """
    flat = candidates.flatten(1)
    image, index = flat.nonzero(as_tuple=True)
    counts = torch.bincount(image, minlength=flat.shape[0])
    columns = torch.arange(int(counts.max()), device=flat.device)
    rank = torch.arange(len(index), device=flat.device) - (counts.cumsum(0) - counts)[image]
    padded = index.new_zeros((flat.shape[0], len(columns)))
    padded[image, rank] = index
    return padded, columns < counts[:, None]


def _everything(candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Give what :func:`_gathered` does, of all positions, with the candidates marked: no shape depends on the data."""
    flat = candidates.flatten(1)
    return torch.arange(flat.shape[1], device=flat.device).expand_as(flat), flat


def _ranked(
    score_map: Tensor,
    index: Tensor,
    present: Tensor,
    max_keypoints: int,
    rescore: Callable[[Tensor], Tensor] | None,
    fixed_size: bool,
    whole: bool,
) -> Selection:
    width = score_map.shape[-1]
    if rescore is None:
        scores = score_map.flatten(1) if whole else score_map.flatten(1).gather(1, index)
    else:
        scores = rescore(torch.stack((index % width, index // width), dim=-1))
    scores = scores.float()
    if scores.device.type == "cuda" and scores.shape[1] > max_keypoints:
        # There torch's kernels take and leave equal scores in their order, and half as many digits take half the time.
        usable = present & (scores > -torch.inf)
        scores, order = torch.where(usable, scores, constant((-torch.inf,), scores)).topk(max_keypoints, dim=1)
        index, real = index.gather(1, order), scores > -torch.inf
    else:
        keys = _ranking_keys(scores, index).masked_fill(~(present & (scores > -torch.inf)), _NO_KEY)
        best, order = keys.topk(min(max_keypoints, keys.shape[1]), dim=1)
        index, scores, real = index.gather(1, order), scores.gather(1, order), best != _NO_KEY
    valid: Tensor | None = real
    missing = max_keypoints - index.shape[1]
    if fixed_size and missing:
        index, scores, valid = F.pad(index, (0, missing)), F.pad(scores, (0, missing)), F.pad(real, (0, missing))
    elif not fixed_size:
        fewest, most = torch.stack(torch.aminmax(real.sum(dim=1))).tolist()
        index, scores, valid = index[:, :most], scores[:, :most], real[:, :most] if fewest < most else None
    keypoints = torch.stack((index % width, index // width), dim=-1)
    return Selection(zero_padding(keypoints, valid), zero_padding(scores, valid), valid)


def _ranking_keys(scores: Tensor, index: Tensor) -> Tensor:
    """Return int64 keys, all different, that sort by falling score, then rising index: top-k is then deterministic."""
    bits = (scores + 0.0).contiguous().view(torch.int32)  # adding 0 turns -0.0 into 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # IEEE 754 bits in the order of their values
    return (ordered.to(torch.int64) << 32) | (_LOW_BITS - index)
