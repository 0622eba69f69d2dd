"""Pictures of semantics: what the semantic map tells apart, and what a point resembles by texture and semantics."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.inputs import as_picture
from semantic_matcher_core.matching.evidence import evidence, nearest_keypoint
from semantic_matcher_core.semantics.semantic_map import SemanticMap
from semantic_matcher_core.settings import MatcherConfig
from semantic_matcher_core.types import Features
from semantic_matcher_core.viz.canvas import dots, layout, ring, text
from semantic_matcher_core.viz.palette import MARK, THEMES, amount_colours
from semantic_matcher_core.viz.picture import Picture
from semantic_matcher_core.viz.strip import Legend, draw_strip

# Share of values that lies outside the range of each of the three colours, at either end.
_TAIL = 0.02
_CANDIDATES = 3


def principal_colours(maps: list[SemanticMap]) -> list[np.ndarray]:
    """Colour semantic maps by their three principal components, which all of the maps share.

    Args:
        maps: of one image each.

    Returns:
        ``h x w x 3`` float32 in [0, 1] of each map: equal colours, equal semantics, in one image as in the other.
    """
    rows = [m.features[0].flatten(1).T.float().cpu() for m in maps]
    everything = torch.cat(rows)
    mean = everything.mean(dim=0)
    # Of the covariance, which is small; the sign of each is chosen, so that the picture is always the same.
    centred = everything - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred / max(1, len(centred)))
    axes = vectors[:, -3:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    if axes.shape[1] < 3:
        axes = torch.nn.functional.pad(axes, (0, 3 - axes.shape[1]))
    projected = centred @ axes
    low, high = torch.quantile(projected, _TAIL, dim=0), torch.quantile(projected, 1 - _TAIL, dim=0)
    shares = projected.sub(low).div((high - low).clamp(min=1e-9)).clamp(0, 1)
    parts = shares.split([len(r) for r in rows])
    return [p.reshape(*m.features.shape[-2:], 3).numpy() for p, m in zip(parts, maps, strict=True)]


def draw_semantics(
    image0: Any,
    image1: Any,
    map0: SemanticMap | None,
    map1: SemanticMap | None,
    *,
    title: str = "",
    height: int = 480,
    theme: str = "dark",
) -> Picture:
    """Lay the semantic maps of a pair over its images, coloured by their principal components.

    Args:
        image0, image1: anything that ``SemanticMatcher.extract`` takes.
        map0, map1: of them, second result of ``SemanticMatcher.extract_with_map``.
        title, height, theme: as for ``draw_matches``.

    Raises:
        ConfigError: there is no map, because the matcher is plain.
    """
    if map0 is None or map1 is None:
        raise ConfigError("a plain matcher has no semantic map; take a variant with semantics, such as compact")
    images = [as_picture(image) for image in (image0, image1)]
    painted = []
    for image, colours in zip(images, principal_colours([map0, map1]), strict=True):
        over = cv2.resize(colours, image.shape[1::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        painted.append(np.round(0.65 * over + 0.35 * grey).astype(np.uint8))
    canvas, strip, _ = layout(painted, height, theme)
    words = "semantic map: like colours are like things to the network, in both images"
    draw_strip(canvas[:strip], title, words, Legend(), THEMES[theme])
    return Picture.of(canvas)


def draw_point(
    image0: Any,
    image1: Any,
    features0: Features,
    features1: Features,
    point: tuple[float, float],
    *,
    matching: MatcherConfig | None = None,
    title: str = "",
    height: int = 360,
    theme: str = "dark",
) -> Picture:
    """Draw what one point of the first image resembles in the second: by texture, by semantics, and by both.

    Args:
        image0, image1: anything that ``SemanticMatcher.extract`` takes.
        features0, features1: of them, one image each.
        point: (x, y) in pixels of the first image; its nearest keypoint is taken.
        matching: how the matcher fuses similarities.
        title, height, theme: as for ``draw_matches``.

    Returns:
        The first image with the point, and the second once for each kind of similarity, each keypoint coloured by it,
        from the median to the best, and the best three numbered.

    Raises:
        ShapeError: an image has no keypoints.
        ConfigError: the point is outside the first image.
    """
    rows, columns = features0.image_size
    if not (-0.5 <= point[0] <= columns - 0.5 and -0.5 <= point[1] <= rows - 0.5):
        raise ConfigError(f"point {point[0]:g},{point[1]:g} is outside the first image, {columns} x {rows} pixels")
    row = nearest_keypoint(features0, point)
    nearest_keypoint(features1, (0, 0))  # says so where there is none
    kinds = evidence(features0, features1, torch.tensor([row]), matching).kinds()
    images = [as_picture(image0), *[as_picture(image1)] * len(kinds)]
    faint = [images[0], *[(0.5 * image).astype(np.uint8) for image in images[1:]]]
    canvas, strip, placements = layout(faint, height, theme)
    unit = height / 360
    place = placements[0](features0.keypoints[:, row].cpu().double().numpy())[0]
    ring(canvas, place, MARK, radius=8 * unit, thickness=max(1, round(2 * unit)))
    keypoints = features1.keypoints[0].cpu().double().numpy()
    won = []
    for (name, similarity), placement in zip(kinds.items(), placements[1:], strict=True):
        values = similarity[0].cpu().double().numpy()
        order = np.argsort(values, kind="stable")
        low, high = float(np.quantile(values, 0.5)), float(values.max())
        shares = (values - low) / max(high - low, 1e-9)
        centres = placement(keypoints)
        dots(canvas, centres[order], amount_colours(shares[order]), radius=2.2 * unit)
        for rank, best in enumerate(order[::-1][:_CANDIDATES], start=1):
            if rank == 1:
                ring(canvas, centres[best], MARK, radius=8 * unit, thickness=max(1, round(2 * unit)))
            x, y = (round(v) for v in centres[best])
            text(canvas, str(rank), x + round(10 * unit), canvas.shape[1], y, 0.42 * unit, MARK, rim=True)
        left = placement.left + round(8 * unit)
        label = f"{name} {high:.2f}"
        text(canvas, label, left, canvas.shape[1], canvas.shape[0] - round(14 * unit), 0.55 * unit, MARK, rim=True)
        won.append(int(order[-1]))
    draw_strip(
        canvas[:strip],
        title,
        _why(kinds, won),
        Legend((), "similarity to the point:", ("median", "best")),
        THEMES[theme],
    )
    return Picture.of(canvas)


def _why(kinds: dict[str, torch.Tensor], won: list[int]) -> str:
    """Return who wins by each kind, in words."""
    if len(kinds) == 1:
        return "the best by texture; a variant with semantics would show those too"
    texture, semantic, both = won
    if texture == semantic == both:
        return "texture and semantics agree on the best"
    values = kinds["texture"][0]
    rank = int((values > values[both]).sum()) + 1
    if both == texture:
        return "texture decides: semantics alone prefer another point"
    if both == semantic:
        return f"semantics decide: by texture alone the best of both is only number {rank}"
    return f"neither alone: by texture the best of both is number {rank}"
