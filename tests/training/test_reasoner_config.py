"""Experiments are read from YAML; what is not known is an error that says what was meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from semantic_matcher_core.errors import ConfigError
from training.reasoner.config import ExperimentConfig
from training.strict_mapping import from_mapping, load_dataclass

CONFIGS = Path(__file__).resolve().parents[2] / "training" / "configs"
LEAST = {"data": {"source": "scenes", "root": "x"}}


@pytest.mark.parametrize("name", ["smoke-rendered-sift", "photos-xfeat-dinov2-vits14", "scannet-xfeat-dinov2-vits14"])
def test_shipped_experiments_are_valid_and_survive_a_round_trip(name: str) -> None:
    config = load_dataclass(ExperimentConfig, CONFIGS / f"{name}.yaml")
    assert config.name == name
    assert from_mapping(ExperimentConfig, config.to_mapping()) == config


def test_the_published_experiment_has_the_published_values() -> None:
    config = load_dataclass(ExperimentConfig, CONFIGS / "scannet-xfeat-dinov2-vits14.yaml")
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (1e-4, 1e-5)
    assert (config.run.batch_size, config.model.max_keypoints, config.model.n_attention_layers) == (16, 2048, 5)
    assert config.data.extractor_cache == "xfeat-scannet-n2048"
    assert config.data.semantic_cache == "dino-scannet-dinov2_vits14"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"optimizer": {"lrr": 1}}, r"unknown key 'optimizer\.lrr'; did you mean 'optimizer\.lr'\?"),
        ({"lr": 1}, r"unknown key 'lr'; did you mean 'optimizer\.lr'\?"),
        ({"modle": {}}, r"unknown key 'modle'; did you mean 'model'\?"),
        ({"run": {"batchsize": 1}}, r"unknown key 'run\.batchsize'; did you mean 'run\.batch_size'\?"),
        ({"optimizer": {"lr": "fast"}}, r"optimizer\.lr must be a number above 0, got 'fast'"),
        ({"run": {"steps": 1.5}}, r"run\.steps must be a whole number from 1 up, got 1\.5"),
        ({"run": {"steps": 0}}, r"run\.steps must be a whole number from 1 up, got 0"),
        ({"run": {"precision": "8-bit"}}, r"run\.precision '8-bit'; use one of 32-true"),
        ({"model": {"semantic_conditioning": 1}}, r"semantic_conditioning must be true or false, got 1"),
        ({"optimizer": {"lr": float("nan")}}, r"optimizer\.lr must be a number above 0, got nan"),
        ({"optimizer": {"final_lr": -1, "decay_steps": 5}}, r"final_lr must be a number above 0 or null, got -1"),
        ({"run": {"devices": 0}}, r"devices must be text or a whole number from 1 up, got 0"),
        (
            {"data": {**LEAST["data"], "photos": {"view_size": [224]}}},
            r"photos\.view_size must be a list of 2, each a whole number from 32 up, got \[224\]",
        ),
        ({"data": {**LEAST["data"], "photos": {"difficulty": 9}}}, r"difficulty must be a number from 0 to 1, got 9"),
        ({"model": {"num_heads": 3}}, r"model\.num_heads 3 does not divide model\.features_dim 256"),
        ({"model": {"semantic_interpolation_mode": "cubic"}}, r"use one of bicubic, bilinear, nearest"),
        ({"model": 3}, r"section 'model' must hold keys and values, got 3"),
        ({"data": {"source": "scenes"}}, r"'data\.root' is missing"),
        (
            {"data": {"source": "films", "root": "x"}},
            r"data\.source 'films'; use one of scenes, photos, rendered",
        ),
        ({"data": {"source": "scenes", "root": "x", "semantic_cache": "y"}}, r"needs data\.extractor_cache"),
        ({"data": {"source": "photos", "root": "x", "extractor_cache": "y"}}, r"nothing to cache"),
        ({"optimizer": {"final_lr": 0.1}}, r"only of use together"),
    ],
)
def test_mistakes_are_named(content: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(ExperimentConfig, {**LEAST, **content})


def test_overrides_win_and_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("data: {source: photos, root: x}\noptimizer: {lr: 1e-3}\n")
    config = load_dataclass(
        ExperimentConfig, path, ["optimizer.lr=2e-4", "run.devices=2", "data.photos.view_size=[40, 50]", "name=b"]
    )
    assert config.optimizer.lr == 2e-4
    assert config.run.devices == 2
    assert config.data.photos.view_size == (40, 50)
    assert config.folder == Path("runs/b")
    with pytest.raises(ConfigError, match=r"a\.yaml: unknown key 'run\.device'; did you mean 'run\.devices'\?"):
        load_dataclass(ExperimentConfig, path, ["run.device=2"])
    with pytest.raises(ConfigError, match="is no key=value"):
        load_dataclass(ExperimentConfig, path, ["--lr"])


def test_files_that_are_no_experiment_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_dataclass(ExperimentConfig, tmp_path / "none.yaml")
    # One that nobody writes into: reading it would wait for that.
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match=r"cannot read configuration .*pipe\.yaml: it is a named pipe"):
        load_dataclass(ExperimentConfig, tmp_path / "pipe.yaml")
    (tmp_path / "a.yaml").write_text("{")
    with pytest.raises(ConfigError, match="is no YAML"):
        load_dataclass(ExperimentConfig, tmp_path / "a.yaml")
    (tmp_path / "twice.yaml").write_text("data: {source: photos, root: x}\nrun:\n  steps: 1\n  steps: 2\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml is no YAML: the key 'steps' is there twice .* line 4"):
        load_dataclass(ExperimentConfig, tmp_path / "twice.yaml")
    # A value in place of one that is merged in is none that is there twice.
    merged = "data: {source: photos, root: x}\nrun: &run\n  <<: {steps: 1}\n  steps: 2\n"
    (tmp_path / "merged.yaml").write_text(merged)
    assert load_dataclass(ExperimentConfig, tmp_path / "merged.yaml").run.steps == 2
    (tmp_path / "again.yaml").write_text("x: {a: &a {<<: {k: 1}, k: 2}}\nb: {<<: *a}\n")
    with pytest.raises(ConfigError, match="unknown key"):
        load_dataclass(ExperimentConfig, tmp_path / "again.yaml")
    (tmp_path / "b.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="must hold keys and values, got list"):
        load_dataclass(ExperimentConfig, tmp_path / "b.yaml")
