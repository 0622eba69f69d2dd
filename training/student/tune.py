"""The last stage: which keypoints are taken, and how they are described, learnt from which are matched rightly.

The network's own keypoints, as many as matching takes, stand where a teacher's stood. The layers at strides 2 and 4 are
frozen. Descriptors learn the right match among all keypoints of the other view (dual softmax, as in LoFTR, Sun et al.,
CVPR 2021); the score learns to put keypoints that are matched rightly above those that both views show and that are not
(the reward of DISK, Tyszkiewicz et al., NeurIPS 2020, as a pairwise logistic loss). The score's shape round each
keypoint, on which suppression and sub-pixel places depend, is held.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.extractors.base import Limits
from semantic_matcher_core.extractors.compact_network import CompactNetwork
from semantic_matcher_core.extractors.dkd import detect_keypoints, windows_at
from semantic_matcher_core.layers import standardised
from training.errors import DataError
from training.student.batched import Batched
from training.student.beginning import network_in_use
from training.student.config import TuneConfig
from training.student.light import Light
from training.student.progress import Schedule, learning_rate, words
from training.student.run import Run
from training.student.views import ViewMaker, Views

_RADIUS = 2
# A match is right within the one, as evaluation counts; it is taught where the partner is within the other.
_RIGHT_PX, _TAUGHT_PX = 3.0, 2.0
# A labelled point tells where a keypoint this near to it is in the other view.
_CARRIED_PX = 3.0
_RANKED = 2048
_LEVEL = 0.1
_DEEP = ("stride8", "stride16", "stride32", "from8", "from16", "from32", "fuse", "to4")
_SAVE_SECONDS, _LOG_EVERY = 60.0, 20


@dataclass(eq=False)
class Seen(Batched):
    """B pairs of views as the frozen layers see them, with the network's keypoints; K rows for each view.

    Attributes:
        half, quarter: ``B x 2 x C x …`` float16 maps of the frozen layers, at strides 2 and 4.
        keypoints: ``B x 2 x K x 2`` (x, y) pixels.
        valid: ``B x 2 x K`` bool, false in rows that pad.
        moved: ``B x 2 x K x 2`` their places in the other view.
        known: ``B x 2 x K`` bool, whether that is known and inside it.
        partner: ``B x K`` int64 the keypoint of the second view that one of the first is, or -1.
        window: ``B x 2 x K x 25`` float16 the score's logits round each, before anything was learnt.
    """

    half: Tensor
    quarter: Tensor
    keypoints: Tensor
    valid: Tensor
    moved: Tensor
    known: Tensor
    partner: Tensor
    window: Tensor

    def maps(self, network: CompactNetwork) -> tuple[Tensor, Tensor, Tensor]:
        """Return a network's maps of all 2B views, one pair's after the other's."""
        return network.deep(self.half.flatten(0, 1).float(), self.quarter.flatten(0, 1).float())


class TuningLosses(NamedTuple):
    """Scalars; ``right`` is the share of keypoints with a partner that are matched with it."""

    match: Tensor
    rank: Tensor
    shape: Tensor
    right: Tensor


def tune(
    config: TuneConfig, *, device: torch.device, report: Callable[[str], None], minutes: float | None = None
) -> Path:
    """Tune an extractor's weights, going on from a checkpoint where there is one.

    Args:
        config: of the run.
        device: where everything lives.
        report: takes a line of progress.
        minutes: time budget, loading included; the schedule then follows the clock, or the steps where they are over
            first.

    Returns:
        The tuned weights, half-precision safetensors of the layout they had.

    Raises:
        DataError: too few photographs, nothing to match in any pair, or the loss is no longer finite.
        CheckpointError: the weights are of another network, or the checkpoint of other settings.
    """
    began = time.monotonic()
    run = _Run(config, device)
    if run.finished:
        report(run.finished)
        return run.final
    generator = torch.Generator(device).manual_seed(config.seed * 1_000_003 + run.step)
    views = ViewMaker.of_files(config.data, device, generator, report)
    held = _held_out(run.before, config, device, report)
    light = Light(config.light.strength, generator)
    report(f"{len(views.photos)} photographs, on {device}, {time.monotonic() - began:.0f} s")
    report(f"as it was, held out: {words(correct_matches(run.average, held, config.keypoints))}")
    pool: Seen | None = None
    renew_every = max(1, round(config.data.chunk * config.data.uses / config.batch))
    saved = time.monotonic()
    schedule = Schedule(config.steps, run.share, began, minutes)
    while schedule.goes_on(run.step):
        share = schedule.share(run.step)
        if pool is None or run.step % renew_every == 0:
            fresh = [
                seen(run.average, run.before, made, light, config)
                for _ in range(1 if pool else max(1, config.batch // config.data.chunk))
                for made in views.make(config.data.chunk)
            ]
            pool = Seen.joined([*([pool] if pool else []), *fresh])
            pool = pool[torch.arange(len(pool), device=device)[-config.data.pool :]]
            if not len(pool):
                raise DataError("no pair of views has keypoints in common; check the photographs and data.difficulty")
        pairs = pool[torch.randint(len(pool), (config.batch,), generator=generator, device=device)]
        run.take_step(pairs, share)
        if run.step % _LOG_EVERY == 0:
            report(f"{config.name} {run.step}, {share:.0%}: {run.log_means()}")
        if time.monotonic() - saved > _SAVE_SECONDS:
            saved = time.monotonic()
            run.save()
    run.share = 1.0
    run.save()
    report(f"{config.name} {run.step}, held out: {words(correct_matches(run.average, held, config.keypoints))}")
    return run.finish(run.average)


class _Run(Run):
    """Tuning of a network's last layers, and its run."""

    def __init__(self, config: TuneConfig, device: torch.device) -> None:
        self.config = config
        self.before = network_in_use(config.start_from).to(device).requires_grad_(False)
        network = copy.deepcopy(self.before)
        score = [*network.to2.parameters(), *network.score.parameters()]
        head = [*network.head.parameters()]
        if network.architecture.positions:
            head += [*network.offsets.parameters()]
        deep = [p for name in _DEEP for p in network.get_submodule(name).parameters()]
        for parameter in (*score, *head, *deep):
            parameter.requires_grad_(True)
        groups = [{"params": part} for part in (score, head, deep)]
        optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=0.0)
        decisive = {"seed": config.seed, "start_from": config.start_from, "deep": _DEEP}
        super().__init__(config, network, optimizer, TuningLosses._fields, decisive)

    def take_step(self, pairs: Seen, share: float) -> None:
        """Take one optimisation step at a share of the schedule."""
        config, self.share = self.config, share
        found = tuning_losses(self.network, pairs, config.temperature)
        rates = [learning_rate(peak, share, 4 * self.step) for peak in (config.score_lr, config.lr, config.deep_lr)]
        self.learn(found.match + found.rank + config.shape * found.shape, found, rates)


@torch.no_grad()
def seen(
    network: CompactNetwork, before: CompactNetwork, views: Views, light: Light | None, config: TuneConfig
) -> Seen:
    """Return pairs of views as the frozen layers see them in some light, with the network's keypoints.

    Pairs without a keypoint that both views have are left out.

    Args:
        network: whose keypoints these are.
        before: the network before anything was learnt, of the same frozen layers.
        views: the pairs.
        light: changes of light; ``None`` for none.
        config: how many keypoints, and how many views stay as they are.
    """
    images = views.images.flatten(0, 1).float() / 255
    if light is not None:
        images = light(images, config.light.none)
    images = standardised(images)
    frozen = network.shallow(images)
    logits, first = (n.score_map(*n.deep(*frozen)[:2]) for n in (network, before))
    found = detect_keypoints(
        logits[:, 0].sigmoid(),
        Limits(config.keypoints, fixed_size=True),
        radius=_RADIUS,
        suppression_radius=_RADIUS,
        margins=(_RADIUS, _RADIUS),
        iterations=0,
    )
    assert found.valid is not None
    window = windows_at(first[:, 0], found.keypoints.round().long(), _RADIUS).half()
    paired = [part.unflatten(0, (-1, 2)) for part in (*frozen, found.keypoints, found.valid, window)]
    half, quarter, keypoints, valid, window = paired
    moved, known = (
        torch.stack(both, dim=1) for both in zip(*(_followed(views, keypoints, i) for i in (0, 1)), strict=True)
    )
    known &= valid
    distance = torch.cdist(moved[:, 0], keypoints[:, 1].masked_fill(~valid[:, 1, :, None], -1e4))
    nearest, partner = distance.min(dim=2)
    back = distance.argmin(dim=1).gather(1, partner)
    same = known[:, 0] & (nearest < _TAUGHT_PX) & (back == torch.arange(back.shape[1], device=back.device))
    partner = torch.where(same, partner, -1)
    result = Seen(half.half(), quarter.half(), keypoints, valid, moved, known, partner, window)
    return result[same.any(dim=1)]


def tuning_losses(network: CompactNetwork, pairs: Seen, temperature: float) -> TuningLosses:
    """Return the losses of a batch of B pairs.

    Args:
        network: describes and scores.
        pairs: as the frozen layers see them.
        temperature: of the dual softmax.
    """
    keypoints = pairs.keypoints.flatten(0, 1)
    half, fine, coarse = pairs.maps(network)
    described = network.describe(fine, coarse, keypoints).unflatten(0, (-1, 2))
    hidden = ~(pairs.valid[:, 0, :, None] & pairs.valid[:, 1, None])
    similarity = (described[:, 0] @ described[:, 1].mT).detach().masked_fill(hidden, -10.0)
    taught = pairs.partner >= 0
    surprises = [
        _surprise(first, second, partner, valid, temperature)
        for (first, second), partner, valid in zip(described, pairs.partner, pairs.valid, strict=True)
    ]
    match = torch.cat(surprises).mean()

    right = matched_rightly(similarity, pairs)
    windows = windows_at(network.score_map(half, fine)[:, 0], keypoints.round().long(), _RADIUS)
    windows = windows.unflatten(0, (-1, 2))
    before, middle = pairs.window.float(), windows.shape[-1] // 2
    scores, scores_before = windows[..., middle], before[..., middle]
    usable = pairs.valid.float()
    relative = F.smooth_l1_loss(windows - scores[..., None], before - scores_before[..., None], reduction="none")
    count = usable.sum(dim=-1).clamp(min=1)
    level = ((scores - scores_before) * usable).sum(dim=-1) / count
    shape = ((relative.mean(dim=-1) * usable).sum(dim=-1) / count + _LEVEL * level.square()).mean()
    above, below = right & pairs.known, ~right & pairs.known
    rank = _ranking(scores.flatten(0, 1), above.flatten(0, 1), below.flatten(0, 1))
    hit = (similarity.argmax(dim=2) == pairs.partner)[taught]
    return TuningLosses(match, rank, shape, hit.float().mean())


def _surprise(first: Tensor, second: Tensor, partner: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Return for each keypoint with a partner how unlikely a dual softmax makes it, of one pair.

    Args:
        first, second: ``K x D`` descriptors.
        partner: ``K`` of the first ones, or -1.
        valid: ``2 x K``.
    """
    rows = (partner >= 0).nonzero()[:, 0]
    ends = partner[rows]
    there = (first[rows] @ second.mT / temperature).masked_fill(~valid[1], -torch.inf)
    back = (second[ends] @ first.mT / temperature).masked_fill(~valid[0], -torch.inf)
    own = (first[rows] * second[ends]).sum(dim=-1) / temperature
    return there.logsumexp(dim=1) + back.logsumexp(dim=1) - 2 * own


def matched_rightly(similarity: Tensor, pairs: Seen) -> Tensor:
    """Return ``B x 2 x K`` bool: keypoints with a mutual nearest neighbour that is where they are.

    Args:
        similarity: ``B x K x K`` of the keypoints of both views.
        pairs: where they are.
    """
    best, mutual = _mutual(similarity)
    there = pairs.keypoints[:, 1].gather(1, best[..., None].expand(-1, -1, 2))
    right = mutual & pairs.known[:, 0]
    right &= (there - pairs.moved[:, 0]).norm(dim=-1) < _RIGHT_PX
    other = torch.zeros_like(right).scatter_reduce_(1, best, right, "amax")
    return torch.stack((right, other), dim=1)


def _mutual(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``B x K`` which column is the best of each row, and whether the row is the best of that column."""
    best, back = similarity.argmax(dim=2), similarity.argmax(dim=1)
    return best, back.gather(1, best) == torch.arange(best.shape[1], device=best.device)


@torch.no_grad()
def correct_matches(network: CompactNetwork, held: list[Seen], keypoints: int) -> dict[str, float]:
    """Return right matches a pair of the best half of keypoints, by the network's score, and their share of all.

    Args:
        network: scores and describes.
        held: pairs.
        keypoints: candidates of each view, of which half are matched.
    """
    right = every = pairs = 0
    for part in held:
        points = part.keypoints.flatten(0, 1)
        half, fine, coarse = part.maps(network)
        score = windows_at(network.score_map(half, fine)[:, 0], points.round().long(), 0)[..., 0]
        score = score.masked_fill(~part.valid.flatten(0, 1), -torch.inf)
        best = score.topk(max(1, keypoints // 2), dim=1).indices.sort(dim=1).values
        kept = torch.zeros_like(score, dtype=torch.bool).scatter_(1, best, True).unflatten(0, (-1, 2)) & part.valid
        described = network.describe(fine, coarse, points).unflatten(0, (-1, 2))
        similarity = described[:, 0] @ described[:, 1].mT
        similarity = similarity.masked_fill(~(kept[:, 0, :, None] & kept[:, 1, None]), -10.0)
        right += int((matched_rightly(similarity, part)[:, 0] & kept[:, 0]).sum())
        # Only what could be right counts as wrong: places that are known.
        every += int((_mutual(similarity)[1] & kept[:, 0] & part.known[:, 0]).sum())
        pairs += len(part)
    return {"right": right / max(1, pairs), "share": right / max(1, every)}


def _ranking(scores: Tensor, above: Tensor, below: Tensor) -> Tensor:
    """Return the mean logistic loss of random pairs of keypoints of a view of which one is to be above the other."""
    usable = above.any(dim=1) & below.any(dim=1)
    if not bool(usable.any()):
        return scores.sum() * 0
    scores, above, below = scores[usable], above[usable].float(), below[usable].float()
    first, second = (scores.gather(1, m.multinomial(_RANKED, replacement=True)) for m in (above, below))
    return -F.logsigmoid(first - second).mean()


def _followed(views: Views, keypoints: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return ``B x K x 2`` places in the other view of keypoints of this one, and ``B x K`` whether they are known."""
    own = keypoints[:, side]
    if views.follow is not None:
        return views.follow(own, side)
    assert views.given is not None
    points, known = views.given
    nearest, which = torch.cdist(own, points[:, side].masked_fill(~known[..., None], -1e4)).min(dim=2)
    which = which[..., None].expand(-1, -1, 2)
    # Round a labelled point views are nearly moved, not bent.
    moved = points[:, 1 - side].gather(1, which) + own - points[:, side].gather(1, which)
    return moved, nearest < _CARRIED_PX


def _held_out(
    network: CompactNetwork, config: TuneConfig, device: torch.device, report: Callable[[str], None]
) -> list[Seen]:
    """Return warped views of held-out photographs in other light, the same in every run."""
    views = ViewMaker.held_out(config.data, device, report)
    light = Light(1.0, views.generator)
    count = min(32, 2 * len(views.photos))
    return [
        seen(network, network, made, light, config)
        for part in torch.arange(count).split(config.data.chunk)
        for made in views.make(len(part))
    ]
