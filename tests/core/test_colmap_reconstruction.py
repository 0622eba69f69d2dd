"""COLMAP itself reconstructs what is exported."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semantic_matcher_core.cli import main
from semantic_matcher_core.io.colmap import ColmapWriter, Intrinsics

pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed: it is in the extra 'dev'")


def reconstructed(database: Path, images: Path, output: Path) -> Any:
    """The largest model that COLMAP makes of a database."""
    output.mkdir()
    pycolmap.logging.minloglevel = 3
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = 1
    options.random_seed = 1
    models = pycolmap.incremental_mapping(database, images, output, options)
    assert models, "COLMAP made no model"
    return max(models.values(), key=lambda model: model.num_reg_images())


@pytest.mark.parametrize("known", [True, False])
def test_a_scene_of_points(tmp_path: Path, known: bool) -> None:
    random = np.random.default_rng(0)
    width, height, focal = 640, 480, 520.0
    scene = random.uniform((-3, -2, -1.5), (3, 2, 1.5), (300, 3))
    names = [f"{i:02d}.png" for i in range(9)]
    views = []
    for i in range(len(names)):
        angle = 0.14 * (i - 4)
        rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        seen = scene @ rotation.T + (0.1 * np.sin(i), 0.1 * np.cos(i), 8.0)
        # Our pixels: the centre of the top-left one is (0, 0).
        pixels = focal * seen[:, :2] / seen[:, 2:] + ((width - 1) / 2, (height - 1) / 2)
        visible = ((pixels > 0) & (pixels < (width - 1, height - 1))).all(1)
        views.append((visible, pixels + random.normal(0, 0.2, pixels.shape)))
    intrinsics = Intrinsics("PINHOLE", (focal, focal, width / 2, height / 2)) if known else None
    with ColmapWriter(tmp_path / "database.db") as writer:
        for name, (_, pixels) in zip(names, views, strict=True):
            writer.add_image(name, pixels, (width, height), intrinsics=intrinsics)
        for i, j in itertools.combinations(range(len(names)), 2):
            rows = np.flatnonzero(views[i][0] & views[j][0])
            from torch import from_numpy

            from semantic_matcher_core.matching.verification import verify
            from semantic_matcher_core.types import Matches

            pair = [from_numpy(views[n][1][rows].astype(np.float32)) for n in (i, j)]
            indices = np.stack([rows, rows], axis=1)
            found = verify(
                Matches(from_numpy(indices), *pair, from_numpy(np.ones(len(rows), np.float32))), "fundamental"
            )
            assert found.inlier is not None and found.model is not None
            geometry = {"inlier": found.inlier.numpy(), "model": found.model.numpy(), "model_type": "fundamental"}
            writer.add_matches(names[i], names[j], indices, **geometry)
    model = reconstructed(tmp_path / "database.db", tmp_path, tmp_path / "model")
    assert model.num_reg_images() == len(names) and model.compute_mean_reprojection_error() < 0.5
    (camera,) = model.cameras.values()
    assert abs(camera.params[0] / focal - 1) < (0.01 if known else 0.05)


@pytest.mark.slow
def test_a_sequence_exported_with_the_defaults(shared: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for picture in sorted((shared / "data" / "sequences" / "tum").iterdir())[::2]:
        (images / picture.name).symlink_to(picture)
    options = ["--colmap", "-v", "plain:compact", "-k", "700", "--write-images", "none"]
    assert main(["images", str(images), "-o", str(tmp_path / "tum.mcap"), *options]) == 0
    model = reconstructed(tmp_path / "tum.colmap" / "database.db", images, tmp_path / "model")
    assert model.num_reg_images() == len(list(images.iterdir())) == 10
