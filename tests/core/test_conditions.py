"""What has no effect is said, by the one table of conditions, at every door."""

from __future__ import annotations

import inspect
import logging

import numpy as np
import pytest

from semantic_matcher_core.cli import main
from semantic_matcher_core.cli.logs import show_own_logs
from semantic_matcher_core.cli.match import match_command
from semantic_matcher_core.cli.offline import bag_command, images_command, video_command
from semantic_matcher_core.conditions import CONDITIONS, without_effect
from semantic_matcher_core.io.images import write_image
from semantic_matcher_core.options import TABLES
from semantic_matcher_core.pipeline import SemanticMatcher

COMMANDS = (match_command, bag_command, video_command, images_command)


def doors() -> list[dict[str, object]]:
    """Return the options of each command and node, with their defaults."""
    tables = [{spec.name: spec.default for spec in table} for table in TABLES.values()]
    parameters = [inspect.signature(command).parameters.values() for command in COMMANDS]
    return [*tables, *({p.name: p.default for p in command} for command in parameters)]


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.options[0])
def test_a_condition_is_one_of_options_that_exist_together(condition) -> None:
    decisive, _ = condition.any_of[0]
    for option in condition.options:
        assert any(option in door and decisive in door for door in doors()), option
    for other, wanted in condition.any_of:
        assert any(other in door for door in doors()), other
        assert all(value is None or isinstance(value, (str, bool)) for value in wanted)


@pytest.mark.parametrize("door", doors())
def test_defaults_are_never_named(door) -> None:
    assert without_effect(door, ()) == {}


@pytest.fixture
def logged(caplog, monkeypatch):
    """What the library logs, also where a command ran before and took it over."""
    show_own_logs()
    monkeypatch.setattr(logging.getLogger("semantic_matcher_core"), "propagate", True)
    return caplog


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("pair")
    picture = (np.random.default_rng(0).random((12, 16)) * 255).astype(np.uint8).repeat(10, 0).repeat(10, 1)
    for name in ("a.png", "b.png"):
        write_image(folder / name, picture)
    return [str(folder / name) for name in ("a.png", "b.png")]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--max-lines 3", ["--max-lines has no effect without --output"]),
        (
            "--geometry-threshold 5",
            ["--geometry-threshold has no effect without --geometry homography, fundamental, essential"],
        ),
        ("--geometry-threshold 5 --geometry homography", []),
        ("--weights nowhere", ["weights nowhere have no effect: extractor 'sift' takes none"]),
        ("--semantic-size 448", ["semantic_size 448 has no effect: extractor 'sift' alone has no encoder"]),
        ("--precision bf16", ["precision 'bf16' has no effect: extractor 'sift' runs in fp32 on cpu"]),
        ("--backend compile", ["backend 'compile' has no effect: extractor 'sift' has no dense network to compile"]),
    ],
)
def test_the_command_line_says_what_does_nothing(pair, given, said, capsys, logged) -> None:
    assert main(["match", *pair, "--variant", "plain:sift", "--device", "cpu", *given.split()]) == 0
    notes = [line.removeprefix("note: ") for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert [*notes, *logged.messages] == said


def test_a_run_names_each_option_once_and_what_it_needs(pair, tmp_path, capsys) -> None:
    options = "--mount 1 --fps 5 --stamps-from-names --rectified --mode reference --every-nth 3"
    # Refused for want of --reference, after that.
    assert main(["images", *pair, "-o", str(tmp_path / "o.mcap"), *options.split()]) == 2
    assert [line for line in capsys.readouterr().err.splitlines() if "no effect" in line] == [
        "note: --every-nth has no effect without --mode temporal",
        "note: --rectified has no effect without --mode stereo or --geometry essential or --odometry or --colmap",
        "note: --mount has no effect without --odometry",
        "note: --fps has no effect with --stamps-from-names",
    ]


def test_settings_of_no_use_are_said_once(logged) -> None:
    matcher = SemanticMatcher.from_pretrained("compact", device="cpu", semantic_size=300)
    matcher.with_settings(max_keypoints=9)
    assert logged.messages == ["semantic_size 300 has no effect: the checkpoint fixes it at 448"]
    SemanticMatcher.from_pretrained("compact", device="cpu").with_settings(semantic_size=640)
    assert logged.messages[1:] == ["semantic_size 640 has no effect: the checkpoint fixes it at 448"]
    plain = SemanticMatcher.from_pretrained("plain:sift", device="cpu").with_settings(precision="bf16")
    assert plain.with_settings(max_keypoints=9).max_keypoints == 9
    assert logged.messages[2:] == ["precision 'bf16' has no effect: extractor 'sift' runs in fp32 on cpu"]


@pytest.mark.parametrize("published", [True, False])
def test_the_trackers_rectified_image_has_the_quality_of_debug_images(published) -> None:
    values = {spec.name: spec.default for spec in TABLES["template_tracker"]}
    values |= {"publish_debug_image": False, "publish_rectified": published, "debug_jpeg_quality": 95}
    assert ("debug_jpeg_quality" in without_effect(values, ["debug_jpeg_quality"])) is not published


@pytest.mark.parametrize("rectified", [True, False])
def test_a_threshold_bounds_rows_of_rectified_pairs_without_a_band(rectified) -> None:
    values = {spec.name: spec.default for spec in TABLES["stereo_matcher"]}
    values |= {"rectified": rectified, "epipolar_band": 0.0, "geometry_threshold": 5.0}
    assert ("geometry_threshold" in without_effect(values, ["geometry_threshold"])) is not rectified
