"""The table of parameters, and what is made of it. No ROS graph."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml

from semantic_matcher_core import options as parameters

parameter_files = pytest.importorskip("semantic_matcher.parameter_files")

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "ros_ws" / "src" / "semantic_matcher" / "config"
ALL = [(executable, spec) for executable, table in parameters.TABLES.items() for spec in table]
IDS = [f"{executable}-{spec.name}" for executable, spec in ALL]


@pytest.mark.parametrize("executable", parameters.TABLES)
def test_the_shipped_yaml_is_what_the_table_says(executable: str) -> None:
    text = (CONFIG / f"{executable}.yaml").read_text()
    assert text == parameter_files.yaml_defaults(executable), "run `python -m semantic_matcher.parameter_files`"
    values = yaml.safe_load(text)["/**"]["ros__parameters"]
    expected = {spec.name: spec.default for spec in parameters.TABLES[executable]}
    assert values == expected
    assert {k: type(v) for k, v in values.items()} == {k: type(v) for k, v in expected.items()}


@pytest.mark.parametrize("executable", parameters.TABLES)
def test_the_documentation_has_the_table(executable: str) -> None:
    text = (REPOSITORY / "docs" / "ros.md").read_text()
    assert parameter_files.documentation() in text, "run `python -m semantic_matcher.parameter_files`"
    for spec in parameters.TABLES[executable]:
        assert f"| `{spec.name}` |" in text


@pytest.mark.parametrize("executable", parameters.TABLES)
def test_names_are_unique_and_usual(executable: str) -> None:
    names = [spec.name for spec in parameters.TABLES[executable]]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


@pytest.mark.parametrize(("executable", "spec"), ALL, ids=IDS)
def test_each_is_described_and_its_default_is_good(executable: str, spec: parameters.ParameterSpec) -> None:
    assert len(spec.description) > 10
    assert not spec.description.endswith(".")
    assert spec.refusal(spec.default) == ""
    if spec.type_name in ("integer", "double"):
        assert spec.minimum is not None


@pytest.mark.parametrize(("executable", "spec"), ALL, ids=IDS)
def test_bad_values_are_refused_by_name(executable: str, spec: parameters.ParameterSpec) -> None:
    bad: list[object] = [None, [1]]
    if spec.type_name == "string":
        bad += [3] + (["surely not"] if spec.choices else [])
    elif spec.type_name == "bool":
        bad += ["true", 1]
    elif spec.type_name == "string_array":
        bad += ["a", ["a", 1], ["a", "a"]] + ([["a/b"]] if spec.pattern[1] else [])
    else:
        kind = type(spec.default)
        bad += ["1", True, kind(spec.minimum - 1)]
        bad += [kind(spec.maximum + 1)] if spec.maximum is not None else []
        bad += [math.nan, math.inf] if kind is float else [1.0]
    for value in bad:
        reason = spec.refusal(value)
        assert reason.startswith(f"{spec.name} = {value!r}"), (value, reason)


def test_a_whole_number_will_do_for_a_fraction_and_not_the_other_way_round() -> None:
    fraction = parameters.ParameterSpec("ratio", 0.5, "some ratio", 0.0, 1.0)
    assert repr(fraction.coerced(1)) == "1.0"
    assert fraction.coerced(True) is True
    whole = parameters.ParameterSpec("count", 5, "some count", 0, 9)
    assert repr(whole.coerced(1.0)) == "1.0" and whole.refusal(1.0)


def test_empty_strings_stand_for_nothing_in_an_array() -> None:
    cameras = next(spec for spec in parameters.CAMERAS if spec.name == "cameras")
    assert cameras.refusal(["", ""]) == cameras.refusal(["front", "rear", ""]) == ""
    assert parameters.named(["", "front", ""]) == ["front"]
    assert "'a b' is no name of a camera" in cameras.refusal(["front", "a b"])
