"""What identifies a run: everything that changes its results, and nothing else."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_matcher_core.errors import OutputError
from semantic_matcher_core.io.colmap import Intrinsics
from semantic_matcher_core.io.images import write_image
from semantic_matcher_core.offline.exports import Exports
from semantic_matcher_core.offline.options import RunOptions
from semantic_matcher_core.offline.pair_choice import PairChoice
from semantic_matcher_core.offline.run import RunHooks, run
from semantic_matcher_core.offline.run_info import model_settings, run_info
from semantic_matcher_core.offline.sources import BagSource, FilesSource, ImageSource, VideoSource
from semantic_matcher_core.pipeline import SemanticMatcher
from semantic_matcher_core.streams import TemporalPairing
from semantic_matcher_core.weights.hashing import sha256_of_weights
from tests.core.recordings import view, write_camera_bag


class Recording(ImageSource):
    """A recording that is always the same."""

    path, streams, total = Path("in.mcap"), ("/camera/image",), 3

    def images(self) -> Any:
        return iter(())

    def digest(self) -> str:
        return "digest"


@lru_cache
def compact() -> SemanticMatcher:
    return SemanticMatcher.from_pretrained("compact", device="cpu", max_keypoints=50)


@lru_cache
def plain_sift() -> SemanticMatcher:
    return SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=50)


def key(options: RunOptions | None = None, matcher: SemanticMatcher | None = None, **more: Any) -> dict[str, Any]:
    return run_info(Recording(), matcher or compact(), options or RunOptions(), (), **more)


# Another value of each type that is allowed wherever an option of that type is.
_OTHERS: dict[str, list[Any]] = {
    "mode": ["temporal", "stereo"],
    "pairing": [TemporalPairing(), TemporalPairing("keyframe"), TemporalPairing("every_nth", 3)],
    "sync": ["approximate"],
    "rotation": ["upright", "quarter", "any"],
    "slop_s": [0.0, 0.01],
    "queue_size": [10, 11],
    "geometry": [None, "homography", "fundamental", "essential"],
    "geometry_threshold": [2.0, 3.0],
    "geometry_backend": ["magsac", "poselib"],
    # Files whatever they hold: their bytes count.
    "mask": [(), (__file__,), (str(Path(__file__).with_name("recordings.py")),)],
    "images": ["jpeg", "none"],
    "jpeg_quality": [90, 91],
    "namespace": ["", "robot"],
    "descriptor_dtype": ["float32", "float16"],
}


def _values(field: dataclasses.Field[Any]) -> st.SearchStrategy[Any]:
    if field.name in _OTHERS:
        return st.sampled_from(_OTHERS[field.name])
    if isinstance(field.default, bool):
        return st.booleans()
    if isinstance(field.default, str):  # names, of frames for instance
        return st.sampled_from([field.default, f"{field.default}_2"])
    assert isinstance(field.default, float), f"say which values {field.name} has"
    return st.sampled_from([field.default, field.default + 0.5])


def _made(values: dict[str, Any]) -> RunOptions:
    # The one option that only goes with another.
    return RunOptions(**{**values, "odometry": values["odometry"] and values["mode"] == "stereo"})


OPTIONS = st.fixed_dictionaries({field.name: _values(field) for field in dataclasses.fields(RunOptions)}).map(_made)


@settings(deadline=None, max_examples=60)
@given(OPTIONS, OPTIONS)
def test_runs_are_one_where_all_options_are(first: RunOptions, second: RunOptions) -> None:
    matcher = plain_sift()
    assert (key(first, matcher) == key(second, matcher)) == (first == second)


def _plain_values(matcher: SemanticMatcher) -> list[tuple[str, str]]:
    return [
        (place, name)
        for place, values in model_settings(matcher).items()
        for name, value in values.items()
        if name != "kind" and isinstance(value, (bool, int, float, str))
    ]


def test_every_setting_of_every_network_is_in_the_key() -> None:
    matcher = SemanticMatcher.from_pretrained("compact", device="cpu", max_keypoints=50)
    before = model_settings(matcher)
    places = _plain_values(matcher)
    names = {name for _, name in places} | {name for values in before.values() for name in values}
    assert {"semantic_size", "registration", "precision", "backend"} <= names | set(dir(matcher))
    assert len(places) > 5
    for place, name in places:
        module = matcher.get_submodule(place) if place else matcher
        if not isinstance(vars(module).get(name), (bool, int, float, str)):
            continue
        value = vars(module)[name]
        vars(module)[name] = (not value) if isinstance(value, bool) else value * 2 + (1 if value == 0 else value * 0)
        if isinstance(value, str):
            vars(module)[name] = f"{value} changed"
        assert model_settings(matcher) != before, f"{place}.{name}"
        vars(module)[name] = value
    assert model_settings(matcher) == before


@pytest.mark.parametrize(
    "change",
    [{"semantic_size": 448}, {"max_keypoints": 60}, {"precision": "bf16"}, {"registration": "published"}],
    ids=lambda change: next(iter(change)),
)
def test_what_is_asked_of_a_model_changes_the_key(change: dict[str, Any]) -> None:
    variant = compact().variant
    usual = SemanticMatcher.from_pretrained(variant, device="cpu", max_keypoints=50)
    other = SemanticMatcher.from_pretrained(variant, device="cpu", **{"max_keypoints": 50, **change})
    assert key(matcher=usual) == key() and key(matcher=other) != key()


def test_detection_thresholds_and_weights_are_in_the_key() -> None:
    matcher = SemanticMatcher.from_pretrained("plain:compact", device="cpu")
    before = key(matcher=matcher)
    assert before["weights_sha256"] == sha256_of_weights(matcher)
    with torch.no_grad():
        next(matcher.parameters()).add_(1e-3)
    assert key(matcher=matcher)["weights_sha256"] != before["weights_sha256"]
    usual, other = (SemanticMatcher.from_parts(sift(contrast), device="cpu") for contrast in (0.04, 0.05))
    assert key(matcher=usual) != key(matcher=other)


def sift(contrast: float) -> Any:
    from semantic_matcher_core.extractors import create_extractor

    return create_extractor("sift", 50, device="cpu", contrast_threshold=contrast)


def test_working_changes_no_key(textured_image: np.ndarray) -> None:
    for variant in ("plain:sift", "compact"):
        matcher = SemanticMatcher.from_pretrained(variant, device="cpu", max_keypoints=50)
        before = key(matcher=matcher)
        matcher.match_images(textured_image[:200, :240], textured_image[:200, 40:280])
        assert key(matcher=matcher) == before


def test_exports_and_calibration_are_in_the_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a")
    (tmp_path / "b.yaml").write_text("b")
    pinhole = Intrinsics("PINHOLE", (1.0, 1.0, 0.0, 0.0))
    keys = [
        key(exports=exports, calibration=calibration)
        for exports, calibration in (
            (None, ()),
            (Exports(features=Path("f.h5")), ()),
            (Exports(features=Path("f.h5"), half=True), ()),
            (Exports(colmap=Path("c")), ()),
            (Exports(colmap=Path("c"), pairs=PairChoice("window")), ()),
            (Exports(colmap=Path("c"), pairs=PairChoice("window", 3)), ()),
            (Exports(colmap=Path("c"), pairs=PairChoice("list", listed=frozenset({("a", "b")}))), ()),
            (Exports(colmap=Path("c"), camera=pinhole), ()),
            (None, (tmp_path / "a.yaml",)),
            (None, (tmp_path / "b.yaml",)),
        )
    ]
    assert all(first != second for i, first in enumerate(keys) for second in keys[:i])


def test_what_a_source_is_told_is_in_the_key(tmp_path: Path, textured_image: np.ndarray) -> None:
    from semantic_matcher_core.io.video import VideoWriter

    with VideoWriter(tmp_path / "v.mp4", 10.0) as writer:
        for i in range(3):
            writer.write(view(textured_image, i))
    for i in range(2):
        write_image(tmp_path / f"{i}.png", view(textured_image, i))
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 2)
    files = [(f"{i}.png", tmp_path / f"{i}.png") for i in range(2)]
    renamed = [(f"x/{name}", path) for name, path in files]
    sources = [
        VideoSource([tmp_path / "v.mp4"]),
        VideoSource([tmp_path / "v.mp4"], every=2),
        BagSource(bag),
        BagSource(bag, full_scale=4096.0),
        FilesSource([files]),
        FilesSource([files[::-1]]),
        FilesSource([renamed]),
        FilesSource([files], fps=20.0),
        FilesSource([files], stamps_from_names=True),
        FilesSource([files], orientation="stored"),
        FilesSource([files], full_scale=4096.0),
    ]
    keys = [run_info(source, compact(), RunOptions(), ()) for source in sources]
    assert all(first != second for i, first in enumerate(keys) for second in keys[:i])


def test_a_finished_run_is_not_taken_for_another(tmp_path: Path, textured_image: np.ndarray) -> None:
    source = BagSource(write_camera_bag(tmp_path / "in.mcap", textured_image, 2))
    output = tmp_path / "out.mcap"
    matcher = SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=50)
    run(source, matcher, output, RunOptions())
    notices: list[str] = []
    run(source, matcher, output, RunOptions(), hooks=RunHooks(notice=notices.append))
    assert notices == [f"{output} is complete already"]
    other = SemanticMatcher.from_parts(sift(0.05), device="cpu", variant="plain:sift")
    with pytest.raises(OutputError, match="not of this run"):
        run(source, other, output, RunOptions())
