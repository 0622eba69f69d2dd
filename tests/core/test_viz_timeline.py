"""The time line of a report: bounded, whole where it can be, and with the similarities that the file tells."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.images import write_image
from semantic_matcher_core.io.mcap import McapWriter
from semantic_matcher_core.io.messages import (
    compressed_image_message,
    descriptors_message,
    header_message,
    image_message,
    keypoints_message,
    matches_message,
)
from semantic_matcher_core.matching import match_features
from semantic_matcher_core.matching.evidence import of_matches
from semantic_matcher_core.offline.options import RunOptions
from semantic_matcher_core.offline.run import run
from semantic_matcher_core.offline.sources import FilesSource
from semantic_matcher_core.types import Features, Matches
from semantic_matcher_core.viz.report import render
from semantic_matcher_core.viz.report_data import collect
from semantic_matcher_core.viz.report_viewer import page_data
from semantic_matcher_core.viz.rerun_log import shown
from semantic_matcher_core.viz.timeline import MAX_PAIRS, Pair, as_json, packed, pair_of, plan

SIZE = (48, 64)
KEYS = ((1, "a"), (2, "a"))


def features(seed: int, count: int = 30) -> Features:
    generator = torch.Generator().manual_seed(seed)

    def unit() -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(1, count, 8, generator=generator), dim=-1)

    points = torch.rand(1, count, 2, generator=generator) * torch.tensor([63.0, 47.0])
    return Features(points, torch.ones(1, count), unit(), SIZE, reasoned=unit(), semantic=unit())


def test_pictures_that_nodes_draw_are_not_taken_for_the_cameras(tmp_path: Path) -> None:
    frames = [features(i) for i in range(2)]
    with McapWriter(tmp_path / "results.mcap") as writer:
        for i, current in enumerate(frames):
            own = header_message(10 + i, "camera")
            drawn = np.full((SIZE[0], 2 * SIZE[1], 3), 200, np.uint8)
            writer.write("/m/debug_image", image_message(drawn, own), 10 + i)
            writer.write("/m/debug_image/compressed", compressed_image_message(drawn, own), 10 + i)
            writer.write("/m/keypoints", keypoints_message(current, own), 10 + i)
        matches = match_features(*frames)
        writer.write("/m/matches", matches_message(matches, "temporal", own, header_message(10, "camera")), 11)
    data = collect(tmp_path / "results.mcap")
    (pair,) = data.streams[0].pairs
    assert pair.images == [None, None] and not data.thumbnails.of
    assert not [item for item in shown(tmp_path / "results.mcap") if item.kind == "image"]


@pytest.mark.parametrize("mode", ["temporal", "stereo"])
def test_similarities_and_thumbnails_of_every_pair(tmp_path: Path, mode: str) -> None:
    expected = []
    with McapWriter(tmp_path / "results.mcap") as writer:
        frames = [features(i) for i in range(5)]
        for i, current in enumerate(frames):
            if mode == "temporal":
                sides = [("", i, 10 + i)]
                reference, header = header_message(9 + i, "camera"), header_message(10 + i, "camera")
            else:  # both cameras of a rig with one stamp and frame
                sides = [("left/", max(i - 1, 0), 10 + i), ("right/", i, 10 + i)]
                reference = header = header_message(10 + i, "camera")
            for name, which, stamp in sides:
                own = header_message(stamp, "camera")
                grey = np.full((*SIZE, 3), 20 * which + 10, np.uint8)
                writer.write(f"/rig/{name}image", image_message(grey, own), stamp)
                writer.write(f"/m/{name}keypoints", keypoints_message(frames[which], own), stamp)
                writer.write(f"/m/{name}descriptors", descriptors_message(frames[which], "test", own), stamp)
            if i:
                matches = match_features(frames[i - 1], current)
                expected.append((matches, of_matches(frames[i - 1], current, matches)))
                writer.write("/m/matches", matches_message(matches, mode, header, reference), 10 + i)
    data = collect(tmp_path / "results.mcap")
    pairs = data.streams[0].timeline.pairs
    assert len(pairs) == 4 and [p.number for p in pairs] == [0, 1, 2, 3]
    for pair, (matches, (texture, semantic)) in zip(pairs, expected, strict=True):
        order = [matches.indices[:, 0].tolist().index(row) for row in pair.rows[:, 0].tolist()]
        assert sorted(order) == list(range(len(matches))) and semantic is not None
        np.testing.assert_allclose(pair.similarity[:, 0], texture[order], atol=1e-5)
        np.testing.assert_allclose(pair.similarity[:, 1], semantic[order], atol=1e-5)
    page = json.loads(page_data(data))
    assert len(page["images"]) == (5 if mode == "temporal" else 8)  # each once, and only those of a pair
    for i, pair in enumerate(page["streams"][0]["pairs"]):
        levels = []
        for index in pair["i"]:
            encoded = np.frombuffer(base64.b64decode(page["images"][index]), np.uint8)
            levels.append(round(float(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE).mean())))
        assert levels == [20 * i + 10, 20 * i + 30] and pair["s"] == [64, 48, 64, 48]


def test_packing() -> None:
    points = np.array([[-0.5, 0, 63.5, 47.5], [31.5, 23.5, 10, 10]], np.float32)
    similarity = np.array([[1.0, np.nan], [-1.0, 0.5]], np.float32)
    rows, confidence = np.zeros((2, 2), int), np.array([0.2, 0.8])
    pair = Pair(0, KEYS, points, rows, np.arange(2), confidence, np.array([True, False]), similarity)
    data = base64.b64decode(packed(pair, (64, 48), (64, 48), 0.2, 0.8))
    words = np.frombuffer(data[:20], "<u2").reshape(5, 2)
    assert words[:, 0].tolist() == [0, 683, 65535, 65535, 0] and words[4, 1] == 65535
    assert words[0, 1] / 65535 == pytest.approx(0.5, abs=1e-5)
    assert list(data[20:]) == [1, 0, 254, 0, 255, 190]
    unchecked = base64.b64decode(
        packed(Pair(0, KEYS, points, rows, pair.chosen, confidence, None, similarity), (64, 48), (64, 48), 0, 1)
    )
    assert list(unchecked[20:22]) == [255, 255]


@pytest.mark.parametrize("pairs", [1, 19, MAX_PAIRS, MAX_PAIRS + 1, 100_000])
def test_a_page_is_bounded(pairs: int) -> None:
    timeline = plan(pairs)
    kept = len(range(0, pairs, timeline.step))
    assert kept <= MAX_PAIRS and kept * timeline.most <= 100_000 and timeline.most >= 40
    assert (timeline.step == 1) == (pairs <= MAX_PAIRS)


def test_what_is_no_number_is_left_out_and_the_surest_are_kept() -> None:
    rng = np.random.default_rng(0)
    xy = rng.uniform((0, 0), (640, 480), (500, 2)).astype(np.float32)
    xy[3] = np.nan
    xy[4] = 1e30
    message = SimpleNamespace(
        xy0=xy.ravel(),
        xy1=xy.ravel(),
        confidence=np.linspace(0, 1, 500).astype(np.float32),
        inlier=np.zeros(0, np.uint8),
        index0=np.arange(500),
        index1=np.arange(500),
    )
    pair = pair_of(message, 0, KEYS, 50)
    assert len(pair.points) == 50 and pair.inlier is None and np.isfinite(pair.points).all()
    assert pair.confidence.mean() > 0.7


def test_names_cannot_end_the_data() -> None:
    text = as_json({"topic": "</script><script>alert(1)</script><!--\u2028"})
    assert "<" not in text and "\u2028" not in text and json.loads(text)["topic"].startswith("</script>")


def test_no_matches_at_all(tmp_path: Path) -> None:
    none = torch.zeros(0)
    empty = Matches(none.reshape(0, 2).long(), none.reshape(0, 2), none.reshape(0, 2), none)
    with McapWriter(tmp_path / "none.mcap") as writer:
        for stamp in (2, 3):
            message = matches_message(empty, "temporal", header_message(stamp, "c"), header_message(stamp - 1, "c"))
            writer.write("/m/matches", message, stamp)
    stream = json.loads(page_data(collect(tmp_path / "none.mcap")))["streams"][0]
    assert [pair["m"] for pair in stream["pairs"]] == ["", ""] and stream["series"]["confidence"] == [None, None]


def test_a_run_records_why_its_matches_won(tmp_path: Path, textured) -> None:
    """Texture and semantics of each match, in a file without descriptors as in one that has them."""
    matcher = SemanticMatcher.from_pretrained("compact", device="cpu", max_keypoints=120)
    for i in range(3):
        write_image(tmp_path / f"{i}.png", textured(120, 160, 5)[4 * i : 96 + 4 * i, 3 * i : 128 + 3 * i])
    source = FilesSource([[(f"{i}.png", tmp_path / f"{i}.png") for i in range(3)]])
    found = []
    for name, descriptors in (("short", False), ("long", True)):
        run(source, matcher, tmp_path / f"{name}.mcap", RunOptions(descriptors=descriptors))
        data = collect(tmp_path / f"{name}.mcap")
        found.append(data.streams[0].timeline.pairs)
        assert "by texture and semantics" in render(data)
    for short, long in zip(*found, strict=True):
        assert len(short.points) > 20
        np.testing.assert_allclose(short.similarity, long.similarity, atol=1e-5)
        np.testing.assert_allclose(short.similarity.prod(axis=1), short.confidence, atol=1e-4)
    with BagReader(tmp_path / "short.mcap") as short_file, BagReader(tmp_path / "long.mcap") as long_file:
        assert "/temporal_matcher/similarities" in {t.name for t in short_file.topics}
        assert "/temporal_matcher/similarities" not in {t.name for t in long_file.topics}
