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
