"""Guided matching: the first matches say how each part of the picture moved, and that decides between look-alikes.

A match whose neighbours moved by one similarity transform with it is probably right (the smoothness of motion that
Bian et al., GMS, CVPR 2017, and Cavalli et al., AdaLAM, ECCV 2020, filter matches by). Here such matches do not filter:
they say where in the other image every keypoint is to be expected, and the search is made again, with less similarity
for what lies elsewhere, twice. So right matches are found that were second best before. On a GPU nothing waits for the
host, and all sizes are fixed, so that it can be recorded as a graph.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from semantic_matcher_core.constants import constant
from semantic_matcher_core.matching.distances import distances, far_unless, nearest_of, neighbours_of
from semantic_matcher_core.matching.nearby import Expected, NearbySearch, can_keep
from semantic_matcher_core.matching.nearest import DenseMatches, match_similarities, within_limits
from semantic_matcher_core.matching.similarity import FusedSimilarity
from semantic_matcher_core.optimisations import is_enabled
from semantic_matcher_core.settings import MatcherConfig


class _Round(NamedTuple):
    """One search by the matches of the search before.

    Attributes:
        candidates: the most similar matches that are looked at.
        support: how many of the neighbours each is compared with must move with it.
        weight: similarity that something elsewhere loses, as a share of what sets supported matches apart from chance.
    """

    candidates: int
    support: int
    weight: float


_ROUNDS = (_Round(384, 4, 0.6), _Round(700, 7, 0.8))
# The share of the first matches, of every fourth keypoint, that must be elsewhere: where nearly all agree, as in a
# video, there is hardly anything to gain.
_DIFFERING, _SAMPLE = 0.05, slice(None, None, 4)
_NEIGHBOURS = 8
# How far a neighbour may be from where the transform puts it: pixels, and a share of how far it is.
_TOLERANCE_PX, _TOLERANCE = 3.0, 0.3
_LARGEST_SCALE = 3.0
# Fewer supported matches predict nothing.
_LEAST_SUPPORTED = 12
# A keypoint is expected within this many pixels, plus a share of its distance to the match that predicts it; what lies
# this many times as far or farther counts as elsewhere.
_RADIUS_PX, _RADIUS, _ELSEWHERE = 4.0, 0.2, 3.0


def match_guided(
    similarity: FusedSimilarity,
    config: MatcherConfig,
    keypoints: tuple[Tensor, Tensor],
    valid: tuple[Tensor | None, Tensor | None],
) -> DenseMatches:
    """Find nearest neighbours, and search again by what they say of where keypoints are to be expected.

    A pair whose first matches predict nothing, or of which hardly any disagrees with the others, keeps them.

    Args:
        similarity: of B x N rows to M rows.
        config: tests of a match. Limits of similarity are those of the similarity itself, after all; a ratio is one of
            similarities less what was expected elsewhere loses.
        keypoints: ``B x N x 2`` and ``B x M x 2`` pixels.
        valid: ``B x N`` and ``B x M`` bool, false for padding, or ``None``.
    """
    if not similarity.shape[0] or min(similarity.shape[1:]) <= _NEIGHBOURS:
        return match_similarities(similarity, config, *valid)
    unlimited = replace(config, max_distance=None, min_similarity=None)
    # A position that is not a number would spoil all that is compared with it.
    places0, places1 = (k.detach().float().nan_to_num(0, 0, 0).movedim(2, 0).contiguous() for k in keypoints)
    if can_keep(similarity) and is_enabled("nearby_search"):
        found = _stacked(
            [
                _searched(
                    NearbySearch(similarity.pair(i), unlimited, places1[:, i], _rows(valid, i)),
                    places0[:, i, None],
                    places1[:, i, None],
                )
                for i in range(similarity.shape[0])
            ]
        )
    else:
        found = _searched(_WholeSearch(similarity, unlimited, places1, valid), places0, places1)
    keep = within_limits(found.similarity0, config)
    none, zero = constant((-1,), found.matches0), constant((0,), found.similarity0)
    return DenseMatches(torch.where(keep, found.matches0, none), torch.where(keep, found.similarity0, zero))


class _WholeSearch:
    """Searches of all similarities, each computed anew and held in blocks of rows: of any size, without any wait."""

    def __init__(
        self,
        similarity: FusedSimilarity,
        config: MatcherConfig,
        keypoints1: Tensor,
        valid: tuple[Tensor | None, Tensor | None],
    ) -> None:
        self.similarity, self._config, self._valid = similarity, config, valid
        self._keypoints1 = keypoints1
        self.first = match_similarities(similarity, config, *valid)

    def again(self, expected: Expected) -> DenseMatches:
        """Search with less similarity for what lies away from an expected place."""
        return match_similarities(_Guided(self.similarity, expected, self._keypoints1), self._config, *self._valid)


def _searched(search: NearbySearch | _WholeSearch, keypoints0: Tensor, keypoints1: Tensor) -> DenseMatches:
    found, similarity = search.first, search.similarity
    rows = torch.arange(keypoints0.shape[2], device=keypoints0.device).expand(keypoints0.shape[1:])
    zero = constant((0,), found.similarity0)
    of_use = None
    for step in _ROUNDS:
        motion = _motion(found, similarity, keypoints0, keypoints1, step)
        of_use = _differing(motion, found, keypoints0, keypoints1) > _DIFFERING if of_use is None else of_use
        of_use = of_use & (motion.supported.sum(dim=1) >= _LEAST_SUPPORTED)
        # On a GPU asking would wait for it.
        if of_use.device.type == "cpu" and not bool(of_use.any()):
            break
        matches0 = search.again(motion.expected(keypoints0)).matches0
        itself = torch.where(matches0 >= 0, similarity.of(rows, matches0.clamp(min=0)), zero)
        taken = of_use[:, None]
        found = DenseMatches(
            torch.where(taken, matches0, found.matches0), torch.where(taken, itself, found.similarity0)
        )
    return found


def _rows(valid: tuple[Tensor | None, Tensor | None], index: int) -> tuple[Tensor | None, Tensor | None]:
    valid0, valid1 = (None if v is None else v[index, None] for v in valid)
    return valid0, valid1


def _stacked(pairs: list[DenseMatches]) -> DenseMatches:
    if len(pairs) == 1:
        return pairs[0]
    return DenseMatches(torch.cat([p.matches0 for p in pairs]), torch.cat([p.similarity0 for p in pairs]))


class _Motion(NamedTuple):
    """How K matches of each of B pairs say that things moved. Positions and complex numbers have their parts first.

    Attributes:
        here, there: ``2 x B x K`` matched pixels.
        turn: ``2 x B x K``, the turn and scale around each, as a complex number.
        error: ``B x K``, mean distance in pixels of the neighbours from where that puts them.
        supported: ``B x K`` bool, whether enough neighbours share it; others say nothing.
        most: ``B``, the similarity that something elsewhere loses.
    """

    here: Tensor
    there: Tensor
    turn: Tensor
    error: Tensor
    supported: Tensor
    most: Tensor

    def expected(self, keypoints: Tensor) -> Expected:
        """Return where ``2 x B x N`` pixels are to be expected: where the nearest supported match puts them."""
        nearest = nearest_of(keypoints, self.here, self.supported)
        offset = keypoints - _at(self.here, nearest)
        place = _at(self.there, nearest) + _times(_at(self.turn, nearest), offset)
        return Expected(
            place, _ELSEWHERE * (_RADIUS_PX + self.error.gather(1, nearest) + _RADIUS * _size(offset)), self.most
        )


class _Guided:
    """Similarities less what those lose that are expected elsewhere, given out in blocks of rows."""

    def __init__(self, similarity: FusedSimilarity, expected: Expected, keypoints1: Tensor) -> None:
        self._similarity, self._keypoints1 = similarity, keypoints1.movedim(0, 2)
        self._place = expected.place.movedim(0, 2)
        self._elsewhere = expected.elsewhere[..., None]
        # Per pixel.
        self._loss = expected.most[:, None, None] / self._elsewhere
        self.shape, self.device = similarity.shape, similarity.device

    def rows(self, start: int, stop: int) -> Tensor:
        """Return ``B x (stop - start) x M`` float32 similarities."""
        away = distances(self._place[:, start:stop], self._keypoints1)
        torch.minimum(away, self._elsewhere[:, start:stop], out=away)
        return self._similarity.rows(start, stop).addcmul_(away, self._loss[:, start:stop], value=-1)


def _motion(
    found: DenseMatches, similarity: FusedSimilarity, keypoints0: Tensor, keypoints1: Tensor, step: _Round
) -> _Motion:
    matched, matches0 = found.matches0 >= 0, found.matches0.clamp(min=0)
    count = min(step.candidates, matches0.shape[1])
    rows = torch.where(matched, found.similarity0, constant((-torch.inf,), found.similarity0)).topk(count).indices
    others = matches0.gather(1, rows)
    here, there = _at(keypoints0, rows), _at(keypoints1, others)
    turn, error, agreeing = _shared_turns(here, there, matched.gather(1, rows))
    supported = agreeing >= step.support
    # What chance gives: a row with the match of the one before it, which does not depend on padding.
    contrast = (similarity.of(rows, others) - similarity.of(rows, others.roll(1, dims=1)))[:, 1:]
    counted = supported[:, 1:]
    # Chosen, not multiplied: rows without a match may be of descriptors that are not numbers.
    contrast = torch.where(counted, contrast, constant((0,), contrast))
    mean = contrast.sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    return _Motion(here, there, turn, error, supported, step.weight * mean.clamp(min=0))


def _differing(motion: _Motion, found: DenseMatches, keypoints0: Tensor, keypoints1: Tensor) -> Tensor:
    """Return ``B``, the share of matches that are elsewhere than the motion says, of a sample of the keypoints."""
    matches0 = found.matches0[:, _SAMPLE]
    matched = matches0 >= 0
    place, elsewhere, _ = motion.expected(keypoints0[:, :, _SAMPLE])
    away = matched & (_size(place - _at(keypoints1, matches0.clamp(min=0))) > elsewhere)
    return away.sum(dim=1) / matched.sum(dim=1).clamp(min=1)


def _shared_turns(points0: Tensor, points1: Tensor, found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find how matches move together with their neighbours.

    Args:
        points0, points1: ``2 x B x K`` matched pixels.
        found: ``B x K`` bool, false for rows without a match.

    Returns:
        ``2 x B x K``, of each match the scaled turn (as a complex number) that it shares with most neighbours, by least
        squares over those; ``B x K``, their mean distance in pixels from where it puts them; and ``B x K``, how many
        share it.
    """
    nearest = neighbours_of(points0, far_unless(found, points0), _NEIGHBOURS)
    rows, shape = nearest.flatten(1), nearest.shape[1:]
    offset0 = _at(points0, rows).unflatten(2, shape) - points0[..., None]
    offset1 = _at(points1, rows).unflatten(2, shape) - points1[..., None]
    length = _size(offset0).clamp(min=1)
    squared = length.square()
    # Of each neighbour its turn, times that: what least squares over several sums up.
    product = _times(_conjugate(offset0), offset1)
    turn = product / squared
    scale = _size(turn)
    sane = (scale < _LARGEST_SCALE) & (scale > 1 / _LARGEST_SCALE)
    sane &= found.gather(1, rows).unflatten(1, shape) & found[..., None]
    # Of each neighbour's turn (the last dimension but one), where it would put the others (the last).
    missed = _size(_times(turn[..., None], offset0[..., None, :]) - offset1[..., None, :])
    allowed = _TOLERANCE_PX + _TOLERANCE * length[:, :, None] * scale[..., None]
    agree = (missed < allowed) & sane[..., None] & sane[:, :, None]
    best = _first_largest(agree.sum(dim=3))
    agree = agree.gather(2, best[..., None, None].expand(-1, -1, 1, agree.shape[3]))[:, :, 0]
    agreeing = agree.sum(dim=2)
    weight = agree.float()
    total = (weight * squared).sum(dim=2).clamp(min=1)
    shared = (product * weight).sum(dim=3) / total
    error = _size(_times(shared[..., None], offset0) - offset1)
    error = (error * weight).sum(dim=2) / agreeing.clamp(min=1)
    return shared, error, agreeing


def _first_largest(counts: Tensor) -> Tensor:
    """Return ``B x K``, where the largest of each eight of ``B x K x 8`` whole numbers is, the first of equals."""
    # argmax looks at one number at a time.
    places = torch.arange(counts.shape[2], device=counts.device)
    return (-(counts * len(places) - places).amax(dim=2)).remainder(len(places))


def _at(values: Tensor, rows: Tensor) -> Tensor:
    """Return ``2 x B x K`` of ``2 x B x N`` at ``B x K`` rows."""
    return values.gather(2, rows.expand(2, -1, -1))


def _size(z: Tensor) -> Tensor:
    return (z[0].square() + z[1].square()).sqrt()


def _conjugate(z: Tensor) -> Tensor:
    return torch.stack((z[0], -z[1]))


def _times(z: Tensor, w: Tensor) -> Tensor:
    """Multiply complex numbers, whose parts are the first dimension."""
    return torch.stack((z[0] * w[0] - z[1] * w[1], z[0] * w[1] + z[1] * w[0]))
