"""Checkpoints that cannot be built: one clear error each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import CheckpointError, ShapeError, UnknownNameError, WeightsNotFoundError
from semantic_matcher_core.weights import fetch_weights
from semantic_matcher_core.weights.fetch import with_requirements
from tests.core.tiny_parts import Published


@pytest.fixture
def checkpoint(home: Path, published: Published, tmp_path: Path) -> Path:
    """A good checkpoint folder, all of whose parts are here."""
    for name in with_requirements(["xfeat"]):
        fetch_weights(name)
    folder = tmp_path / "checkpoint"
    (home / "weights" / "xfeat").rename(folder)
    return folder


def edit_config(folder: Path, **sections: Any) -> None:
    config = yaml.safe_load((folder / "model_config.yaml").read_text())
    for name, values in sections.items():
        config[name] = {**config[name], **values} if isinstance(values, dict) else values
    (folder / "model_config.yaml").write_text(yaml.safe_dump(config))


def test_a_good_checkpoint_loads(checkpoint: Path) -> None:
    assert SemanticMatcher.from_pretrained(checkpoint, device="cpu").reasoner is not None


def test_a_folder_without_configuration(checkpoint: Path) -> None:
    (checkpoint / "model_config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"has no model_config\.yaml"):
        SemanticMatcher.from_pretrained(checkpoint, device="cpu")


def test_a_folder_without_weights(checkpoint: Path) -> None:
    (checkpoint / "checkpoint_2_1024000.pt").unlink()
    with pytest.raises(CheckpointError, match="has no weights file"):
        SemanticMatcher.from_pretrained(checkpoint, device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reasoning": {"features_dim": 40}}, "features_dim 40"),
        ({"reasoning": {"n_attention_layers": 6}}, "n_attention_layers 6"),
        ({"reasoning": {"semantic_features_dim": 384}}, "semantic_features_dim 384"),
        ({"reasoning": {"num_heads": 3}}, "num_heads 3"),
        ({"semantic_interpolation_mode": "magic"}, "magic"),
    ],
)
def test_a_configuration_that_does_not_fit_its_weights(checkpoint: Path, change: dict, message: str) -> None:
    edit_config(checkpoint, **change)
    with pytest.raises(CheckpointError, match=message):
        SemanticMatcher.from_pretrained(checkpoint, device="cpu")


def test_parts_of_another_dimension(checkpoint: Path) -> None:
    fetch_weights("alike-n"), fetch_weights("dinov2_vitb14")
    edit_config(checkpoint, extractor={"model_name": "alike-n"})
    with pytest.raises(ShapeError, match=r"'alike-n' gives descriptors of 16 dimensions, but .* made for 12"):
        SemanticMatcher.from_pretrained(checkpoint, device="cpu")
    edit_config(checkpoint, extractor={"model_name": "xfeat"}, dino={"weights": "dinov2_vitb14"})
    with pytest.raises(ShapeError, match=r"'dinov2_vitb14' gives features of 8 dimensions, but .* made for 6"):
        SemanticMatcher.from_pretrained(checkpoint, device="cpu")


def test_parts_that_do_not_exist(checkpoint: Path) -> None:
    edit_config(checkpoint, extractor={"model_name": "orb-slam"})
    with pytest.raises(UnknownNameError, match=r"unknown extractor 'orb-slam'; known: compact, xfeat"):
        SemanticMatcher.from_pretrained(checkpoint, device="cpu")
    edit_config(checkpoint, extractor={"model_name": "xfeat"}, dino={"weights": "dinov3"})
    with pytest.raises(UnknownNameError, match=r"unknown semantic encoder 'dinov3'.*known: dinov2_vits14"):
        SemanticMatcher.from_pretrained(checkpoint, device="cpu")


def test_names_and_paths_that_are_nothing(home: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UnknownNameError,
        match=r"unknown variant 'xfeet'; did you mean 'xfeat'\? known: compact, xfeat, .*plain:<extractor>",
    ):
        SemanticMatcher.from_pretrained("xfeet", device="cpu")
    with pytest.raises(UnknownNameError, match="unknown variant ''; known: compact"):
        SemanticMatcher.from_pretrained("", device="cpu")
    for path in (str(tmp_path / "nowhere"), tmp_path / "nowhere", "nowhere.zip"):
        with pytest.raises(WeightsNotFoundError, match="does not exist"):
            SemanticMatcher.from_pretrained(path, device="cpu")
    with pytest.raises(CheckpointError, match=r"checkpoint_2_1024000\.pt is no zip; give a folder"):
        SemanticMatcher.from_pretrained(checkpoint / "checkpoint_2_1024000.pt", device="cpu")
