"""The benchmark of the template tracker's splines."""

from __future__ import annotations

import pytest
import torch

from benchmarks import registration


def test_both_ways_are_measured_and_are_near_the_known_bend(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        assert registration.main(["--matches", "120", "600", "--strength", "12", "--repeats", "1"]) == 0
    finally:
        torch.set_num_threads(threads)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| 12")]
    assert [row[1] for row in rows] == ["120", "600"]
    for row in rows:
        ours, straightforward = (float(cell.split()[0]) for cell in row[-2:])
        assert 0 < ours < straightforward + 0.05 < 2
