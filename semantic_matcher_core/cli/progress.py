"""Progress of the work: bars and spinners on a terminal, nothing in a pipe or a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semantic_matcher_core.offline.jobs import Outcome
    from semantic_matcher_core.offline.run import Progress


@contextlib.contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show that something is going on, on a terminal's stderr."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


@contextlib.contextmanager
def progress_bar(text: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar with the time left, on a terminal's stderr; the callback takes the number of items done so far."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console

    with _bar(Console(stderr=True)) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done: bar.update(task, completed=done)


class JobBars:
    """A bar per job on a terminal, and a line when it ends anywhere; notices go to stderr. For a ``with`` block.

    Args:
        names: of the jobs.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._several = len(names) > 1
        self._started = time.monotonic()
        self._bar: Any = None
        self._tasks: dict[int, Any] = {}

    def __enter__(self) -> JobBars:
        if sys.stderr.isatty():
            from rich.console import Console

            self._bar = _bar(Console(stderr=True))
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def progress(self, index: int, progress: Progress) -> None:
        """Show how far a job is."""
        if self._bar is None:
            return
        if index not in self._tasks:
            self._tasks[index] = self._bar.add_task(self._names[index], total=progress.total)
        self._bar.update(self._tasks[index], completed=progress.done)

    def notice(self, index: int, text: str) -> None:
        """Print what a job has to say."""
        line = f"{self._names[index]}: {text}" if self._several else text
        if self._bar is None:
            print(line, file=sys.stderr)
        else:
            self._bar.console.print(line, markup=False, highlight=False)

    def ended(self, index: int, outcome: Outcome) -> None:
        """Print what a job has written."""
        if outcome.error is not None:
            return
        progress = outcome.progress
        if progress.frames == 0:
            return  # complete already; it said so
        seconds = time.monotonic() - self._started
        text = (
            f"wrote {outcome.job.output}: {counted(progress.frames, 'image')}, {counted(progress.pairs, 'pair')}, "
            f"{counted(progress.matches, 'match', 'matches')}"
        )
        left_out = ", ".join(f"{count} {reason}" for reason, count in progress.left_out.items() if count)
        text += f", left out {left_out}" if left_out else ""
        text += f", {progress.empty} without keypoints" if progress.empty else ""
        text += "; the recording is not complete, see above" if progress.problems else ""
        if progress.pairs and not progress.matches:
            text += (
                "; the pairs have nothing in common, or the images are flat or blurred (16 bits: --image-full-scale)"
            )
        elif not progress.pairs and progress.frames > 1:
            text += "; no image was paired with another"
        print(f"{text} ({seconds:.1f} s)" if not self._several else text, flush=True)


def _bar(console: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Times(ProgressColumn):
        """How long it has taken and, until it is done, how long it will take."""

        def render(self, task: Task) -> Text:
            taken = str(timedelta(seconds=int((task.finished_time if task.finished else task.elapsed) or 0)))
            left = None if task.finished else task.time_remaining
            return Text(taken if left is None else f"{taken}, {timedelta(seconds=int(left))} left")

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), Times())
    return Progress(*columns, console=console)


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number with its noun: ``1 pair``, ``2 pairs``."""
    return f"{number} {one if number == 1 else several or one + 's'}"


class Stopwatch:
    """Milliseconds of named stages: ``with clock("match"): …``.

    Work queued on a GPU is counted in the stage that waits for it.
    """

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.milliseconds[stage] = round((time.perf_counter() - start) * 1000, 3)
