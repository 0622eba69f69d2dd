"""Several runs, one after the other or side by side, one process each."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semantic_matcher_core.errors import SemanticMatcherError, of_the_machine
from semantic_matcher_core.offline.exports import Exports
from semantic_matcher_core.offline.options import RunOptions
from semantic_matcher_core.offline.run import Progress, RunHooks, run
from semantic_matcher_core.process_pool import process_pool

if TYPE_CHECKING:
    from semantic_matcher_core.offline.sources import ImageSource
    from semantic_matcher_core.pipeline import SemanticMatcher

_POLL_S = 0.1


@dataclass(frozen=True)
class Job:
    """One recording and what is to be made of it; the callables must pickle to run in another process.

    Attributes:
        name: what it is called in messages.
        open_source, load_matcher: called in the process that does the work.
        output, options, references, exports, overwrite, calibration: see
            :func:`~semantic_matcher_core.offline.run.run`.
    """

    name: str
    open_source: Callable[[], ImageSource]
    load_matcher: Callable[[], SemanticMatcher]
    output: Path
    options: RunOptions
    references: tuple[Path, ...] = ()
    exports: Exports = field(default_factory=Exports)
    overwrite: bool = False
    calibration: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its progress, and the error that ended it, or ``None``."""

    job: Job
    progress: Progress
    error: SemanticMatcherError | None = None


@dataclass(frozen=True)
class JobHooks:
    """What a caller may want to hear, always in its own process: how far job number i is, and what it has to say."""

    progress: Callable[[int, Progress], None] = lambda index, progress: None
    notice: Callable[[int, str], None] = lambda index, text: None
    ended: Callable[[int, Outcome], None] = lambda index, outcome: None


def run_jobs(
    jobs: Sequence[Job], *, workers: int = 1, threads: int = 0, hooks: JobHooks | None = None
) -> list[Outcome]:
    """Run jobs; an error of one does not keep the others from running.

    Args:
        jobs: what to do.
        workers: processes side by side; with one, all happens in this process and the model is loaded once.
        threads: threads of each that torch computes with on the CPU; 0 for its own choice in one process, and for a
            fair share of the cores in several.
        hooks: what to call as the work goes on.

    Returns:
        How each job ended, in the order of ``jobs``.
    """
    hooks = hooks or JobHooks()
    if workers > 1 and len(jobs) > 1:
        return _side_by_side(jobs, min(workers, len(jobs)), threads, hooks)
    if threads:
        _set_threads(threads)
    outcomes = []
    for index, job in enumerate(jobs):
        outcomes.append(_do(job, partial(hooks.progress, index), partial(hooks.notice, index)))
        hooks.ended(index, outcomes[-1])
    _matchers.clear()
    return outcomes


def shard(items: Sequence[Any]) -> list[Any]:
    """Return the share of this process under ``torchrun`` (RANK and WORLD_SIZE), or all items elsewhere."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    return list(items[rank::world])


_matchers: dict[Callable[[], Any], SemanticMatcher] = {}


def _do(job: Job, progress: Callable[[Progress], None], notice: Callable[[str], None]) -> Outcome:
    latest = Progress()

    def remember(now: Progress) -> None:
        nonlocal latest
        latest = now
        progress(now)

    try:
        # The recording first: a mistyped topic should not wait for a model.
        source = job.open_source()
        if job.load_matcher not in _matchers:
            _matchers.clear()
            _matchers[job.load_matcher] = job.load_matcher()
        done = run(
            source,
            _matchers[job.load_matcher],
            job.output,
            job.options,
            references=job.references,
            calibration=job.calibration,
            exports=job.exports,
            overwrite=job.overwrite,
            hooks=RunHooks(progress=remember, notice=notice),
        )
    except SemanticMatcherError as error:
        return Outcome(job, latest, error)
    except Exception as error:
        # A full disk or a lack of memory is no reason to stop the other recordings; a defect is.
        if reason := of_the_machine(error):
            return Outcome(job, latest, SemanticMatcherError(reason))
        raise
    return Outcome(job, done)


def _side_by_side(jobs: Sequence[Job], workers: int, threads: int, hooks: JobHooks) -> list[Outcome]:
    threads = threads or max(1, len(os.sched_getaffinity(0)) // workers)
    context = multiprocessing.get_context("spawn")
    events, events_of_workers = context.Pipe(duplex=False)
    outcomes: dict[int, Outcome] = {}
    with process_pool(workers, _begin_worker, threads, events_of_workers, context.Lock()) as pool:
        waiting = {pool.submit(_work, index, job): index for index, job in enumerate(jobs)}
        while waiting:
            ended = [future for future in waiting if future.done()]
            # What a job had to say before it ended is told before its end.
            _tell(events, hooks, 0 if ended else _POLL_S)
            for future in ended:
                index = waiting.pop(future)
                outcomes[index] = _outcome(jobs[index], future)
                hooks.ended(index, outcomes[index])
    return [outcomes[index] for index in range(len(jobs))]


def _tell(events: Connection, hooks: JobHooks, wait_s: float) -> None:
    while events.poll(wait_s):
        kind, index, value = events.recv()
        getattr(hooks, kind)(index, value)


_events: tuple[Connection, Any]
"""Of a worker: the pipe that it tells through, and the lock for it, because several share the pipe."""


def _begin_worker(threads: int, pipe: Connection, lock: Any) -> None:
    global _events
    _events = pipe, lock
    _set_threads(threads)


def _work(index: int, job: Job) -> Outcome:
    pipe, lock = _events

    def tell(kind: str, value: Any) -> None:
        with lock:
            pipe.send((kind, index, value))

    return _do(job, partial(tell, "progress"), partial(tell, "notice"))


def _outcome(job: Job, future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool:
        text = f"{job.name}: its process was killed (out of memory?); the same command goes on where it stopped"
        return Outcome(job, Progress(), SemanticMatcherError(text))


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
