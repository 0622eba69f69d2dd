"""DALF training: losses as published, keypoints that are found again become more, runs that resume exactly."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import CheckpointError, ConfigError, ShapeError
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.extractors.dalf import MODES
from tests.conftest import make_textured_image
from training.correspondence import PlanarCorrespondence
from training.dalf.detection import Sampled, detection_loss, found_again, sample_keypoints
from training.dalf.losses import hard_negative_loss
from training.dalf.schedule import difficulty, mismatch_penalty, mode_settings, penalty_ramp
from training.dalf.step import StepResult
from training.dalf.trainer import DalfTrainer, DalfTraining, load_first_stage
from training.errors import DataError

IMAGES = [torch.from_numpy(make_textured_image(160, 200, seed)) for seed in range(2)]


def settings(output: Path, mode: str = "ts1", **options: object) -> DalfTraining:
    defaults = {"steps": 4, "size": (96, 128), "batch_size": 2, "device": "cpu", "accumulate": 2}
    return DalfTraining(mode, output, **{**defaults, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["dalf_hardnet_loss", "dalf_hardnet_loss_hard"])
@pytest.mark.parametrize("variant", ["plain", "anchorswap", "margin1", "mask", "mask_swap_m1"])
def test_hard_negative_loss_and_gradients_are_the_published_ones(shared: Path, name: str, variant: str) -> None:
    golden = np.load(shared / "golden" / f"{name}.npz")
    limits = golden["mask"] if "mask" in golden else np.array([0, 12, 30, 48])
    groups = torch.repeat_interleave(torch.arange(len(limits) - 1), torch.from_numpy(np.diff(limits)))
    options = {
        "plain": {},
        "anchorswap": {"anchor_swap": True},
        "margin1": {"margin": 1.0},
        "mask": {"groups": groups},
        "mask_swap_m1": {"groups": groups, "anchor_swap": True, "margin": 1.0},
    }[variant]
    anchors, positives = (torch.from_numpy(golden[k]).requires_grad_() for k in "XY")
    loss = hard_negative_loss(anchors, positives, **options)
    loss.backward()
    assert loss.item() == pytest.approx(float(golden[f"loss_{variant}"]), abs=1e-5)
    if f"gradA_{variant}" in golden:
        np.testing.assert_allclose(anchors.grad.numpy(), golden[f"gradA_{variant}"], atol=1e-5)
    else:
        assert anchors.grad.norm().item() == pytest.approx(float(golden[f"gradA_norm_{variant}"]), rel=1e-4)
    dual = (loss.item() + hard_negative_loss(positives, anchors, **options).item()) / 2
    assert dual == pytest.approx(float(golden[f"dual_{variant}"]), abs=1e-5)


def test_losses_refuse_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match="N x D"):
        hard_negative_loss(torch.rand(3, 4), torch.rand(2, 4))


def test_sampling_is_one_a_cell_away_from_the_border_with_the_probability_it_states() -> None:
    logits = torch.full((1, 64, 64), -4.0)
    logits[0, 35, 43] = 9.0
    draws = [sample_keypoints(logits, torch.Generator().manual_seed(seed))[0] for seed in range(50)]
    hits = [draw for draw in draws if [43.0, 35.0] in draw.keypoints.tolist()]
    assert len(hits) == 50  # its cell's softmax and its sigmoid are both nearly one
    where = hits[0].keypoints.tolist().index([43.0, 35.0])
    expected = logits[0, 32:40, 40:48].flatten().log_softmax(0)[3 * 8 + 3] + torch.nn.functional.logsigmoid(
        torch.tensor(9.0)
    )
    assert hits[0].log_probability[where].item() == pytest.approx(expected.item(), abs=1e-5)
    everywhere = sample_keypoints(torch.full((2, 80, 96), 20.0))
    for draw in everywhere:
        assert ((draw.keypoints >= 16) & (draw.keypoints < torch.tensor([80.0, 64.0]))).all()
        assert len(torch.unique(draw.keypoints // 8, dim=0)) == len(draw.keypoints) == 8 * 6
    assert [len(draw.keypoints) for draw in sample_keypoints(torch.zeros(1, 32, 200))] == [0]


def shift_truth(dx: float) -> PlanarCorrespondence:
    shift = torch.tensor([[[1.0, 0, dx], [0, 1, 0], [0, 0, 1]]])
    control = torch.tensor([[[0.0, 0], [1, 0], [0, 1], [1, 1]]])
    return PlanarCorrespondence(
        torch.eye(3)[None], shift, control, torch.zeros(1, 7, 2), torch.tensor([100.0]), torch.tensor([[100.0, 80.0]])
    )


def test_found_again_are_mutual_neighbours_within_reach() -> None:
    keypoints0 = torch.tensor([[20.0, 20.0], [50.0, 30.0], [70.0, 60.0]])
    keypoints1 = torch.tensor([[15.0, 20.0], [45.5, 30.0], [44.0, 30.0], [60.0, 60.0]])
    found = found_again(keypoints0, keypoints1, shift_truth(5.0))  # view 1 is 5 px to the left of view 0
    assert (found.index0.tolist(), found.index1.tolist()) == ([0, 1], [0, 1])
    assert len(found_again(keypoints0[:0], keypoints1, shift_truth(5.0)).index0) == 0


def test_detection_loss_makes_what_was_found_again_likelier_and_mismatches_rarer() -> None:
    logs = [torch.log(torch.tensor([0.5, 0.5, 0.5])).requires_grad_() for _ in range(2)]
    keypoints = torch.zeros(3, 2)
    found = found_again(torch.tensor([[20.0, 20.0]]), torch.tensor([[20.0, 20.0]]), shift_truth(0.0))
    loss = detection_loss(
        Sampled(keypoints, logs[0]), Sampled(keypoints, logs[1]), found, 0.0, torch.tensor([2]), wrong_penalty=-0.1
    )
    loss.backward()
    assert logs[0].grad[0] < 0  # descending the loss raises this log-probability
    assert logs[0].grad[1] == 0
    assert logs[0].grad[2] > 0
    empty = Sampled(torch.zeros(0, 2), torch.zeros(0, requires_grad=True))
    assert detection_loss(empty, empty, found, -1.0, torch.empty(0, dtype=torch.long), 0.0).item() == 0.0


def test_schedule_is_the_published_one() -> None:
    assert (mode_settings("ts1").steps, mode_settings("ts1").batch_size, mode_settings("ts1").learning_rate) == (
        80000,
        12,
        1e-3,
    )
    assert (mode_settings("ts-fl").steps, mode_settings("ts-fl").batch_size) == (95001, 6)
    assert [difficulty(step, 1000) for step in (0, 99, 100, 200, 599, 600, 999)] == [
        0.1,
        0.1,
        0.15,
        0.25,
        0.25,
        0.3,
        0.3,
    ]
    assert [penalty_ramp(step, 300) for step in (0, 50, 100, 299)] == [0.0, 0.5, 1.0, 1.0]
    assert mismatch_penalty("ts-fl", 76, 100) == pytest.approx(-7e-4)
    assert mismatch_penalty("ts-fl", 75, 100) == mismatch_penalty("ts1", 99, 100) == 0.0


@pytest.mark.slow
def test_dry_run_overfits(tmp_path: Path) -> None:
    """On one pair, keypoints found again and the share of right descriptors rise; without the loss they would not."""
    history: list[tuple[float, float]] = []

    def note(step: int, result: StepResult) -> None:
        history.append((result.reward, result.accuracy))

    run = settings(tmp_path, steps=40, dry_run=True, accumulate=1, batch_size=1)
    weights = DalfTrainer(run, IMAGES).run(note)
    rewards = [reward for reward, _ in history]
    # Until enough keypoints are found again, a step has no accuracy.
    accuracies = [accuracy for _, accuracy in history if not np.isnan(accuracy)]
    assert np.mean(rewards[-10:]) > 3 * np.mean(rewards[:10])  # measured: 6.2
    assert np.mean(accuracies[-10:]) > np.mean(accuracies[:10]) + 0.05  # measured: 0.858 to 0.927
    dalf = create_extractor("dalf", weights=weights, device="cpu", threshold=0.0)
    assert dalf.mode == "ts1"
    assert dalf.extract(IMAGES[0].numpy()).keypoints.shape[1] > 0


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_and_its_checkpoint_loads(tmp_path: Path, mode: str) -> None:
    first = None
    if mode in ("ts2", "ts-fl"):
        first = DalfTrainer(settings(tmp_path / "first", steps=1), IMAGES).run()
    trainer = DalfTrainer(settings(tmp_path, mode, pretrained=first, steps=2), IMAGES)
    before = {name: p.detach().clone() for name, p in trainer.dalf.named_parameters()}
    weights = trainer.run()
    moved = {name for name, p in trainer.dalf.named_parameters() if not torch.equal(p, before[name])}
    assert any(name.startswith("net.decoder") for name in moved)
    frozen = mode in ("ts2", "ts-fl")
    assert any(name.startswith("net.encoder") for name in moved) is not frozen
    extractor = create_extractor("dalf", weights=weights, device="cpu")
    assert extractor.descriptor_dim == MODES[mode].descriptor_dim
    assert not (tmp_path / "resume.pt").exists()


def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = DalfTrainer(settings(tmp_path / "whole", steps=5, save_every=100, batch_size=1), IMAGES).run()

    class StoppedError(Exception):
        pass

    def stop(step: int, result: StepResult) -> None:
        if step == 4:
            raise StoppedError

    run = settings(tmp_path / "parts", steps=5, save_every=3, batch_size=1)
    with pytest.raises(StoppedError):
        DalfTrainer(run, IMAGES).run(stop)
    resumed = DalfTrainer(run, IMAGES).run()
    one, other = (torch.load(path, weights_only=True) for path in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    trainer = DalfTrainer(settings(tmp_path), IMAGES)
    trainer._save_resume()
    with pytest.raises(ConfigError, match="other settings"):
        DalfTrainer(settings(tmp_path, seed=1), IMAGES).run()


def test_a_loss_that_is_not_finite_stops_with_what_is_needed_to_see_why(tmp_path: Path) -> None:
    trainer = DalfTrainer(settings(tmp_path), IMAGES)
    with torch.no_grad():
        trainer.dalf.net.decoder.conv_heatmap[3].bias.fill_(float("nan"))
    with pytest.raises(DataError, match=r"step 0; batch and weights are in .*not_finite_step_000000\.pt"):
        trainer.run()
    saved = torch.load(tmp_path / "not_finite_step_000000.pt", weights_only=True)
    assert saved["view0"].shape == (2, 3, 96, 128)


def test_bad_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ts3"):
        DalfTraining("ts3", tmp_path)
    with pytest.raises(ConfigError, match="first stage"):
        DalfTraining("ts-fl", tmp_path)
    with pytest.raises(ConfigError, match="pretrained is for ts2 and ts-fl alone"):
        DalfTraining("ts1", tmp_path, tmp_path / "first.pth")
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="learning_rate must be a number above 0"):
            settings(tmp_path, learning_rate=rate)
    trainer = DalfTrainer(settings(tmp_path, "end2end-backbone", steps=1), IMAGES)
    trainer.resume_path.write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"resume\.pt is .*damaged.*; remove it to begin anew"):
        trainer.run()
    trainer.resume_path.unlink()
    weights = trainer.run()
    assert trainer.finished
    with pytest.raises(CheckpointError, match="no first stage"):
        load_first_stage(DalfTrainer(settings(tmp_path / "x"), IMAGES).dalf, weights)


def test_command_trains_both_stages(tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "photos").mkdir()
    for i, image in enumerate(IMAGES):
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), image.numpy())
    command = [
        sys.executable,
        "-m",
        "training.train_dalf",
        "--data",
        str(tmp_path / "photos"),
        "--output",
        str(tmp_path / "out"),
    ]
    command += ["--steps", "2", "--batch-size", "2", "--height", "96", "--width", "128", "--device", "cpu"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "ts-fl" / "model_ts-fl_final.pth").is_file()
    assert "try them" in result.stderr
