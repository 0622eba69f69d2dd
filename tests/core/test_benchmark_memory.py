"""The memory benchmark, on small images."""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest

from benchmarks import memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux only")


def test_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(tmp_path))
    monkeypatch.setenv("SEMANTIC_MATCHER_WEIGHTS", "")
    arguments = ["--extractors", "alike-t", "sift", "--size", "700x500", "--keypoints", "50", "--max-side", "0"]
    assert memory.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "700 × 500" in printed
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()[-2:]]
    assert [row[0] for row in cells] == ["alike-t", "sift"]
    assert [row[5] for row in cells] == ["random", "none"]
    for _, peak, extra, seconds, keypoints, _ in cells:
        assert 0 <= float(extra) < float(peak) < 4
        assert float(seconds) >= 0 and 0 < int(keypoints) <= 50


def test_what_went_wrong_is_in_the_table(capsys):
    assert memory.main(["--extractors", "sift", "--size", "64x64", "--timeout", "0.01"]) == 1
    assert "| sift | more than 0.01 s | – |" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["4000", "0x10", "axb", "1x2x3"])
def test_size_must_be_two_sides(size, capsys):
    with pytest.raises(SystemExit, match="2"):
        memory.main(["--size", size])
    assert "--size must be WIDTHxHEIGHT" in capsys.readouterr().err


def measured() -> tuple[float, float, tuple[int, int], int]:
    """Memory for a small and a large image, the large one's size and number of keypoints."""
    extractor, weights = memory.build("sift", 100, None, {})
    small = memory.measure(extractor, memory.large_image(200, 100), weights)[0]
    large, features = memory.measure(extractor, memory.large_image(2000, 1500), weights)
    return small.extra_mib, large.extra_mib, features.image_size, large.keypoints


def test_memory_of_the_image_is_told_from_what_was_there():
    # In a process of its own, as the benchmark does it: one that freed memory before has room for the image already.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        small, large, size, keypoints = pool.submit(measured).result()
    # OpenCV works on an image of twice the size, in floats: 16 bytes for each pixel, 46 MiB, and more than one of them.
    assert large > small + 40
    assert size == (1500, 2000) and keypoints == 100
