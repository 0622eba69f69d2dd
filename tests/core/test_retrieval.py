"""Finding sheets in an index although they are bent, turned and differently lit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import ConfigError, ImageError, OutputError, RegistrationError, ShapeError
from semantic_matcher_core.io.features_file import FeaturesFileError, FeaturesReader, FeaturesWriter
from semantic_matcher_core.io.images import read_image, write_image
from semantic_matcher_core.retrieval import Codebook, RetrievalIndex, build_index
from tests.core.bent_surfaces import known_bend, render

SIZE = (200, 260)
COUNT = 10


def seen_otherwise(picture: np.ndarray, seed: int) -> np.ndarray:
    """Bent, turned by a quarter, and darker."""
    bent = render(picture, known_bend(SIZE, 8.0, seed))
    return np.ascontiguousarray(np.rot90(np.clip(bent * 0.8 + 10, 0, 255).astype(np.uint8)))


@pytest.fixture(scope="module")
def sift() -> SemanticMatcher:
    return SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=500)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, textured: Callable[..., np.ndarray]) -> list[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("pictures")
    files = []
    for seed in range(COUNT):
        path = folder / f"{seed}.png"
        write_image(path, textured(*SIZE, seed=seed))
        files.append((f"sheets/{path.name}", path))
    return files


@pytest.fixture(scope="module")
def index(sift: SemanticMatcher, pictures: list[tuple[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "index.h5"
    report = build_index(sift, pictures, path, clusters=16)
    assert (report.indexed, report.reused, report.skipped) == (COUNT, 0, ())
    return path


@pytest.mark.parametrize("seed", [0, 3, 7])
def test_a_bent_and_turned_sheet_is_found(
    sift: SemanticMatcher, pictures: list[tuple[str, Path]], index: Path, seed: int
) -> None:
    name, path = pictures[seed]
    query = seen_otherwise(read_image(path), seed)
    with RetrievalIndex(index) as opened:
        assert len(opened) == COUNT
        by_vector = opened.query(sift, query, verify=0)
        verified = opened.query(sift, query, top=3, verify=5)
    assert [hit.inliers for hit in by_vector] == [None] * COUNT
    assert by_vector[0].name == name
    assert by_vector[0].similarity > by_vector[1].similarity + 0.1
    assert [hit.similarity for hit in by_vector] == sorted((hit.similarity for hit in by_vector), reverse=True)
    best, *others = verified
    assert len(verified) == 3 and best.name == name and best.verified
    assert best.inliers is not None and best.matches is not None and 60 < best.inliers <= best.matches
    assert not any(hit.verified for hit in others)


def test_verification_lifts_what_similarity_ranks_low(
    sift: SemanticMatcher, pictures: list[tuple[str, Path]], index: Path
) -> None:
    # Three quarters of the query are another sheet, so the vector is closer to that.
    small, large = (read_image(pictures[i][1]) for i in (2, 5))
    query = np.concatenate([small[:, :130], large, large[:, :130]], axis=1)
    with RetrievalIndex(index) as opened:
        hits = opened.query(sift, query, verify=COUNT)
    assert [hit.name for hit in hits[:2]] == [pictures[5][0], pictures[2][0]]
    assert all(hit.verified for hit in hits[:2]) and not any(hit.verified for hit in hits[2:])


def test_what_is_not_in_the_index_is_not_verified(
    sift: SemanticMatcher, index: Path, textured: Callable[..., np.ndarray]
) -> None:
    with RetrievalIndex(index) as opened:
        hits = opened.query(sift, textured(*SIZE, seed=99), verify=COUNT)
    assert len(hits) == COUNT and not any(hit.verified for hit in hits)


def test_dalf_finds_photographs_that_are_bent(shared: Path, tmp_path: Path) -> None:
    dalf = SemanticMatcher.from_pretrained("plain:dalf", device="cpu", weights=shared / "weights", max_keypoints=512)
    photos = sorted((shared / "data" / "photos").glob("*.jpg"))[:8]
    build_index(dalf, [(photo.name, photo) for photo in photos], tmp_path / "photos.h5", clusters=16, max_side=320)
    with RetrievalIndex(tmp_path / "photos.h5") as opened:
        for photo in photos[:3]:
            image = read_image(photo)
            bent = render(image, known_bend(image.shape[:2], 0.06 * min(image.shape[:2])))
            best = opened.query(dalf, bent, top=1, verify=3)[0]
            assert best.name == photo.name and best.verified


def test_the_index_is_a_features_file(index: Path, pictures: list[tuple[str, Path]], sift: SemanticMatcher) -> None:
    with FeaturesReader(index) as reader:
        assert sorted(reader.keys()) == sorted(name for name, _ in pictures)
        stored = reader.read(pictures[0][0])
    fresh = sift.extract(read_image(pictures[0][1]))
    np.testing.assert_allclose(stored.keypoints.numpy(), fresh.keypoints.numpy(), atol=1e-3)
    np.testing.assert_allclose(stored.descriptors.numpy(), fresh.descriptors.numpy(), atol=1e-3)


def test_equal_seeds_give_equal_indices(
    sift: SemanticMatcher, pictures: list[tuple[str, Path]], index: Path, tmp_path: Path
) -> None:
    build_index(sift, pictures, tmp_path / "again.h5", clusters=16)
    with RetrievalIndex(index) as first, RetrievalIndex(tmp_path / "again.h5") as again:
        np.testing.assert_array_equal(first.vectors, again.vectors)
        assert first.names == again.names == [name for name, _ in pictures]


def test_an_update_extracts_only_what_is_new(
    pictures: list[tuple[str, Path]], index: Path, tmp_path: Path, textured: Callable[..., np.ndarray]
) -> None:
    sift = SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=500)
    files = [(name, tmp_path / path.name) for name, path in pictures]
    for (_, copy), (_, path) in zip(files, pictures, strict=True):
        copy.write_bytes(path.read_bytes())
    output = tmp_path / "index.h5"
    build_index(sift, files, output, clusters=16)
    write_image(files[0][1], textured(*SIZE, seed=50))
    os.utime(files[0][1], ns=(1, 1))  # a coarse clock may give both the same time
    write_image(tmp_path / "new.png", textured(*SIZE, seed=51))
    calls = 0
    forward = sift.extractor.forward

    def counted(*args: object) -> object:
        nonlocal calls
        calls += 1
        return forward(*args)

    sift.extractor.forward = counted  # type: ignore[method-assign, assignment]
    wanted = [*files[:-1], ("sheets/new.png", tmp_path / "new.png")]
    with RetrievalIndex(output) as previous:
        report = build_index(sift, wanted, output, clusters=16, previous=previous)
    assert (report.indexed, report.reused, calls) == (COUNT, COUNT - 2, 2)
    with RetrievalIndex(output) as opened:
        assert opened.names == [name for name, _ in wanted]
        assert opened.query(sift, textured(*SIZE, seed=50), top=1)[0].name == files[0][0]
        assert opened.query(sift, read_image(files[4][1]), top=1)[0].name == files[4][0]


def test_an_unreadable_image_stops_the_build_or_is_skipped(
    sift: SemanticMatcher, pictures: list[tuple[str, Path]], tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    files = [*pictures[:3], ("broken.png", tmp_path / "broken.png"), ("gone.png", tmp_path / "gone.png")]
    output = tmp_path / "index.h5"
    with pytest.raises(ImageError, match=r"broken\.png|gone\.png"):
        build_index(sift, files, output)
    assert not output.exists()
    report = build_index(sift, files, output, skip_unreadable=True)
    assert report.indexed == 3 and len(report.skipped) == 2
    with pytest.raises(ImageError, match="none of the 2 images"):
        build_index(sift, files[3:], tmp_path / "other.h5", skip_unreadable=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.png", "index.h5"]


def test_images_without_keypoints(sift: SemanticMatcher, pictures: list[tuple[str, Path]], tmp_path: Path) -> None:
    write_image(tmp_path / "plain.png", np.full((*SIZE, 3), 99, np.uint8))
    plain = ("plain.png", tmp_path / "plain.png")
    build_index(sift, [*pictures[:3], plain], tmp_path / "index.h5")
    with RetrievalIndex(tmp_path / "index.h5") as opened:
        hits = opened.query(sift, read_image(pictures[1][1]))
        assert hits[0].name == pictures[1][0]
        assert next(hit for hit in hits if hit.name == "plain.png").similarity == 0
        with pytest.raises(RegistrationError, match="only 0 keypoints in the query"):
            opened.query(sift, read_image(plain[1]))
    with pytest.raises(ImageError, match="not one keypoint in 1 images"):
        build_index(sift, [plain], tmp_path / "index2.h5")


def test_bad_indices_and_options_are_refused(
    sift: SemanticMatcher, pictures: list[tuple[str, Path]], index: Path, tmp_path: Path
) -> None:
    query = read_image(pictures[0][1])
    other = SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=500)
    other.variant = "plain:other"
    with RetrievalIndex(index) as opened:
        with pytest.raises(ConfigError, match=r"built with variant 'plain:sift', the matcher is 'plain:other'"):
            opened.query(other, query)
        with pytest.raises(ConfigError, match="top must be"):
            opened.query(sift, query, top=0)
        with pytest.raises(ConfigError, match="build anew"):
            build_index(sift, pictures, tmp_path / "x.h5", max_side=100, previous=opened)
    with pytest.raises(ConfigError, match="no images"):
        build_index(sift, [], tmp_path / "x.h5")
    with pytest.raises(ConfigError, match="clusters"):
        build_index(sift, pictures, tmp_path / "x.h5", clusters=0)
    with pytest.raises(OutputError, match="does not exist"):
        build_index(sift, pictures, tmp_path / "missing" / "x.h5")
    with pytest.raises(FeaturesFileError, match="no such features file"), RetrievalIndex(tmp_path / "none.h5"):
        pass
    with FeaturesWriter(tmp_path / "features.h5") as writer:
        writer.write("a", sift.extract(query))
    with pytest.raises(FeaturesFileError, match="is no index of images"), RetrievalIndex(tmp_path / "features.h5"):
        pass
    for change, message in ((("version", 99), "has version 99"), (("vectors", None), "is damaged")):
        (tmp_path / "changed.h5").write_bytes(index.read_bytes())
        with h5py.File(tmp_path / "changed.h5", "a") as file:
            if change[1] is None:
                del file["@retrieval"][change[0]]
            else:
                file["@retrieval"].attrs[change[0]] = change[1]
        with pytest.raises(FeaturesFileError, match=message), RetrievalIndex(tmp_path / "changed.h5"):
            pass


def test_a_codebook_draws_no_number_of_its_callers() -> None:
    samples = np.random.default_rng(0).normal(size=(60, 4))
    drawn = []
    for trains in (False, True):
        cv2.setRNGSeed(5)
        if trains:
            Codebook.train(samples, 3, seed=1)
        drawn.append(cv2.randu(np.zeros(3), 0, 1).tolist())
    assert drawn[0] == drawn[1]


def test_a_codebook_finds_its_clusters() -> None:
    random = np.random.default_rng(0)
    centres = np.eye(8, 16, dtype=np.float32)
    descriptors = np.repeat(centres, 50, axis=0) + random.normal(0, 0.02, (400, 16)).astype(np.float32)
    book = Codebook.train(random.permutation(descriptors), 8)
    distance = np.linalg.norm(book.centres[:, None] - centres[None], axis=2)
    assert distance.min(axis=0).max() < 0.02
    assert len(Codebook.train(descriptors[:3], 8).centres) == 3


def test_vectors_are_residuals_summed_by_cluster() -> None:
    book = Codebook(np.array([[0, 0], [10, 0]], np.float32))
    vector = book.aggregate(np.array([[1, 0], [1, 2], [10, -3]], np.float32))
    expected = np.array([2 / np.sqrt(8), 2 / np.sqrt(8), 0, -1]) / np.sqrt(2)
    np.testing.assert_allclose(vector, expected, atol=1e-6)
    assert not book.aggregate(np.zeros((0, 2), np.float32)).any()
    with pytest.raises(ShapeError, match="N x 2"):
        book.aggregate(np.zeros((3, 5), np.float32))
    with pytest.raises(ShapeError, match="N above 0"):
        Codebook.train(np.zeros((0, 4), np.float32))
