"""The published checkpoint folder: what loads, and the error of what does not."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from semantic_matcher_core.errors import CheckpointError, ConfigError, OutputError
from semantic_matcher_core.reasoning import (
    ModelConfig,
    Reasoner,
    ReasonerConfig,
    find_checkpoint_file,
    load_reasoner,
    save_checkpoint,
)

CONFIG = ModelConfig(
    dino_weights="dinov2_vits14",
    extractor_name="xfeat",
    reasoner=ReasonerConfig(64, 384, features_dim=16, n_attention_layers=2, num_heads=2),
    extractor_options={"max_num_keypoints": 512, "detection_threshold": 0.0},
    registration="exact",
)


def same_weights(a: Reasoner, b: Reasoner) -> bool:
    states = a.state_dict(), b.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(v, states[1][k]) for k, v in states[0].items())


@pytest.fixture
def reasoner() -> Reasoner:
    torch.manual_seed(0)
    return Reasoner(CONFIG.reasoner)


@pytest.fixture
def folder(tmp_path: Path, reasoner: Reasoner) -> Path:
    save_checkpoint(tmp_path / "xfeat", reasoner, CONFIG)
    return tmp_path / "xfeat"


@pytest.fixture
def rewrite(folder: Path) -> Callable[..., None]:
    """Changes the configuration file: ``rewrite(section={...}, key=value)``; ``None`` removes a key."""

    def change(**changes: Any) -> None:
        path = folder / "model_config.yaml"
        content = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            if isinstance(value, dict):
                content[key] = {k: v for k, v in {**content.get(key, {}), **value}.items() if v is not None}
            elif value is None:
                del content[key]
            else:
                content[key] = value
        path.write_text(yaml.safe_dump(content))

    return change


@pytest.mark.parametrize(
    ("variant", "extractor", "dino", "dims"),
    [("i", "xfeat", "dinov2_vits14", (64, 384, 64, 3, 1)), ("ii", "aliked-n", "dinov2_vitb14", (128, 768, 64, 2, 4))],
)
def test_golden_folders_load(shared: Path, variant: str, extractor: str, dino: str, dims: tuple[int, ...]) -> None:
    loaded, config = load_reasoner(str(shared / "golden" / f"reasoning_ckpt_{variant}"))
    assert (config.extractor_name, config.dino_weights, config.registration) == (extractor, dino, "published")
    r = config.reasoner
    assert dims == (
        r.extractor_features_dim,
        r.semantic_features_dim,
        r.features_dim,
        r.n_attention_layers,
        r.num_heads,
    )
    assert r.semantic_conditioning == (variant == "i")
    assert config.extractor_options["max_num_keypoints"] == 2048
    assert loaded.config == r and not loaded.training


def test_round_trip(folder: Path, reasoner: Reasoner) -> None:
    loaded, config = load_reasoner(folder)
    assert config == CONFIG
    assert same_weights(loaded, reasoner)
    assert next(loaded.parameters()).requires_grad  # training goes on from it


def test_what_is_written_is_the_published_layout(folder: Path, shared: Path, reasoner: Reasoner) -> None:
    optimizer = torch.optim.Adam(reasoner.parameters())
    sum(p.sum() for p in reasoner.parameters()).backward()
    optimizer.step()
    path = save_checkpoint(folder, reasoner, CONFIG, epoch=2, iteration=1000, batch=7, optimizer=optimizer.state_dict())
    assert path.name == "checkpoint_2_1000.pt"
    content = torch.load(path, weights_only=True)
    golden = torch.load(shared / "golden" / "reasoning_ckpt_i" / "checkpoint_0_0.pt", weights_only=True)
    assert content.keys() == golden.keys() == {"state_dict", "optimizer", "epoch", "iter", "batch"}
    assert (content["epoch"], content["iter"], content["batch"]) == (2, 1000, 7)
    assert content["optimizer"]["state"][0]["step"] == 1
    published = {k for k in golden["state_dict"] if not k.startswith(("dino.", "extractor.", "semantic_reconstr"))}
    assert set(content["state_dict"]) == {k for k in published if "attentions.2." not in k}
    ours = yaml.safe_load((folder / "model_config.yaml").read_text())
    theirs = yaml.safe_load((shared / "golden" / "reasoning_ckpt_i" / "model_config.yaml").read_text())
    assert set(theirs) - set(ours) == {"reasoning_triplet"}  # nothing reads it any more
    assert set(ours) - set(theirs) == {"registration"}  # ours alone: the published code ignores it
    assert set(ours["reasoning"]) == set(theirs["reasoning"])
    assert not list(folder.glob(".*")), "temporary files are gone"


def test_saving_asks_for_one_configuration(tmp_path: Path, reasoner: Reasoner) -> None:
    other = replace(CONFIG, reasoner=replace(CONFIG.reasoner, num_heads=1))
    with pytest.raises(ConfigError, match=r"num_heads=1.*num_heads=2"):
        save_checkpoint(tmp_path / "a", reasoner, other)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        save_checkpoint(tmp_path / "file", reasoner, CONFIG)


def test_foreign_keys_are_dropped_and_bare_state_dicts_load(folder: Path, reasoner: Reasoner) -> None:
    state = dict(reasoner.state_dict())
    state["dino.net.cls_token"] = torch.zeros(1, 1, 384)
    state["extractor.net.weight"] = torch.zeros(3)
    state["semantic_reconstruction.0.weight"] = torch.zeros(3)
    torch.save(state, folder / "checkpoint_0_0.pt")
    assert same_weights(load_reasoner(folder)[0], reasoner)


def test_safetensors_load(folder: Path, reasoner: Reasoner) -> None:
    from safetensors.torch import save_file

    (folder / "checkpoint_0_0.pt").unlink()
    save_file(reasoner.state_dict(), folder / "model.safetensors")
    assert same_weights(load_reasoner(folder)[0], reasoner)


def test_any_other_key_is_refused(folder: Path, reasoner: Reasoner) -> None:
    state = dict(reasoner.state_dict())
    state["surprise.weight"] = torch.zeros(3)
    torch.save({"state_dict": state}, folder / "checkpoint_0_0.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint_0_0\.pt.*surprise\.weight"):
        load_reasoner(folder)
    del state["surprise.weight"], state["texture_attentions.1.mlp.4.bias"]
    torch.save({"state_dict": state}, folder / "checkpoint_0_0.pt")
    with pytest.raises(CheckpointError, match=r"texture_attentions\.1\.mlp\.4\.bias"):
        load_reasoner(folder)


def test_the_newest_of_several_files_is_meant(folder: Path) -> None:
    for name, seconds in (("checkpoint_2_900.pt", 3000), ("checkpoint_0_0.pt", 2000), ("b.safetensors", 1000)):
        (folder / name).touch()
        os.utime(folder / name, (seconds, seconds))
    (folder / ".checkpoint_9_9.123.part.pt").touch()  # some program is still writing it
    (folder / "notes.txt").touch()
    assert find_checkpoint_file(folder).name == "checkpoint_2_900.pt"
    os.utime(folder / "b.safetensors", (4000, 4000))
    assert find_checkpoint_file(str(folder)).name == "b.safetensors"
    # Unpacking may give all the same time: the number decides, as a number.
    (folder / "checkpoint_2_1024000.pt").touch()
    for f in folder.glob("*.*"):
        os.utime(f, (5000, 5000))
    assert find_checkpoint_file(folder).name == "checkpoint_2_1024000.pt"


def test_keys_left_out_mean_what_they_mean_to_the_published_code(
    folder: Path, rewrite: Callable[..., None], reasoner: Reasoner
) -> None:
    sizes = ("extractor_features_dim", "semantic_features_dim", "features_dim", "n_attention_layers", "num_heads")
    rewrite(
        dino=None,
        extractor={"model_name": None},
        reasoning=dict.fromkeys((*sizes, "attention")),
        attention_progression=None,
        deep_supervision=None,
        semantic_conditioning=None,
        semantic_interpolation_mode=None,
        fix_dino_size=None,
        activate_timers=None,
        registration=None,
    )
    loaded, config = load_reasoner(folder)
    assert config.reasoner == replace(CONFIG.reasoner, num_heads=4, semantic_conditioning=False)
    assert (config.dino_weights, config.extractor_name) == ("dinov2_vits14", "aliked-n16")
    assert config.registration == "published"
    assert same_weights(loaded, reasoner)


def test_keys_that_nothing_reads_are_ignored(folder: Path, rewrite: Callable[..., None]) -> None:
    rewrite(reasoning_triplet=False, reasoning={"dropout": 0.1}, something={"new": 1})
    assert load_reasoner(folder)[1] == CONFIG


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("extractor_features_dim", 128, 64),
        ("semantic_features_dim", 768, 384),
        ("features_dim", 32, 16),
        ("n_attention_layers", 3, 2),
    ],
)
def test_a_wrong_dimension_names_both_sides(
    folder: Path, rewrite: Callable[..., None], name: str, value: int, found: int
) -> None:
    rewrite(reasoning={name: value})
    with pytest.raises(CheckpointError, match=rf"model_config\.yaml says {name} {value}, .*\.pt was made with {found}"):
        load_reasoner(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reasoning": {"num_heads": 5}}, "num_heads 5 does not divide features_dim 16"),
        ({"reasoning": {"features_dim": "sixteen"}}, "features_dim must be a whole number.*'sixteen'"),
        ({"attention_progression": "visual"}, "unknown attention_progression 'visual'"),
        ({"dino": {"weights": 3}}, r"dino\.weights must be a name, got 3"),
        ({"registration": "good"}, "unknown registration 'good'"),
        ({"extractor": 3}, "section extractor must hold keys and values, got 3"),
    ],
)
def test_a_wrong_value_names_file_and_value(
    folder: Path, rewrite: Callable[..., None], changes: dict[str, Any], message: str
) -> None:
    rewrite(**changes)
    with pytest.raises(CheckpointError, match=rf"model_config\.yaml: .*{message}"):
        load_reasoner(folder)


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [1", "\x00"])
def test_a_configuration_that_is_none(folder: Path, text: str) -> None:
    (folder / "model_config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"model_config\.yaml"):
        load_reasoner(folder)


def test_missing_things_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere is not a checkpoint folder"):
        load_reasoner(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"has no model_config\.yaml.*did you mean .*xfeat\?"):
        load_reasoner(tmp_path)
    (folder / "checkpoint_0_0.pt").unlink()
    with pytest.raises(CheckpointError, match=r"no weights file \(\.pt or \.safetensors\)"):
        load_reasoner(folder)
    (folder / "model_config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"has no model_config\.yaml"):
        load_reasoner(folder)


def test_a_truncated_file(folder: Path) -> None:
    path = folder / "checkpoint_0_0.pt"
    whole = path.read_bytes()
    for size in (len(whole) // 2, 10, 0):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"checkpoint_0_0\.pt"):
            load_reasoner(folder)


class _RunsCode:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_is_refused_and_not_run(folder: Path, tmp_path: Path, legacy: bool) -> None:
    path, target = folder / "checkpoint_0_0.pt", tmp_path / "was-run"
    if legacy:
        path.write_bytes(pickle.dumps({"state_dict": _RunsCode(str(target))}, protocol=2))
    else:
        torch.save({"state_dict": _RunsCode(str(target))}, path)
    with pytest.raises(CheckpointError, match=r"checkpoint_0_0\.pt"):
        load_reasoner(folder)
    assert not target.exists()
