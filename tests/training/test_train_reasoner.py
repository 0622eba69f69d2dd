"""Reasoner training: it learns, is the same on one process and two, resumes exactly, and stops loudly."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import CheckpointError, ConfigError
from semantic_matcher_core.reasoning import load_reasoner
from semantic_matcher_core.semantics.colour_context import ColourContext
from semantic_matcher_core.semantics.dinov2 import DinoV2
from tests.conftest import make_textured_image
from tests.training.reasoner_data import EXTRACTOR_CACHE, SEMANTIC_CACHE, SIDE, tiny_experiment, write_scenes
from training.errors import DataError
from training.features.cache import cache_path
from training.reasoner import callbacks as callbacks_module
from training.reasoner import module as module_module
from training.reasoner.config import ExperimentConfig
from training.reasoner.repro import TrainingDiverged
from training.reasoner.run import TrainingResult, placement, train
from training.reasoner.sampler import StepSampler
from training.strict_mapping import from_mapping, load_dataclass

REPOSITORY = Path(__file__).resolve().parents[2]
# Lightning has things to say of few workers, of missing loggers and of dependencies' deprecations.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root)
    return root


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_reasoner(folder)[0].state_dict()


def scalars(folder: Path, name: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


# --- It learns -------------------------------------------------------------------------------------------------------

MARGIN = 0.2


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    """The shipped smoke experiment, in a folder of its own and no longer than it needs to learn."""
    folder = tmp_path_factory.mktemp("smoke")
    places = [f"data.root={folder / 'data'}", f"output={folder / 'runs'}"]
    steps = ["run.steps=100", "run.validate_every=50", "run.plot_every=100", "run.progress=false"]
    return load_dataclass(ExperimentConfig, REPOSITORY / "training/configs/smoke-rendered-sift.yaml", places + steps)


def rises(result: TrainingResult) -> bool:
    """Whether validation precision rose by the margin, over the untrained reasoner and over plain descriptors."""
    return result.final["precision"] - max(result.untrained["precision"], result.plain["precision"]) >= MARGIN


@pytest.mark.slow
@pytest.mark.xdist_group("smoke")
def test_the_smoke_experiment_learns(smoke: ExperimentConfig) -> None:
    result = train(smoke)
    assert rises(result), result
    assert result.final["recall"] - result.plain["recall"] >= MARGIN
    assert result.best is not None
    assert result.best_value >= result.final["precision"] - 1e-9
    # What is printed as the result can be used, and holds no more than that needs.
    (weights,) = result.best.glob("checkpoint_*.pt")
    assert torch.load(weights, weights_only=True)["optimizer"] == {}
    matcher = SemanticMatcher.from_pretrained(str(result.best), device="cpu")
    assert matcher.reasoner is not None and matcher.semantic_encoder is not None
    picture = make_textured_image(160, 200)
    assert len(matcher.match_images(picture, picture)) > 20
    # Pictures and counts of inliers are there to be looked at.
    inliers = scalars(result.folder, "validation_matches/0/inliers")
    assert inliers[smoke.run.steps] > inliers[0]


@pytest.mark.slow
@pytest.mark.xdist_group("smoke")
def test_it_does_not_learn_from_a_loss_of_zeros(smoke: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    original = module_module.dual_softmax_loss
    monkeypatch.setattr(module_module, "dual_softmax_loss", lambda *a, **k: original(*a, **k) * 0.0)
    result = train(replace(smoke, name="zeros", run=replace(smoke.run, steps=30, validate_every=30, plot_every=0)))
    assert result.plain["precision"] > 0
    # Weight decay alone moves it, however many more steps there were.
    assert result.final["precision"] == pytest.approx(result.untrained["precision"], abs=0.05)
    assert not rises(result), result


# --- What it leaves --------------------------------------------------------------------------------------------------


def test_the_checkpoint_loads_and_matches(tmp_path: Path, textured: Any) -> None:
    write_scenes(tmp_path, train=1, semantic_dim=384, pairs=2, made_by="dinov2_vits14")
    model = {"semantic_encoder": "dinov2_vits14", "fix_dino_size": 64}
    result = train(tiny_experiment(tmp_path, "dino", model=model, run={"steps": 2, "validate_every": 1}))
    assert result.best is not None
    assert len(list(result.best.glob("*.pt"))) == 1
    description = yaml.safe_load((result.best / "model_config.yaml").read_text())
    assert description["registration"] == "exact"
    assert description["fix_dino_size"] == 64
    assert description["extractor"] == {"model_name": "sift", "max_num_keypoints": 24}
    torch.manual_seed(0)
    (tmp_path / "weights").mkdir()
    encoder = DinoV2("dinov2_vits14")
    torch.save(encoder.state_dict(), tmp_path / "weights" / "dinov2_vits14_pretrain.pth")
    matcher = SemanticMatcher.from_pretrained(result.best, weights=tmp_path / "weights", device="cpu")
    assert matcher.registration == "exact"
    image = textured(96, 112)
    features = matcher.extract(image)
    assert 0 < features.keypoints.shape[1] <= 24
    assert features.reasoned is not None
    assert features.reasoned.shape[-1] == 16
    matches = matcher.match(features, features)
    assert torch.equal(matches.indices[:, 0], matches.indices[:, 1])


def test_training_computes_features_as_inference_does(tmp_path: Path) -> None:
    # Images with something to detect.
    config = from_mapping(
        ExperimentConfig,
        {
            "name": "fly",
            "output": str(tmp_path),
            "data": {
                "source": "rendered",
                "root": str(tmp_path / "rooms"),
                "workers": 0,
                "rendered": {
                    "rooms": 1, "validation_rooms": 1, "pairs_per_room": 2, "view_size": [70, 98], "patterns": 1,
                    "tiles": 4,
                },
            },
            "model": {
                "extractor": "sift", "max_keypoints": 40, "semantic_encoder": "colour-context", "features_dim": 16,
                "n_attention_layers": 1, "fix_dino_size": 98,
            },
            "run": {
                "accelerator": "cpu", "devices": 1, "steps": 1, "validate_every": 1, "plot_every": 1,
                "progress": False,
            },
        }
    )  # fmt: skip
    seen: dict[str, Any] = {}

    class Spy(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen["image"] = batch.view0.image
            pl_module.eval()
            view = pl_module.complete(batch.view0, batch.size)
            seen["features"] = pl_module._features(view, batch.size, True)

    result = train(config, callbacks=(Spy(),))
    reasoner, _ = load_reasoner(result.folder / "last")
    from semantic_matcher_core import create_extractor

    matcher = SemanticMatcher.from_parts(
        create_extractor("sift", 40, device="cpu"), ColourContext(), reasoner, device="cpu", registration="exact"
    )
    expected = matcher.extract(seen["image"])
    for name in ("keypoints", "reasoned", "semantic"):
        torch.testing.assert_close(getattr(seen["features"], name), getattr(expected, name), atol=1e-5, rtol=1e-4)
    # Rooms are rendered once.
    rooms = {path: path.stat().st_mtime_ns for path in (tmp_path / "rooms").rglob("*.h5")}
    assert len(rooms) == 2
    train(replace(config, name="again", run=replace(config.run, plot_every=0)))
    assert rooms == {path: path.stat().st_mtime_ns for path in (tmp_path / "rooms").rglob("*.h5")}


def test_photos_become_a_trained_model(tmp_path: Path, textured: Any) -> None:
    from semantic_matcher_core.io.images import write_image

    (tmp_path / "photos").mkdir()
    for i in range(3):
        write_image(tmp_path / "photos" / f"{i}.png", textured(90, 110, seed=i))
    config = from_mapping(
        ExperimentConfig,
        {
            "name": "photos",
            "output": str(tmp_path),
            "data": {
                "source": "photos", "root": str(tmp_path / "photos"), "workers": 0,
                "photos": {"view_size": [70, 84], "holdout": 3},
            },
            "model": {
                "extractor": "sift", "max_keypoints": 50, "semantic_encoder": "colour-context", "features_dim": 16,
                "n_attention_layers": 2, "fix_dino_size": 84, "semantic_conditioning": False,
                "deep_supervision": False,
            },
            "optimizer": {"final_lr": 1e-5, "decay_steps": 2, "gradient_clip": 1.0},
            "run": {
                "accelerator": "cpu", "devices": 1, "steps": 3, "validate_every": 100, "plot_every": 3,
                "precision": "bf16-mixed", "progress": False, "log_every": 1,
            },
        }
    )  # fmt: skip
    for devices in (0, "first"):
        with pytest.raises(ConfigError, match=r"Lightning cannot run so: .*devices.*\(run.accelerator, run.devices"):
            train(replace(config, run=replace(config.run, devices=devices)))
    result = train(config)
    assert result.plain["correct"] > 0
    # Fewer steps than lie between two validations: one at the end decides.
    assert result.best is not None and result.best_step == 3 and result.final != result.untrained
    losses = scalars(result.folder, "train/loss")
    assert len(losses) == 3
    assert all(np.isfinite(v) and v > 0 for v in losses.values())
    # What conditioning does not use was not trained.
    before = torch.load(next(result.best.glob("*.pt")), weights_only=True)["state_dict"]
    assert not any(name.startswith("semantic_attentions") for name in _changed(before, config))


def _changed(state: dict[str, Tensor], config: ExperimentConfig) -> list[str]:
    from training.reasoner.model import model_config, new_reasoner

    start = new_reasoner(config, model_config(config, (128, ColourContext.feature_dim))).state_dict()
    changed = [name for name in state if not torch.equal(state[name], start[name])]
    assert any(name.startswith("texture_attentions") for name in changed)
    return changed


# --- The same on any number of processes -----------------------------------------------------------------------------


def test_processes_share_the_stream_of_pairs() -> None:
    def steps(world_size: int, batch_size: int, start: int = 0) -> list[list[tuple[int, int]]]:
        ranks = [
            StepSampler(7, batch_size, 5, seed=3, rank=r, world_size=world_size, start=start) for r in range(world_size)
        ]
        assert {len(rank) for rank in ranks} == {5}
        return [list(chain(*parts)) for parts in zip(*ranks, strict=True)]

    alone = steps(1, 4)
    assert steps(2, 2) == alone
    assert steps(4, 1) == alone
    assert steps(2, 2, start=3) == alone[3:]
    stream = list(chain(*alone))
    for epoch in (0, 1):
        assert sorted(stream[7 * epoch : 7 * epoch + 7]) == [(epoch, i) for i in range(7)]
    assert [i for _, i in stream[:7]] != [i for _, i in stream[7:14]]


def write_config(path: Path, config: ExperimentConfig) -> Path:
    path.write_text(yaml.safe_dump(config.to_mapping()))
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one_with_twice_the_batch(scenes: Path, tmp_path: Path) -> None:
    run = {"steps": 4, "validate_every": 4}
    one = tiny_experiment(scenes, "one", run={**run, "batch_size": 4})
    two = tiny_experiment(scenes, "two", run={**run, "batch_size": 2, "devices": "auto"})
    result = train(one)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "training.train_reasoner", str(write_config(tmp_path / "two.yaml", two))]
    done = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("best at step") == 1
    expected, found = (scalars(config.folder, "train/loss") for config in (one, two))
    assert list(found) == list(expected)
    assert len(expected) == 4
    assert list(found.values()) == pytest.approx(list(expected.values()), abs=1e-4)
    # Each validation pair counts once, whoever had it.
    precision = [list(scalars(config.folder, "validation/precision").values())[-1] for config in (one, two)]
    assert precision[0] == pytest.approx(precision[1], abs=0.02)
    for name, weights in weights_of(result.folder / "last").items():
        torch.testing.assert_close(weights_of(two.folder / "last")[name], weights, atol=1e-4, rtol=0)


def test_accumulated_parts_make_the_same_steps(scenes: Path) -> None:
    whole = train(tiny_experiment(scenes, "whole", run={"steps": 4, "batch_size": 4}))
    parts = train(tiny_experiment(scenes, "parts", run={"steps": 4, "batch_size": 2, "accumulation": 2}))
    expected = weights_of(whole.folder / "last")
    for name, weights in weights_of(parts.folder / "last").items():
        torch.testing.assert_close(weights, expected[name], atol=1e-5, rtol=0)


# --- Resuming --------------------------------------------------------------------------------------------------------


class Kill(Exception):
    pass


class KillAt(L.Callback):
    def __init__(self, part: int) -> None:
        self.part = part

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.part:
            raise Kill


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_ends_with_the_same_bits(scenes: Path, tmp_path: Path, accumulation: int) -> None:
    run = {"accumulation": accumulation, "save_every": 2, "validate_every": 3}

    def experiment(name: str) -> ExperimentConfig:
        return replace(tiny_experiment(scenes, name, run=run), output=str(tmp_path))

    whole = train(experiment("whole"))
    parts = 12 * accumulation
    # Anywhere; just after a plain save, and a save at a validation.
    chosen = [random.randrange(2 * accumulation + 1, parts)]
    if accumulation == 1:
        chosen += [2, 6]
    for number, part in enumerate(chosen):
        config = experiment(f"killed{number}")
        with pytest.raises(Kill):
            train(config, callbacks=(KillAt(part),))
        result = train(config, resume=True)
        assert (result.best_step, result.best_value) == (whole.best_step, whole.best_value), part
        for folder in ("last", "best"):
            (written,) = (config.folder / folder).glob("*.pt")
            kept = torch.load(written, weights_only=True)
            expected = torch.load(whole.folder / folder / written.name, weights_only=True)
            assert all(torch.equal(kept["state_dict"][k], v) for k, v in expected["state_dict"].items()), part
            for index, state in expected["optimizer"].get("state", {}).items():
                assert all(torch.equal(kept["optimizer"]["state"][index][k], v) for k, v in state.items())
        assert (result.untrained, result.plain) == (whole.untrained, whole.plain)
        curve = scalars(whole.folder, "validation/precision")
        assert scalars(config.folder, "validation/precision") == curve


@pytest.mark.slow
def test_a_process_killed_at_any_moment_resumes_exactly(scenes: Path, tmp_path: Path) -> None:
    config = tiny_experiment(scenes, "killed", run={"steps": 45, "save_every": 3, "validate_every": 21})
    command = [sys.executable, "-m", "training.train_reasoner", str(write_config(tmp_path / "config.yaml", config))]
    process = subprocess.Popen(command, env=environment(), cwd=tmp_path, stderr=subprocess.PIPE)
    state = config.folder / "resume.ckpt"
    while process.poll() is None and not state.is_file():
        time.sleep(0.02)
    time.sleep(random.uniform(0.0, 0.15))
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()[-2000:]
    step = torch.load(state, weights_only=True)["global_step"]
    assert 0 < step < 45
    train(config, resume=True)
    whole = train(replace(config, name="never-killed"))
    expected = weights_of(whole.folder / "last")
    assert all(torch.equal(v, expected[k]) for k, v in weights_of(config.folder / "last").items()), step


def test_a_finished_run_may_be_resumed_and_made_longer(scenes: Path, tmp_path: Path) -> None:
    config = replace(tiny_experiment(scenes, "short", run={"steps": 4}), output=str(tmp_path))
    first = train(config)
    again = train(config, resume=True)
    assert (again.best_step, again.best_value) == (first.best_step, first.best_value)
    longer = replace(config, run=replace(config.run, steps=8))
    train(longer, resume=True)
    whole = train(replace(longer, name="whole"))
    (last,) = (config.folder / "last").glob("checkpoint_*_8.pt")
    found = torch.load(last, weights_only=True)["state_dict"]
    assert all(torch.equal(found[k], v) for k, v in weights_of(whole.folder / "last").items())


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ("auto", 1)),
        ({"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}, (4, 2)),
        ({"SLURM_NTASKS_PER_NODE": "3", "SLURM_NNODES": "5"}, (3, 5)),
    ],
)
def test_devices_and_nodes_are_what_was_started(
    variables: dict[str, str], expected: tuple[str | int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert placement("auto", "auto") == expected
    assert placement(2, 3) == (2, 3)
    with pytest.raises(ConfigError, match=r"run\.nodes"):
        placement(2, "many")


def test_random_generators_go_on_where_they_were() -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002

    states = callbacks_module.generator_states()
    expected = draw()
    draw()
    callbacks_module.set_generator_states(states)
    assert draw() == expected


def test_what_cannot_be_resumed_is_refused(scenes: Path, tmp_path: Path) -> None:
    config = replace(tiny_experiment(scenes, "run", run={"steps": 2}), output=str(tmp_path))
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(config, resume=True)
    train(config)
    with pytest.raises(ConfigError, match="--resume"):
        train(config)
    other = replace(config, optimizer=replace(config.optimizer, lr=0.5))
    with pytest.raises(CheckpointError, match=r"optimizer\.lr was 0\.002 and is 0\.5"):
        train(other, resume=True)


# --- What goes wrong -------------------------------------------------------------------------------------------------


def test_numbers_that_are_not_finite_stop_it_and_can_be_looked_at(scenes: Path, tmp_path: Path) -> None:
    class Poison(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 3:
                batch.view0.descriptors[0, 0, 0] = float("nan")

    config = replace(tiny_experiment(scenes, "nan"), output=str(tmp_path))
    with pytest.raises(TrainingDiverged, match=r"loss is not finite at step 3 .*nonfinite-step3-rank0\.pt"):
        train(config, callbacks=(Poison(),))
    kept = torch.load(config.folder / "nonfinite-step3-rank0.pt", weights_only=True)
    assert kept["step"] == 3
    assert len(kept["names"]) == len(kept["places"]) == 2
    assert torch.isnan(kept["batch"]["view0.descriptors"]).sum() == 1
    assert from_mapping(ExperimentConfig, kept["config"]) == config
    from training.reasoner.model import model_config, new_reasoner

    reasoner = new_reasoner(config, model_config(config, (128, 8)))
    reasoner.load_state_dict(kept["state_dict"])
    texture, _ = reasoner(*(kept["batch"].get(f"view0.{name}") for name in ("descriptors", "semantic", "valid")))
    assert torch.isnan(texture).any()


@pytest.fixture
def own_scenes(tmp_path: Path) -> Path:
    write_scenes(tmp_path)
    return tmp_path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_damaged_or_missing_caches_are_named(own_scenes: Path) -> None:
    path = cache_path(own_scenes, EXTRACTOR_CACHE, "train", "scene0001")
    config = tiny_experiment(own_scenes, "damaged", run={"steps": 1})
    truncate(path)
    with pytest.raises(DataError, match=f"{path} is damaged or no HDF5 file"):
        train(config)
    result = train(replace(config, name="skipped", data=replace(config.data, on_damage="skip")))
    assert result.best_step == 1  # it ran on the scene that is left
    path.unlink()
    with pytest.raises(DataError, match=r"scene0001\.h5 is missing; make it with .*export_features"):
        train(replace(config, name="missing"))


def test_caches_that_do_not_fit_are_named(own_scenes: Path) -> None:
    config = tiny_experiment(own_scenes, "other", run={"steps": 1})
    local, semantic = (cache_path(own_scenes, m, "train", "scene0000") for m in (EXTRACTOR_CACHE, SEMANTIC_CACHE))
    with pytest.raises(DataError, match=f"{local} was made with made_by 'sift', not 'xfeat'"):
        train(replace(config, model=replace(config.model, extractor="xfeat")))
    with pytest.raises(DataError, match=f"{semantic} was made with long_side 64, not 128"):
        train(replace(config, model=replace(config.model, fix_dino_size=128)))
    # Another scene's features under this scene's name.
    (own_scenes / "train" / "scene0000.h5").write_bytes((own_scenes / "train" / "scene0001.h5").read_bytes())
    with pytest.raises(DataError, match=f"{local} lacks keypoints of 10 images"):
        train(config)


def test_a_damaged_scene_is_named(own_scenes: Path) -> None:
    path = own_scenes / "train" / "scene0000.h5"
    truncate(path)
    with pytest.raises(DataError, match=str(path)):
        train(tiny_experiment(own_scenes, "scene"))


@pytest.mark.parametrize("counts", [(0, 5), (5, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("alone", [True, False])
def test_images_without_keypoints_are_no_matter(scenes: Path, counts: tuple[int, int], alone: bool) -> None:
    from training.reasoner.batch import View, collate
    from training.reasoner.data import PairData
    from training.reasoner.model import model_config, new_reasoner

    config = tiny_experiment(scenes, "empty")
    data = PairData(config)
    data.setup()
    assert data.train is not None

    def cut(view: View, count: int) -> View:
        assert view.keypoints is not None and view.descriptors is not None and view.semantic is not None
        return View(None, view.keypoints[:count], view.descriptors[:count], None, view.semantic[:count])

    pairs = [data.train[(0, i)] for i in range(2)]
    cut_pairs = [replace(p, view0=cut(p.view0, counts[0]), view1=cut(p.view1, counts[1])) for p in pairs]
    module = module_module.ReasonerTraining(config)
    module.reasoner = new_reasoner(config, model_config(config, (128, 8)))
    batch = collate(cut_pairs if alone else [cut_pairs[0], pairs[1]])
    losses, warped, positives = module._losses(batch, batch.view0, batch.view1)
    losses.mean().backward()
    gradients = [p.grad for p in module.reasoner.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)
    if min(counts) == 0:
        # The empty pair adds nothing; the other counts as half of the batch.
        if alone:
            assert losses.tolist() == [0.0, 0.0]
        else:
            single = collate([pairs[1]])
            expected, *_ = module._losses(single, single.view0, single.view1)
            torch.testing.assert_close(losses, expected / 2, atol=1e-5, rtol=1e-4)
        judged = module.judge(batch.view0, batch.view1, batch, warped, positives)
        assert judged.counts.pairs == 2


def test_scene_images_are_read_only_where_needed(scenes: Path) -> None:
    from training.reasoner.data import PairData

    data = PairData(tiny_experiment(scenes, "read"))
    data.setup()
    assert data.train is not None
    pair = data.train[(0, 0)]
    assert pair.view0.image is None
    assert pair.size == (SIDE, SIDE)
    assert data.train.images((0, 0))[0].shape == (3, SIDE, SIDE)
