"""The training benchmark at a size that takes seconds; it holds results of both ways against each other itself."""

from __future__ import annotations

import pytest

from benchmarks import training


def test_every_part_runs_and_agrees(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(training, "COLOUR", (96, 128))
    monkeypatch.setattr(training, "DEPTH", (48, 64))
    arguments = ["--only", "covisibility", "loss", "step", "loading", "--frames", "6", "--images", "5"]
    assert training.main([*arguments, "--keypoints", "150", "--repeats", "1"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith("× |")]
    for work, count in (("covisibility", 2), ("loss", 1), ("training step", 1), ("loading", 5)):
        assert sum(line.startswith(f"| {work}") for line in lines) == count


def test_a_reference_that_differs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "loop_loss", lambda *inputs, exact=False: 1.01 * _loop_loss(*inputs, exact=exact))
    with pytest.raises(AssertionError):
        training.main(["--only", "loss", "--keypoints", "150", "--repeats", "1"])


_loop_loss = training.loop_loss
