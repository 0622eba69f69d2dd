"""The benchmark of EdgePoint2 and LightGlue, with random weights and without any."""

from __future__ import annotations

import torch

from benchmarks import pairs
from semantic_matcher_core.io.images import write_image
from tests.conftest import make_textured_image
from tests.core.test_edgepoint2 import published_layout


def test_what_is_here_is_measured_and_the_rest_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(tmp_path))
    for name in pairs.SMALL:
        torch.save(published_layout(name), tmp_path / f"{name}.pth")
    images = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, path in enumerate(images):
        write_image(path, make_textured_image(96, 128, seed))
    threads = torch.get_num_threads()
    try:
        arguments = ["--images", *map(str, images), "--weights", str(tmp_path), "--device", "cpu", "--repeats", "1"]
        assert pairs.main([*arguments, "--keypoints", "50"]) == 0
    finally:
        torch.set_num_threads(threads)
    output = capsys.readouterr()
    rows = [line.split(" | ") for line in output.out.splitlines() if line.startswith("| edgepoint2-")]
    assert [row[0].strip("| ") for row in rows] == list(pairs.SMALL)
    assert all(float(row[1]) > 0 and float(row[3]) > 0 for row in rows)
    assert "left out: weights 'aliked-n16'" in output.err
