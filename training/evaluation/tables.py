"""Results on disk: one CSV row a pair, and the summary as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from semantic_matcher_core.io.atomic import atomic_output

Row = Mapping[str, float | int | str]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """A CSV file with a header; the columns are those of the first row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write(path, text.getvalue())


def write_summary(folder: Path, summary: Mapping[str, Mapping[str, float]]) -> str:
    """``summary.md``, ``summary.csv`` and ``summary.json``: a row for each method; the Markdown is returned."""
    columns = list(dict.fromkeys(key for values in summary.values() for key in values))
    markdown = "\n".join(
        [
            f"| method | {' | '.join(columns)} |",
            f"|---|{'---:|' * len(columns)}",
            *(f"| {name} | {' | '.join(_shown(values.get(c)) for c in columns)} |" for name, values in summary.items()),
        ]
    )
    _write(folder / "summary.md", markdown + "\n")
    write_rows(folder / "summary.csv", [{"method": name, **values} for name, values in summary.items()])
    finite = {name: {k: v if math.isfinite(v) else None for k, v in row.items()} for name, row in summary.items()}
    _write(folder / "summary.json", json.dumps(finite, indent=2) + "\n")
    return markdown


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if value == int(value) and abs(value) >= 10 else f"{value:.3f}"


def _write(path: Path, text: str) -> None:
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
