"""YAML from strangers: aliases are fine, and what they stand for is counted before it is made."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from semantic_matcher_core.errors import CheckpointError, ConfigError
from semantic_matcher_core.io.camera_file import read_calibration
from semantic_matcher_core.io.yaml_text import load_yaml
from semantic_matcher_core.reasoning.checkpoint import _read_yaml


def grown(first: str, following: str, levels: int = 9) -> str:
    """Return lines of which each holds the one before ten times."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {following.format(', '.join([f'*a{i - 1}'] * 10))}" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def test_aliases_are_what_they_stand_for() -> None:
    assert load_yaml("a: &x [1, 2]\nb: *x\nc: {<<: {d: *x}}") == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2]}}
    assert load_yaml("") is None
    assert load_yaml("3") == 3
    assert len(load_yaml(grown("[x]", "[{}]", levels=5))["a4"]) == 10


@pytest.mark.parametrize(
    "text",
    [grown("[x, x]", "[{}]"), grown("{x: 1}", "{{<<: [{}]}}"), "a: &a [*a]", "a: &a {b: *a}"],
    ids=["lists", "merges", "a list in itself", "a mapping in itself"],
)
def test_more_than_a_machine_can_hold_is_refused_before_it_is_made(text: str, tmp_path: Path) -> None:
    with pytest.raises(yaml.YAMLError, match="more than a million values"):
        load_yaml(text)
    file = tmp_path / "model_config.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="more than a million values"):
        read_calibration(file)
    with pytest.raises(CheckpointError, match="more than a million values"):
        _read_yaml(file)
