"""The example in examples/match_pair.py runs as its docstring says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from semantic_matcher_core.io.images import read_image, write_image

REPOSITORY = Path(__file__).resolve().parents[2]


def test_match_pair(tmp_path: Path, textured_image: np.ndarray) -> None:
    write_image(tmp_path / "a.png", textured_image[:240, :320])
    write_image(tmp_path / "b.png", textured_image[8:248, 12:332])
    done = subprocess.run(
        [sys.executable, REPOSITORY / "examples" / "match_pair.py", "a.png", "b.png"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, agree = (int(word) for word in done.stdout.replace(",", "").split() if word.isdigit())
    assert found > 100 and agree > 0.8 * found
    assert read_image(tmp_path / "matches.png").shape[2] == 3


def test_it_fails_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "examples" / "match_pair.py", "none.png", "none.png"],
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "HOME": "/nowhere", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "error: no such image file: none.png\n")
