"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

# Off a terminal (a pipe, a log) lines are as long as their content.
_WIDE = 10_000


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Print rows under headings, wrapped to the terminal's width, or unwrapped where the output is no terminal.

    Args:
        columns: headings.
        rows: cells, as many as there are columns.
        right: headings of the columns to align at the right.
    """
    import sys

    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)
