"""Features and Matches: what flows between the stages.

Convention:
    - Keypoints are (x, y) pixels of the image *as given*; x right, y down, (0, 0) is the centre of the top-left pixel.
    - Batches are padded: image ``b`` has its ``counts[b]`` real keypoints in the first rows, and ``valid`` tells
      them from padding. ``valid is None`` means that every row is real, which lets attention run unmasked.
    - Padding rows hold zeros and never change a result.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.device import moved
from semantic_matcher_core.errors import ShapeError

_MODELS = {"homography": "a homography", "fundamental": "a fundamental matrix", "essential": "an essential matrix"}


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """Local features of a batch of B images, N rows each.

    Attributes:
        keypoints: ``B x N x 2`` float32, (x, y) in pixels of the image as given.
        scores: ``B x N`` float32 detection scores, larger is better, in descending order.
        descriptors: ``B x N x D``, L2-normalised rows.
        image_size: ``(height, width)`` in pixels of the images as given; :attr:`size_wh` is the other way round.
        valid: ``B x N`` bool, true for real keypoints (which come first), or ``None`` when every row is real.
        reasoned: ``B x N x F`` output of the reasoner's texture branch, L2-normalised, or ``None`` without a reasoner.
        semantic: ``B x N x F`` output of its semantic branch, L2-normalised, or ``None`` where it is not used.
        scales: ``B x N`` diameters in pixels of the image as given, from extractors that have them (SIFT).
        orientations: ``B x N`` angles in radians, clockwise from x, from the same.
        turn: ``B x N`` clockwise degrees by which the image was turned when a row was extracted, where it was looked at
            more than once (``matching.turns``); matching takes the rows of the turn that fits. ``None`` for upright.
        shrink: ``B x N`` how many times smaller the image was when a row was extracted, where it was looked at at
            several sizes (``matching.sizes``); matching takes the rows of the size that fits. ``None`` for one size.
        made_by: the extractor's name, and what reasoned about its descriptors; "" where that is not known. Features of
            different makers are not matched: vectors as long say nothing about each other.
    """

    keypoints: Tensor
    scores: Tensor
    descriptors: Tensor
    image_size: tuple[int, int]
    valid: Tensor | None = None
    reasoned: Tensor | None = None
    semantic: Tensor | None = None
    scales: Tensor | None = None
    orientations: Tensor | None = None
    turn: Tensor | None = None
    shrink: Tensor | None = None
    made_by: str = ""

    def __post_init__(self) -> None:
        if self.keypoints.ndim != 3 or self.keypoints.shape[-1] != 2:
            raise ShapeError(f"keypoints must be B x N x 2, got {tuple(self.keypoints.shape)}")
        rows = self.keypoints.shape[:2]
        for name, tensor in self.tensors().items():
            if tensor.shape[:2] != rows:
                raise ShapeError(
                    f"{name} is {tuple(tensor.shape)}, expected it to start with {tuple(rows)} like keypoints"
                )

    @property
    def batch_size(self) -> int:
        """Number of images B."""
        return self.keypoints.shape[0]

    @property
    def counts(self) -> Tensor:
        """``B`` int64: real keypoints of each image, on the features' device."""
        if self.valid is None:
            return torch.full((self.batch_size,), self.keypoints.shape[1], device=self.keypoints.device)
        return self.valid.sum(dim=1)

    @property
    def real(self) -> Tensor:
        """``B x N`` bool: ``valid``, also where that is ``None``."""
        return torch.ones_like(self.scores, dtype=torch.bool) if self.valid is None else self.valid

    @property
    def size_wh(self) -> tuple[int, int]:
        """``(width, height)`` in pixels: the order of COLMAP, hloc and PIL."""
        return self.image_size[1], self.image_size[0]

    @property
    def device(self) -> torch.device:
        return self.keypoints.device

    def __repr__(self) -> str:
        counts = self.counts.tolist()
        images = f"{len(self)} image{_s(len(self))} of {self.image_size[1]} x {self.image_size[0]} pixels"
        few, many = min(counts, default=0), max(counts, default=0)
        keypoints = f"{few} keypoint{_s(few)}" if few == many else f"{few} to {many} keypoints"
        names = [n for n in ("descriptors", "reasoned", "semantic") if getattr(self, n) is not None]
        vectors = ", ".join(f"{n} of {getattr(self, n).shape[-1]}" for n in names)
        each = " each" if len(self) > 1 else ""
        return f"Features({images}, {keypoints}{each}, {vectors}, on {self.device})"

    def __len__(self) -> int:
        return self.batch_size

    def __getitem__(self, index: int) -> Features:
        """Return the features of one image, as a batch of one without padding (one host synchronisation, if padded)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of a batch of {len(self)}")
        if len(self) == 1 and self.valid is None:
            return self
        index %= len(self)
        n = int(self.counts[index])
        rows: dict[str, Any] = {k: t[index : index + 1, :n] for k, t in self.tensors().items() if k != "valid"}
        return replace(self, valid=None, **rows)

    def rows(self, which: Tensor) -> Features:
        """Return some rows of one image, of one turn and size; ``which`` is M int64, and what tells rows apart goes."""
        told = ("valid", "turn", "shrink")
        chosen: dict[str, Any] = {k: t[:, which] for k, t in self.tensors().items() if k not in told}
        return replace(self, valid=None, turn=None, shrink=None, **chosen)

    def __iter__(self) -> Iterator[Features]:
        return (self[i] for i in range(len(self)))

    def trimmed(self) -> Features:
        """Return the features without rows that are padding in every image (one host synchronisation, if padded).

        Where all images have as many keypoints, as a batch of one has, ``valid`` becomes ``None``.
        """
        if self.valid is None:
            return self
        return self.first_rows(*torch.stack(torch.aminmax(self.counts)).tolist())

    def first_rows(self, fewest: int, most: int) -> Features:
        """Return the features :meth:`trimmed`, where it is known how many are real of each image at least and most."""
        rows: dict[str, Any] = {name: t[:, :most] for name, t in self.tensors().items()}
        return replace(self, **rows if fewest < most else {**rows, "valid": None})

    def to(self, device: torch.device | str) -> Features:
        """Return the same features on another device."""
        tensors: dict[str, Any] = moved(self.tensors(), device)
        return replace(self, **tensors)

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields that are tensors and there, by name."""
        return {f.name: t for f in fields(self) if isinstance(t := getattr(self, f.name), Tensor)}

    @staticmethod
    def stack(items: Sequence[Features]) -> Features:
        """Return one batch from several; rows are padded to the longest. All must share image size, fields and
        dimensions.

        Raises:
            ShapeError: nothing to stack, or sizes, fields or dimensions differ.
        """
        if not items:
            raise ShapeError("cannot stack an empty list of Features")
        names = [name for name in items[0].tensors() if name != "valid"]
        for item in items[1:]:
            if item.image_size != items[0].image_size:
                raise ShapeError(f"cannot stack Features of image sizes {items[0].image_size} and {item.image_size}")
            if [name for name in item.tensors() if name != "valid"] != names:
                raise ShapeError("cannot stack Features with and without reasoned or semantic descriptors")
            check_same_maker(items[0], item)
        n = max(item.keypoints.shape[1] for item in items)
        ragged = any(item.valid is not None or item.keypoints.shape[1] != n for item in items)

        def pad(t: Tensor) -> Tensor:
            out = t.new_zeros((t.shape[0], n, *t.shape[2:]))
            out[:, : t.shape[1]] = t
            return out

        stacked: dict[str, Any] = {}
        for name in names:
            parts = [getattr(item, name) for item in items]
            if len({p.shape[2:] for p in parts}) != 1:
                raise ShapeError(f"cannot stack {name} of dimensions {sorted({p.shape[-1] for p in parts})}")
            stacked[name] = torch.cat([pad(p) for p in parts])
        valid = torch.cat([pad(item.real) for item in items]) if ragged else None
        return Features(image_size=items[0].image_size, valid=valid, made_by=items[0].made_by, **stacked)


def check_same_maker(features0: Features, features1: Features) -> None:
    """Raise where two features are known to be of different makers.

    Raises:
        ShapeError: their descriptors cannot be compared.
    """
    first, second = features0.made_by, features1.made_by
    if first and second and first != second:
        raise ShapeError(
            f"features made by {first!r} and by {second!r} cannot be compared; extract both with the same matcher"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Matches:
    """Matches between the images of two batches: M in all, the pairs of the batch one after another.

    ``matches[keep]`` are some of them, :meth:`plot` shows them.

    Attributes:
        indices: ``M x 2`` int64, rows of the two Features of the pair, ascending in the first column within a pair.
        keypoints0: ``M x 2`` float32 (x, y) in pixels of the first image.
        keypoints1: ``M x 2`` float32 (x, y) in pixels of the second image.
        confidence: ``M`` float32: the similarity of the match (cosine, or its fusion with the semantic one), or with
            LightGlue its probability.
        pair: ``M`` int64, which pair of the batch a match belongs to, or ``None`` for a single pair.
        batch_size: number of pairs.
        inlier: ``M`` bool where a geometric check ran, else ``None``.
        model: ``3 x 3`` float64 matrix that the check estimated (single pair only), else ``None``.
        model_type: "", "homography", "fundamental" or "essential".
    """

    indices: Tensor
    keypoints0: Tensor
    keypoints1: Tensor
    confidence: Tensor
    pair: Tensor | None = None
    batch_size: int = 1
    inlier: Tensor | None = None
    model: Tensor | None = None
    model_type: str = ""

    def __post_init__(self) -> None:
        if self.pair is None and self.batch_size != 1:
            raise ShapeError(f"Matches of {self.batch_size} pairs need `pair`, the pair of each match")

    def __len__(self) -> int:
        """Return the number of matches M over all pairs."""
        return self.indices.shape[0]

    def __getitem__(self, keep: Any) -> Matches:
        """Return the matches that a mask, indices, a slice or one index choose; ``model`` and ``model_type`` stay.

        Args:
            keep: ``M`` bool or integers (tensor, array or list), a slice, or one integer (which keeps one match).

        Raises:
            IndexError: a mask of another length, or indices out of range.
            TypeError: none of these.

        Example:
            >>> ones = torch.ones(3, 2)
            >>> matches = Matches(ones.long(), ones, ones, torch.tensor([0.2, 0.9, 0.6]))
            >>> matches[matches.confidence > 0.5]
            Matches(2 matches, confidence 0.60 to 0.90, on cpu)
        """
        rows = self._rows(keep)
        values = {name: getattr(self, name) for name in ("indices", "keypoints0", "keypoints1", "confidence")}
        values |= {name: t for name in ("pair", "inlier") if (t := getattr(self, name)) is not None}
        chosen: dict[str, Any] = {name: tensor[rows.to(tensor.device)] for name, tensor in values.items()}
        return replace(self, **chosen)

    def _rows(self, keep: Any) -> Tensor:
        count, device = len(self), self.indices.device
        if isinstance(keep, int | np.integer) and not isinstance(keep, bool | np.bool_):
            keep = [int(keep)]
        if isinstance(keep, slice):
            keep = list(range(*keep.indices(count)))
        if not isinstance(keep, Tensor | np.ndarray | list | tuple):
            hint = "; no geometric check ran, so there is no `inlier` (see `verify`)" if keep is None else ""
            raise TypeError(f"matches are chosen by a mask, indices or a slice, got {type(keep).__name__}{hint}")
        if isinstance(keep, list | tuple) and not keep:
            keep = np.zeros(0, np.int64)
        if isinstance(keep, np.ndarray):
            # torch takes neither reversed ones nor foreign byte orders.
            keep = np.array(keep, keep.dtype.newbyteorder("="))
        rows = torch.as_tensor(keep, device=device)
        if rows.ndim != 1 or rows.is_floating_point() or rows.is_complex():
            raise TypeError(f"a mask or indices of matches are one row of bool or integers, got {keep!r:.80}")
        if rows.dtype == torch.bool:
            if len(rows) != count:
                raise IndexError(f"a mask of {len(rows)} for {count} matches; it must have one value for each")
            return rows.nonzero()[:, 0]
        rows = rows.long()
        if len(rows) and not -count <= int(rows.min()) <= int(rows.max()) < count:
            raise IndexError(f"match {int(rows.min())} to {int(rows.max())} of {count} matches")
        return rows

    def __repr__(self) -> str:
        parts = [f"{len(self)} match{'' if len(self) == 1 else 'es'}"]
        if self.batch_size > 1:
            parts[0] += f" of {self.batch_size} pairs"
        if self.inlier is not None:
            inliers = int(self.inlier.sum())
            share = f" ({inliers / len(self):.0%})" if len(self) else ""
            of = f" of {_MODELS.get(self.model_type, self.model_type)}" if self.model_type else ""
            parts.append(f"{inliers} inlier{_s(inliers)}{share}{of}")
        if len(self):
            low, high = torch.aminmax(self.confidence.detach().float())
            parts.append(f"confidence {float(low):.2f} to {float(high):.2f}")
        return f"Matches({', '.join(parts)}, on {self.indices.device})"

    def plot(self, image0: Any = None, image1: Any = None, *, path: str | Path | None = None, **options: Any) -> Any:
        """Draw the matches of one pair; a notebook shows what comes back.

        Args:
            image0, image1: anything that ``SemanticMatcher.extract`` takes; ``None`` for an empty panel.
            path: a picture file to write as well.
            options: of :func:`~semantic_matcher_core.viz.matches.draw_matches`.

        Returns:
            ``H x W x 3`` uint8 RGB, a :class:`~semantic_matcher_core.viz.picture.Picture`.

        Raises:
            ShapeError: matches of several pairs; plot those of :meth:`of_pair`.
            ImageError, ConfigError, OutputError: as ``draw_matches`` and ``io.images.write_image`` raise them.
        """
        # By name: drawing stands above this file, and only who draws pays for it.
        drawing = importlib.import_module("semantic_matcher_core.viz.matches")
        picture = drawing.draw_matches(image0, image1, self, **options)
        if path is not None:
            picture.save(path)
        return picture

    def of_pair(self, index: int) -> Matches:
        """Return the matches of one pair of the batch."""
        if not 0 <= index < self.batch_size:
            raise IndexError(f"pair {index} of a batch of {self.batch_size}")
        if self.pair is None:
            return self
        return replace(self[self.pair == index], pair=None, batch_size=1, model=None, model_type="")

    def to(self, device: torch.device | str) -> Matches:
        """Return the same matches on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors: dict[str, Any] = moved({k: v for k, v in values.items() if isinstance(v, Tensor)}, device)
        return replace(self, **tensors)


def _s(count: int) -> str:
    return "" if count == 1 else "s"
