"""Download progress: a bar on a terminal, two log lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from semantic_matcher_core.weights.catalogue import Entry
from semantic_matcher_core.weights.download import Progress

_log = logging.getLogger(__name__)


@contextmanager
def shown_progress(entry: Entry) -> Iterator[Progress]:
    """Give a callback for :func:`~semantic_matcher_core.weights.download.download` that shows how far it is."""
    if not sys.stderr.isatty():
        size = "" if entry.megabytes is None else f" ({entry.megabytes:.1f} MB)"
        _log.info("downloading %s%s from %s", entry.file, size, entry.url)
        yield lambda done, total: None
        _log.info("downloaded %s", entry.file)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(entry.file, total=entry.size)
        yield lambda done, total: bar.update(task, completed=done, total=total)
