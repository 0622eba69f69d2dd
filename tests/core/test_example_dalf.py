"""The examples in examples/dalf_pair.py and examples/dalf_video.py run as their docstrings say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from semantic_matcher_core.io.images import read_image, write_image
from semantic_matcher_core.io.video import video_info

REPOSITORY = Path(__file__).resolve().parents[2]


def run(shared: Path, folder: Path, script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / script), "--weights", str(shared / "weights"), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_pair_is_registered(shared: Path, tmp_path: Path) -> None:
    said = run(shared, tmp_path, "dalf_pair.py")
    found = re.search(r"difference ([\d.]+) before, ([\d.]+) after", said)
    assert found is not None and float(found[2]) < 0.25 * float(found[1])
    assert min(read_image(tmp_path / "registered.png").shape[:2]) > 500  # two panels by two
    for i in (1, 2):
        picture = read_image(shared / "data" / "pairs" / f"kanagawa_{i}.png")
        write_image(tmp_path / f"{i}.png", np.ascontiguousarray(picture[::2, ::2]))
    said = run(shared, tmp_path, "dalf_pair.py", "1.png", "2.png", "-o", "other.jpg")
    assert "wrote other.jpg" in said and (tmp_path / "other.jpg").is_file()


@pytest.mark.slow
def test_a_video_is_registered(shared: Path, tmp_path: Path) -> None:
    said = run(shared, tmp_path, "dalf_video.py", "--every", "3")
    found = re.search(r"template ([\d.]+) before, ([\d.]+) after", said)
    assert "3 of 3 frames registered" in said
    assert found is not None and float(found[2]) < 0.5 * float(found[1])
    assert video_info(tmp_path / "registered.mp4").frame_count == 4
    assert len((tmp_path / "registered.csv").read_text().splitlines()) == 5
