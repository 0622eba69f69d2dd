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
    """Write a CSV file with a header; the columns are those of all rows, in the order they first appear."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write(path, text.getvalue())


def write_summary(folder: Path, summary: Mapping[str, Mapping[str, float]]) -> str:
    """Return ``summary.md``, ``summary.csv`` and ``summary.json``: a row for each method; the Markdown is returned."""
    markdown = _table(summary)
    _write(folder / "summary.md", markdown + "\n")
    write_rows(folder / "summary.csv", [{"method": name, **values} for name, values in summary.items()])
    _write(folder / "summary.json", json.dumps({name: _finite(row) for name, row in summary.items()}, indent=2) + "\n")
    return markdown


def write_grouped_summary(
    folder: Path, summary: Mapping[str, Mapping[str, Mapping[str, float]]], settings: Mapping[str, object]
) -> str:
    """Return ``summary.md`` (a table for each group, methods being rows), ``summary.csv`` and ``summary.json``.

    Args:
        folder: where to.
        summary: figures by method and group.
        settings: of the run; kept in ``summary.json``.

    Returns:
        The Markdown.
    """
    groups = list(dict.fromkeys(group for by_group in summary.values() for group in by_group))
    by_group = {
        group: {method: found[group] for method, found in summary.items() if group in found} for group in groups
    }
    markdown = "\n\n".join(f"### {group}\n\n{_table(rows)}" for group, rows in by_group.items())
    _write(folder / "summary.md", markdown + "\n")
    columns = dict.fromkeys(c for rows in by_group.values() for row in rows.values() for c in row)
    flat = [
        {"group": group, "method": method, **{c: row.get(c, "") for c in columns}}
        for group, rows in by_group.items()
        for method, row in rows.items()
    ]
    write_rows(folder / "summary.csv", flat)
    methods = {name: {group: _finite(row) for group, row in found.items()} for name, found in summary.items()}
    _write(folder / "summary.json", json.dumps({"settings": settings, "methods": methods}, indent=2) + "\n")
    return markdown


def _table(rows: Mapping[str, Mapping[str, float]]) -> str:
    columns = list(dict.fromkeys(key for values in rows.values() for key in values))
    return "\n".join(
        [
            f"| method | {' | '.join(columns)} |",
            f"|---|{'---:|' * len(columns)}",
            *(f"| {name} | {' | '.join(_shown(values.get(c)) for c in columns)} |" for name, values in rows.items()),
        ]
    )


def _finite(row: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if value == int(value) and abs(value) >= 10 else f"{value:.3f}"


def _write(path: Path, text: str) -> None:
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
