"""Feature export: the published layout, one file a scene, resumable, shared between processes."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from semantic_matcher_core import create_extractor
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.semantics.colour_context import ColourContext
from semantic_matcher_core.semantics.dinov2 import DinoV2
from semantic_matcher_core.types import Features
from training.data.scene_file import SceneFile, SceneFileWriter, scene_files
from training.errors import DataError
from training.export_features import app
from training.features.cache import LOCAL_GROUPS, SEMANTIC_GROUPS, FeatureCache, cache_path
from training.features.export import (
    LocalFeatures,
    SemanticFeatures,
    encode_with_global,
    export_scenes,
)
from training.features.parts import build_extractor


def write_scene(path: Path, textured: Any, images: int, sizes: tuple[int, ...] = (64,)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with SceneFileWriter(path, storage="compact") as scene:
        for i in range(images):
            side = sizes[i % len(sizes)]
            picture = torch.from_numpy(textured(side, 80, seed=i)).permute(2, 0, 1) / 255.0
            scene.add_image(f"{path.stem}_{i}", picture, torch.ones(side, 80), torch.eye(4), torch.eye(3))


@pytest.fixture
def data(tmp_path: Path, textured: Any) -> Path:
    for split, name in (("train", "a"), ("train", "b"), ("train", "c"), ("val", "d")):
        write_scene(tmp_path / split / f"{name}.h5", textured, 3, sizes=(64, 48))
    return tmp_path


def test_local_features_are_the_extractors(data: Path) -> None:
    extractor = build_extractor("sift", 30)
    method = LocalFeatures(extractor, "sift")
    output = data / "features" / "sift-scannet-n30" / "train"
    report = export_scenes(scene_files(data, "train"), output, method, batch_size=2)
    assert (report.written, report.images, report.finished_before) == (3, 9, 0)
    assert report.images_per_second > 0
    scene = SceneFile(data / "train" / "b.h5")
    cache = FeatureCache(cache_path(data, "sift-scannet-n30", "train", "b"), LOCAL_GROUPS, scene.image_keys)
    with h5py.File(cache.path) as file:
        assert set(file) == {"keypoints", "descriptors"}
        assert set(file["keypoints"]) == set(scene.image_keys)
        assert (file.attrs["made_by"], file.attrs["max_keypoints"]) == ("sift", 30)
    for key in scene.image_keys:
        keypoints, descriptors = cache.local(key, 128)
        expected = extractor.extract(scene.image(key)[None])
        assert torch.equal(keypoints, expected.keypoints[0])
        assert torch.equal(descriptors, expected.descriptors[0])


class RandomNetwork(Extractor):
    """A third party's extractor, with random weights and no keypoints in dark images."""

    name = "random"
    descriptor_dim = 6

    def __init__(self, max_keypoints: int) -> None:
        super().__init__(max_keypoints)
        self.convolution = torch.nn.Conv2d(3, 6, 5, padding=2)

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Features:
        rows = []
        for image, descriptors in zip(images, self.convolution(images), strict=True):
            n = self.max_keypoints if image.mean() > 0.2 else 0
            place = image.mean(dim=0).flatten().float().topk(n).indices
            keypoints = torch.stack([place % image.shape[-1], place // image.shape[-1]], dim=1).float()
            found = descriptors.flatten(1)[:, place].T
            rows.append(Features(keypoints[None], torch.ones(1, n), found[None], image_size=image.shape[-2:]))  # type: ignore[arg-type]
        return Features.stack(rows)


def test_any_extractor_also_with_images_without_keypoints_and_in_half_precision(tmp_path: Path) -> None:
    with SceneFileWriter(tmp_path / "a.h5") as scene:
        for key, value in (("dark", 0.0), ("light", 0.8)):
            scene.add_image(key, torch.full((3, 20, 24), value), torch.ones(20, 24), torch.eye(4), torch.eye(3))
    method = LocalFeatures(RandomNetwork(5), "random")
    for precision in (torch.float32, torch.bfloat16):
        folder = tmp_path / str(precision)
        export_scenes([tmp_path / "a.h5"], folder, method, precision=precision, half_storage=True)
        cache = FeatureCache(folder / "a.h5", LOCAL_GROUPS, ["dark", "light"])
        assert [len(cache.local(key, 6)[0]) for key in ("dark", "light")] == [0, 5]
        with h5py.File(cache.path) as file:
            assert file["keypoints/light"].dtype == np.float32
            assert file["descriptors/light"].dtype == np.float16


def test_semantic_features_are_the_encoders_and_the_class_token_is_dinov2s(data: Path) -> None:
    encoder = DinoV2("dinov2_vits14").eval()
    # Fewer blocks than published: the export does not care.
    encoder.blocks = encoder.blocks[:2]
    images = torch.rand(2, 3, 42, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps, whole = encode_with_global(encoder, images)
        # By hand: class token through the same blocks, then the final norm.
        tokens = torch.cat([encoder.cls_token.expand(2, -1, -1), encoder.patch_embed(images)], dim=1)
        tokens = tokens + encoder.interpolate_pos_encoding(3, 4)
        for block in encoder.blocks:
            tokens = block(tokens)
        torch.testing.assert_close(whole, encoder.norm(tokens)[:, 0])
        torch.testing.assert_close(maps, encoder(images))
    output = data / "features" / "dino" / "val"
    export_scenes(scene_files(data, "val"), output, SemanticFeatures(encoder, 0))
    scene = SceneFile(data / "val" / "d.h5")
    cache = FeatureCache(output / "d.h5", SEMANTIC_GROUPS, scene.image_keys, {"long_side": 0})
    # 64 x 80 and 48 x 80 at their own size, to the nearest whole patches of 14 px.
    shapes = {tuple(cache.semantic_map(key, 384).shape) for key in scene.image_keys}
    assert shapes == {(384, 5, 5), (384, 3, 5)}
    with h5py.File(cache.path) as file:
        assert file["global_descriptor"][scene.image_keys[0]].shape == (384,)


def test_finished_scenes_stay_and_unfinished_ones_are_made_whole(data: Path) -> None:
    output = data / "features" / "x" / "train"

    class Interrupted(LocalFeatures):
        images = 0

        def __call__(self, images: Tensor) -> list[dict[str, np.ndarray]]:
            self.images += len(images)
            if self.images > 4:
                raise KeyboardInterrupt
            return super().__call__(images)

    extractor = create_extractor("sift", 30, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        export_scenes(scene_files(data, "train"), output, Interrupted(extractor, "sift"), batch_size=1)
    assert [path.name for path in output.iterdir()] == ["a.h5"]
    kept = (output / "a.h5").stat().st_mtime_ns
    report = export_scenes(scene_files(data, "train"), output, LocalFeatures(extractor, "sift"))
    assert (report.written, report.finished_before) == (2, 1)
    assert (output / "a.h5").stat().st_mtime_ns == kept
    assert sorted(path.name for path in output.iterdir()) == ["a.h5", "b.h5", "c.h5"]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-200], lambda data: data.replace(b"TREE", b"XXXX")], ids=["cut short", "within"]
)
def test_damaged_scenes_are_named_and_skipped_or_refused(data: Path, damage: Callable[[bytes], bytes]) -> None:
    damaged = data / "train" / "b.h5"
    damaged.write_bytes(damage(damaged.read_bytes()))
    method = SemanticFeatures(ColourContext(), 56)
    with pytest.raises(DataError, match=str(damaged)):
        export_scenes(scene_files(data, "train"), data / "one", method)
    report = export_scenes(scene_files(data, "train"), data / "two", method, skip_damaged=True)
    assert (report.written, report.images) == (2, 6)
    assert len(report.damaged) == 1
    assert str(damaged) in report.damaged[0]
    assert sorted(path.name for path in (data / "two").iterdir()) == ["a.h5", "c.h5"]


def test_files_of_another_making_are_not_taken_for_finished(data: Path) -> None:
    export_scenes(scene_files(data, "val"), data / "out", SemanticFeatures(ColourContext(), 56))
    with pytest.raises(DataError, match=r"d\.h5 was made with long_side 56, not 112"):
        export_scenes(scene_files(data, "val"), data / "out", SemanticFeatures(ColourContext(), 112))


def test_a_full_disk_stops_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.features import export

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.FeatureCacheWriter, "add", full)
    with pytest.raises(OSError, match="No space left"):
        export_scenes(scene_files(data, "val"), data / "out", SemanticFeatures(ColourContext(), 56))
    assert list((data / "out").iterdir()) == []


def test_a_disk_that_fails_twice_while_much_waits_stops_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.features import export

    waiting: queue.Queue[Any] = queue.Queue(1)
    monkeypatch.setattr(export.queue, "Queue", lambda maxsize: waiting)

    def fail(*_: object) -> None:
        deadline = time.monotonic() + 30
        while not waiting.full() and time.monotonic() < deadline:
            time.sleep(0.001)
        raise OSError(5, "Input/output error")

    def fail_again(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(export.FeatureCacheWriter, "add", fail)
    monkeypatch.setattr(export.FeatureCacheWriter, "discard", fail_again)
    ended: list[Exception] = []

    def export_all() -> None:
        try:
            export_scenes(scene_files(data, "train"), data / "out", SemanticFeatures(ColourContext(), 56))
        except OSError as error:
            ended.append(error)

    # Apart, so that a wait without end is no wait of the tests.
    thread = threading.Thread(target=export_all, daemon=True)
    thread.start()
    thread.join(60)
    assert [str(error) for error in ended] == ["[Errno 5] Input/output error"]


def test_the_command_writes_published_names_and_says_how_long_scannet_takes(data: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "training.export_features", "--data", str(data), "--extractor", "sift"]
    command += ["--num-keypoints", "30", "--device", "cpu"]
    for rank, scenes in ((0, {"a", "c"}), (1, {"b"})):
        done = subprocess.run(
            command,
            env={**environment, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        assert "1513 scenes, every 15th of 2.5 million frames: 166666 images" in done.stderr
        assert "images/s in each of 2 process(es)" in done.stderr
        folder = data / "features" / "sift-scannet-n30" / "train"
        assert {p.stem for p in folder.iterdir()} >= scenes
    assert {p.stem for p in folder.iterdir()} == {"a", "b", "c"}
    assert [p.stem for p in (folder.parent / "val").iterdir()] == ["d"]


@pytest.mark.parametrize("arguments", [[], ["--extractor", "sift", "--dino", "dinov2_vits14"]])
def test_the_command_needs_one_kind_of_feature(data: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["--data", str(data), *arguments])
    assert isinstance(result.exception, ConfigError)
    assert "either --extractor or --dino" in str(result.exception)


def test_extractor_options_that_a_checkpoint_cannot_carry_are_refused() -> None:
    with pytest.raises(ConfigError, match="'contrast_threshold' is not one a checkpoint can carry"):
        build_extractor("sift", 10, {"contrast_threshold": 0.1})


@pytest.mark.parametrize("name", ["xfeat", "dalf"])
def test_published_extractors_export(shared: Path, data: Path, name: str) -> None:
    extractor = build_extractor(name, 20, weights=shared / "weights")
    report = export_scenes(scene_files(data, "val"), data / "out", LocalFeatures(extractor, name))
    assert report.images == 3
    key = SceneFile(data / "val" / "d.h5").image_keys[0]
    assert FeatureCache(data / "out" / "d.h5", LOCAL_GROUPS, [key]).local(key, extractor.descriptor_dim)[0].shape[0] > 0
