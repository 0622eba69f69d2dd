"""Features files: what is written is read, in hloc's layout, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import ConfigError, OutputError, ShapeError
from semantic_matcher_core.io.features_file import FeaturesFileError, FeaturesReader, FeaturesWriter
from semantic_matcher_core.types import Features


def features(count: int, *, reasoned: bool = True, seed: int = 0) -> Features:
    random = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=random)

    extra = {"reasoned": rand(1, count, 6), "semantic": rand(1, count, 5)} if reasoned else {}
    extra |= {} if reasoned else {"scales": rand(1, count), "orientations": rand(1, count)}
    extra |= {} if reasoned else {"turn": torch.arange(count)[None] // 3 * 90}
    maker = "xfeat with dinov2_vits14, 5 layers" if reasoned else ""
    return Features(rand(1, count, 2) * 50, rand(1, count), rand(1, count, 8), (48, 64), made_by=maker, **extra)


def assert_equal(read: Features, written: Features, tolerance: float = 0.0) -> None:
    assert read.image_size == written.image_size and read.valid is None and read.made_by == written.made_by
    for name in ("keypoints", "scores", "descriptors", "reasoned", "semantic", "scales", "orientations", "turn"):
        a, b = getattr(read, name), getattr(written, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.shape == b.shape and a.dtype == (torch.int64 if name == "turn" else torch.float32)
            assert torch.allclose(
                a, b, atol=tolerance if name in ("descriptors", "reasoned", "semantic") else 0, rtol=0
            )


@pytest.mark.parametrize("reasoned", [True, False])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_round_trip(tmp_path: Path, count: int, reasoned: bool) -> None:
    path = tmp_path / "features.h5"
    given = {
        key: features(count, reasoned=reasoned, seed=i) for i, key in enumerate(("b.png", "left/a.png", "ü 写.jpg"))
    }
    with FeaturesWriter(path, variant="plain:sift") as writer:
        for key, item in given.items():
            writer.write(key, item)
        assert writer.count == 3 and not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["features.h5"]
    with FeaturesReader(path) as reader:
        assert reader.variant == "plain:sift"
        assert sorted(reader.keys()) == sorted(given) and len(reader) == 3
        assert "left/a.png" in reader and "left" not in reader and "other" not in reader
        for key, item in given.items():
            assert_equal(reader.read(key), item)


def test_half_precision_is_for_descriptors_alone(tmp_path: Path) -> None:
    given = features(20)
    with FeaturesWriter(tmp_path / "half.h5", half=True) as writer:
        writer.write("a", given)
    with FeaturesReader(tmp_path / "half.h5") as reader:
        assert_equal(reader.read("a"), given, tolerance=5e-4)
    with h5py.File(tmp_path / "half.h5") as file:
        assert file["a/descriptors"].dtype == np.float16 and file["a/keypoints"].dtype == np.float32


def test_layout_is_that_of_hloc(tmp_path: Path) -> None:
    given = features(7)
    with FeaturesWriter(tmp_path / "features.h5") as writer:
        writer.write("db/1.jpg", given)
    with h5py.File(tmp_path / "features.h5") as file:
        group = file["db"]["1.jpg"]
        assert group["keypoints"].shape == (7, 2) and group["scores"].shape == (7,)
        assert group["descriptors"].shape == (8, 7)
        assert np.array_equal(group["descriptors"][:, 3], given.descriptors[0, 3].numpy())
        assert group["image_size"][:].tolist() == [64, 48]


def test_files_of_hloc_are_read(tmp_path: Path) -> None:
    given = replace(features(5, reasoned=False), scales=None, orientations=None, turn=None)
    with h5py.File(tmp_path / "hloc.h5", "w") as file:
        group = file.create_group("query/q.jpg")
        group["keypoints"] = given.keypoints[0].numpy()
        group["descriptors"] = given.descriptors[0].numpy().T.astype(np.float16)
        group["scores"] = given.scores[0].numpy()
        group["image_size"] = np.array([64, 48])
    with FeaturesReader(tmp_path / "hloc.h5") as reader:
        assert reader.keys() == ["query/q.jpg"] and reader.variant == ""
        assert_equal(reader.read("query/q.jpg"), given, tolerance=5e-4)


@pytest.mark.parametrize("structure", [b"TREE", b"SNOD", b"HEAP"])
def test_damage_is_told_in_a_sentence(structure: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.h5"
    with FeaturesWriter(path) as writer:
        writer.write("a/1.png", features(3))
    path.write_bytes(path.read_bytes().replace(structure, b"XXXX"))
    with FeaturesReader(path) as reader, pytest.raises(FeaturesFileError, match=r"damaged\.h5 is damaged: "):
        reader.read(reader.keys()[0])


def test_links_are_not_followed_for_ever(tmp_path: Path) -> None:
    # Ten groups, of which each is led to by ten links of the one above; and one that leads back to the first.
    path = tmp_path / "linked.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("image")
        group["keypoints"] = np.zeros((1, 2), np.float32)
        for level in range(10):
            above = file.create_group(f"level{level}")
            for i in range(10):
                above[f"link{i}"] = group
            group = above
        file["image/back"] = h5py.SoftLink("/")
    with FeaturesReader(path) as reader:
        keys = reader.keys()
    assert "image" in keys and "level0/link9" in keys
    assert len(keys) < 100


def test_the_same_features_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        with FeaturesWriter(tmp_path / name, variant="x") as writer:
            writer.write("one", features(4))
            writer.write("two", features(6))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_tensors_that_are_not_contiguous(tmp_path: Path) -> None:
    base = torch.rand(1, 8, 10)
    given = Features(torch.rand(1, 2, 10).transpose(1, 2), torch.rand(1, 20)[:, ::2], base.transpose(1, 2), (4, 4))
    with FeaturesWriter(tmp_path / "f.h5") as writer:
        writer.write("a", given)
    with FeaturesReader(tmp_path / "f.h5") as reader:
        assert_equal(reader.read("a"), given)


def test_an_error_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    with FeaturesWriter(path) as writer:
        writer.write("a", features(2))
    before = path.read_bytes()
    with pytest.raises(KeyError), FeaturesWriter(path) as writer:
        writer.write("a", features(3))
        raise KeyError("boom")
    assert [p.name for p in tmp_path.iterdir()] == ["features.h5"] and path.read_bytes() == before


def test_refusals(tmp_path: Path) -> None:
    with FeaturesWriter(tmp_path / "f.h5") as writer:
        writer.write("a", features(2))
        with pytest.raises(ConfigError, match="has features of image 'a' already"):
            writer.write("a", features(2))
        for key in ("", "/absolute.png", "up/../x", "a//b"):
            with pytest.raises(ConfigError, match="cannot name an image"):
                writer.write(key, features(2))
        with pytest.raises(ShapeError, match=r"features\[i\]"):
            writer.write("b", Features(torch.rand(2, 3, 2), torch.rand(2, 3), torch.rand(2, 3, 4), (4, 4)))
    with pytest.raises(OutputError, match="not open"):
        writer.write("c", features(1))
    with pytest.raises(OutputError, match="create it first"):
        FeaturesWriter(tmp_path / "missing" / "f.h5")
    with (
        FeaturesReader(tmp_path / "f.h5") as reader,
        pytest.raises(FeaturesFileError, match="no image 'z'; it has 1: a"),
    ):
        reader.read("z")
    with pytest.raises(FeaturesFileError, match="no such features file"):
        FeaturesReader(tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(FeaturesFileError, match=r"text\.h5 is no HDF5 file"), FeaturesReader(tmp_path / "text.h5"):
        pass
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file["a/keypoints"] = np.zeros((3, 5))
    with FeaturesReader(tmp_path / "odd.h5") as reader, pytest.raises(FeaturesFileError, match="not laid out"):
        reader.read("a")


_FULL = """
import resource, sys
from pathlib import Path
import torch
from semantic_matcher_core.errors import OutputError
from semantic_matcher_core.io.features_file import FeaturesWriter
from semantic_matcher_core.types import Features

for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        with FeaturesWriter(sys.argv[1]) as writer:
            for i in range(40):
                writer.write(str(i), Features(torch.rand(1, 99, 2), torch.rand(1, 99), torch.rand(1, 99, 64), (9, 9)))
    except OutputError as error:
        print("refused:", error, len(list(Path(sys.argv[1]).parent.iterdir())))
"""


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    # A limit on the file's size fails as a full disk does: in the middle of a write, or when the file is closed.
    limits = ("0", "3000", "100000", "900000")
    command = [sys.executable, "-c", _FULL, str(tmp_path / "features.h5"), *limits]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(limits)
    for line in lines:
        assert line.startswith("refused: cannot write") and "features.h5" in line and line.endswith(" 0")


@pytest.mark.parametrize(("compared", "kind"), [(False, "extractor"), (True, "compared")])
def test_a_file_says_which_descriptors_it_holds(tmp_path: Path, compared: bool, kind: str) -> None:
    with FeaturesWriter(tmp_path / "features.h5", compared=compared):
        pass
    with h5py.File(tmp_path / "features.h5") as file:
        assert file.attrs["descriptors"] == kind
