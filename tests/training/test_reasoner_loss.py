"""The dual-softmax loss: published values and gradients at batch 1, the plain mean beyond."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.reasoning import load_reasoner
from training.projection import warp_keypoints
from training.reasoner import blocks
from training.reasoner.loss import WEIGHT, dual_softmax_loss
from training.reasoner.supervision import Positives, true_matches


def golden_case(shared: Path, config: str, variant: str) -> tuple[dict[str, Any], Tensor, Any, Positives]:
    """Golden values, the loss of each layer, the reasoner (with gradients), and the true matches."""
    folder = shared / "golden"
    expected = dict(np.load(folder / f"reasoning_loss_{config}_{variant}.npz"))
    inputs = {**np.load(folder / f"reasoning_loss_{config}_b1.npz"), **expected}
    scenes = [0, 1] if variant == "b2" else [0]
    depth = np.load(folder / "reasoning_loss_depth.npz")
    depth0, depth1 = (torch.from_numpy(depth[k][scenes].astype(np.float32) / 1000) for k in ("depth0_mm", "depth1_mm"))
    values = {k: torch.from_numpy(np.asarray(v, dtype=np.float32)) for k, v in inputs.items()}
    camera = values["K"]
    warped = warp_keypoints(values["keypoints0"], depth0, depth1, values["T_0to1"], camera, camera)
    positives = true_matches(warped.keypoints, warped.valid, values["keypoints1"])
    reasoner, _ = load_reasoner(folder / f"reasoning_ckpt_{config}")
    reasoner.requires_grad_(True)
    layers = [reasoner.forward_layers(values[f"descriptors{i}"], values[f"semantic{i}"]) for i in (0, 1)]
    return expected, dual_softmax_loss(layers[0], layers[1], positives), reasoner, positives


@pytest.mark.parametrize("config", ["i", "ii"])
def test_value_and_gradients_are_the_published_ones(shared: Path, config: str) -> None:
    expected, losses, reasoner, positives = golden_case(shared, config, "b1")
    assert len(positives.pair) == expected["n_supervised"][0]
    assert losses.tolist() == pytest.approx(expected["matchable_per_layer"].tolist(), rel=1e-5)
    total = WEIGHT * losses.mean()
    assert total.item() == pytest.approx(float(expected["total"]), rel=1e-5)
    total.backward()
    parameters = dict(reasoner.named_parameters())
    for key, norm in expected.items():
        if key.startswith("gradnorm_"):
            gradient = parameters[key.removeprefix("gradnorm_")].grad
            if np.isnan(norm):
                assert gradient is None
            else:
                assert gradient.norm().item() == pytest.approx(float(norm), rel=1e-4)


def test_a_batch_is_the_plain_mean_where_the_published_sum_counts_the_first_pair_twice(shared: Path) -> None:
    expected, losses, _, _ = golden_case(shared, "i", "b2")
    alone = [float(expected[f"matchable_image{i}_alone"]) for i in (0, 1)]
    assert losses.mean().item() == pytest.approx(sum(alone) / 2, rel=1e-5)
    assert float(expected["matchable"]) == pytest.approx((2 * alone[0] + alone[1]) / 4, rel=1e-5)


def test_an_invisible_keypoint_is_no_match_of_the_corner(shared: Path) -> None:
    expected, losses, _, positives = golden_case(shared, "i", "corner")
    # Published: 3.37, because twenty keypoints without a warp are taken as matches of one near (0, 0).
    assert float(expected["matchable"]) == pytest.approx(3.367, abs=1e-3)
    assert losses.mean().item() == pytest.approx(0.308, abs=1e-3)
    assert expected["n_supervised"][0] - len(positives.pair) == 21


def random_layers(batch: int, count: int, seed: int, layers: int = 2) -> list[tuple[Tensor, Tensor | None]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(batch, count, 8, generator=generator), torch.randn(batch, count, 8, generator=generator))
        for _ in range(layers)
    ]


def test_it_is_the_textbook_formula() -> None:
    layers0, layers1 = random_layers(2, 7, 0), random_layers(2, 9, 1)
    positives = Positives(torch.tensor([0, 0, 1]), torch.tensor([2, 5, 0]), torch.tensor([8, 1, 3]))
    losses = dual_softmax_loss(layers0, layers1, positives)
    for layer, ((t0, s0), (t1, s1)) in enumerate(zip(layers0, layers1, strict=True)):
        similarity = (t0 @ t1.mT) * (s0 @ s1.mT)
        expected = 0.0
        for pair, matches in ((0, [(2, 8), (5, 1)]), (1, [(0, 3)])):
            rows, columns = F.log_softmax(similarity[pair], dim=1), F.log_softmax(similarity[pair], dim=0)
            expected += -sum(float(rows[m] + columns[m]) / 2 for m in matches) / len(matches) / 2
        assert losses[layer].item() == pytest.approx(expected, rel=1e-5)


def straightforward_loss(
    layers0: Any, layers1: Any, positives: Positives, valid0: Tensor | None = None, valid1: Tensor | None = None
) -> Tensor:
    """The formula written down with whole log-softmax matrices, for autograd."""
    losses = []
    for (t0, s0), (t1, s1) in zip(layers0, layers1, strict=True):
        similarity = t0 @ t1.mT if s0 is None else (t0 @ t1.mT) * (s0 @ s1.mT)
        rows = similarity if valid1 is None else similarity.masked_fill(~valid1[:, None], -torch.inf)
        columns = similarity if valid0 is None else similarity.masked_fill(~valid0[:, :, None], -torch.inf)
        both = (F.log_softmax(rows, dim=2) + F.log_softmax(columns, dim=1)) / 2
        pairs = [-both[b, i, j] for b, i, j in zip(*positives, strict=True)]
        means = [
            torch.stack([value for value, b in zip(pairs, positives.pair, strict=True) if b == pair]).mean()
            for pair in range(len(t0))
            if (positives.pair == pair).any()
        ]
        losses.append(sum(means) / len(t0))
    return torch.stack(losses)


@pytest.mark.parametrize("semantic", [True, False])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("elements", [2**18, 50, 9])
def test_gradients_are_those_of_autograd_whatever_the_blocks(
    monkeypatch: pytest.MonkeyPatch, semantic: bool, padded: bool, elements: int
) -> None:
    """Three layers and pairs, one of them without true matches; a keypoint of view 1 has two matches."""
    monkeypatch.setattr(blocks, "_CPU_ELEMENTS", elements)
    generator = torch.Generator().manual_seed(3)

    def layers(count: int) -> list[tuple[Tensor, Tensor | None]]:
        made = [torch.randn(2, 3, count, 5, generator=generator, dtype=torch.float64) for _ in range(3)]
        return [(a.requires_grad_(), b.requires_grad_() if semantic else None) for a, b in made]

    layers0, layers1 = layers(7), layers(9)
    positives = Positives(torch.tensor([0, 0, 0, 2, 2]), torch.tensor([2, 5, 6, 0, 1]), torch.tensor([8, 1, 8, 3, 4]))
    valid: dict[str, Tensor] = {}
    if padded:
        valid = {"valid0": torch.ones(3, 7, dtype=torch.bool), "valid1": torch.ones(3, 9, dtype=torch.bool)}
        valid["valid0"][0, 3:5] = valid["valid1"][2, 5:] = valid["valid1"][1] = False
    inputs = [t for layer in (*layers0, *layers1) for t in layer if t is not None]
    upstream = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    ours = dual_softmax_loss(layers0, layers1, positives, **valid)
    theirs = straightforward_loss(layers0, layers1, positives, **valid)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad((loss * upstream).sum(), inputs) for loss in (ours, theirs)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(dual_softmax_loss(layers0, layers1, positives, **valid), ours)


def test_large_similarities_do_not_overflow() -> None:
    """Unnormalised products of two similarities reach the thousands."""
    layers0, layers1 = (
        [(60 * t, 60 * s) for t, s in random_layers(1, count, seed, layers=1) if s is not None]  # type: ignore[misc]
        for count, seed in ((7, 0), (9, 1))
    )
    layers0[0][0].requires_grad_(True)
    positives = Positives(torch.tensor([0, 0]), torch.tensor([2, 5]), torch.tensor([8, 1]))
    losses = dual_softmax_loss(layers0, layers1, positives)
    torch.testing.assert_close(losses, straightforward_loss(layers0, layers1, positives))
    losses.sum().backward()
    assert layers0[0][0].grad.isfinite().all()


def test_padding_changes_nothing() -> None:
    layers0, layers1 = random_layers(1, 7, 0), random_layers(1, 9, 1)
    positives = Positives(torch.tensor([0, 0]), torch.tensor([2, 5]), torch.tensor([8, 1]))
    plain = dual_softmax_loss(layers0, layers1, positives)

    def padded(layers: list[tuple[Tensor, Tensor | None]]) -> tuple[list[tuple[Tensor, Tensor | None]], Tensor]:
        wider = [(F.pad(t, (0, 0, 0, 3), value=5.0), F.pad(s, (0, 0, 0, 3), value=5.0)) for t, s in layers]  # type: ignore[arg-type]
        return wider, torch.arange(wider[0][0].shape[1])[None] < layers[0][0].shape[1]

    (wide0, valid0), (wide1, valid1) = padded(layers0), padded(layers1)
    torch.testing.assert_close(dual_softmax_loss(wide0, wide1, positives, valid0=valid0, valid1=valid1), plain)


def test_without_true_matches_it_is_zero_with_a_graph() -> None:
    layers0, layers1 = random_layers(2, 4, 0), random_layers(2, 4, 1)
    layers0[0][0].requires_grad_(True)
    nothing = torch.empty(0, dtype=torch.long)
    losses = dual_softmax_loss(layers0, layers1, Positives(nothing, nothing, nothing))
    losses.mean().backward()
    assert losses.tolist() == [0.0, 0.0]
    assert torch.equal(layers0[0][0].grad, torch.zeros_like(layers0[0][0]))


def test_true_matches_are_nearest_within_reach_and_not_padding() -> None:
    warped = torch.tensor([[[10.0, 10.0], [20.0, 20.0], [30.0, 30.0], [40.0, 40.0]]])
    valid = torch.tensor([[True, True, False, True]])
    keypoints1 = torch.tensor([[[10.0, 12.9], [10.0, 11.0], [30.0, 30.0], [24.0, 20.0], [40.0, 40.0]]])
    found = true_matches(warped, valid, keypoints1, torch.tensor([[True, True, True, True, False]]))
    assert [row.tolist() for row in found] == [[0], [0], [1]]
    assert all(len(row) == 0 for row in true_matches(warped, valid, keypoints1[:, :0]))


@pytest.mark.parametrize("elements", [2**18, 200, 1])
def test_true_matches_are_those_of_all_distances(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(blocks, "_CPU_ELEMENTS", elements)
    generator = torch.Generator().manual_seed(0)
    warped, keypoints1 = (torch.rand(3, count, 2, generator=generator) * 35 for count in (41, 53))
    warped[0, 3], warped[1, 4] = torch.nan, torch.inf
    valid0, valid1 = (torch.rand(3, count, generator=generator) < 0.7 for count in (41, 53))
    valid0[0, 3] = valid0[1, 4] = False
    found = true_matches(warped, valid0, keypoints1, valid1)
    expected = []
    for b in range(3):
        distance = np.linalg.norm(warped[b, :, None].numpy() - keypoints1[b, None].numpy(), axis=-1)
        distance = np.where(valid1[b].numpy(), np.nan_to_num(distance, nan=np.inf), np.inf)
        nearest = distance.argmin(axis=1)
        near = (distance.min(axis=1) <= 3) & valid0[b].numpy()
        expected += [(b, i, nearest[i]) for i in np.flatnonzero(near)]
    assert len(expected) > 30
    assert list(zip(*(row.tolist() for row in found), strict=True)) == expected
