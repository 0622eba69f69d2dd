"""Several runs: one after the other or side by side, the same files; one that fails does not stop the others."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from semantic_matcher_core.errors import BagError
from semantic_matcher_core.offline.jobs import Job, JobHooks, Outcome, run_jobs, shard
from semantic_matcher_core.offline.options import RunOptions
from semantic_matcher_core.offline.run import Progress
from semantic_matcher_core.offline.sources import BagSource
from semantic_matcher_core.pipeline import SemanticMatcher
from tests.core.recordings import write_camera_bag

LOAD = partial(SemanticMatcher.from_pretrained, "plain:sift", device="cpu", max_keypoints=100)


def die() -> SemanticMatcher:
    os._exit(9)


def job(bag: Path, output: Path) -> Job:
    return Job(bag.name, partial(BagSource, bag), LOAD, output, RunOptions(images="none"))


def test_side_by_side_gives_the_same_files(tmp_path: Path, textured_image: np.ndarray) -> None:
    bags = [write_camera_bag(tmp_path / f"{i}.mcap", textured_image, 3 + i) for i in range(2)]
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(bags[0].read_bytes()[:2000])
    seen: dict[int, int] = {}
    notices: list[tuple[int, str]] = []
    ended: list[int] = []

    def progress(index: int, now: Progress) -> None:
        seen[index] = max(seen.get(index, 0), now.done)

    def end(index: int, outcome: Outcome) -> None:
        ended.append(index)

    hooks = JobHooks(progress, lambda index, text: notices.append((index, text)), end)
    files = {}
    for name, workers in (("one", 1), ("two", 2)):
        folder = tmp_path / name
        folder.mkdir()
        seen.clear()
        ended.clear()
        jobs = [job(bag, folder / bag.name) for bag in (bags[0], cut, bags[1])]
        outcomes = run_jobs(jobs, workers=workers, threads=1, hooks=hooks)
        assert [o.error is None for o in outcomes] == [True, False, True]
        assert isinstance(outcomes[1].error, BagError) and "cut.mcap" in str(outcomes[1].error)
        assert [o.progress.frames for o in outcomes] == [3, 0, 4] and [o.job.name for o in outcomes][2] == "1.mcap"
        assert seen == {0: 3, 2: 4} and sorted(ended) == [0, 1, 2]
        files[name] = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert set(files["one"]) == {"0.mcap", "1.mcap"} and files["one"] == files["two"]
    run_jobs([job(bags[0], tmp_path / "two" / "0.mcap")], hooks=hooks)
    assert notices == [(0, f"{tmp_path / 'two' / '0.mcap'} is complete already")]


def test_a_process_that_dies_is_named(tmp_path: Path, textured_image: np.ndarray) -> None:
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 2)
    dying = Job("dying", partial(BagSource, bag), die, tmp_path / "dying.mcap", RunOptions())
    outcomes = run_jobs([dying, dying], workers=2)
    assert all("dying: its process was killed" in str(outcome.error) for outcome in outcomes)


def test_shares_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert shard(range(5)) == [0, 1, 2, 3, 4]
    shares = []
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(shard(range(5)))
    assert shares == [[0, 3], [1, 4], [2]]
