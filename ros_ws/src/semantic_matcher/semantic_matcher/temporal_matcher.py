"""The executable ``temporal_matcher``, which matches each image of a camera with an earlier one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from semantic_matcher.node_main import run_node

if TYPE_CHECKING:
    from semantic_matcher.temporal_node import TemporalMatcher


def _create() -> TemporalMatcher:
    # Here, so that signals are answered while torch is imported.
    from semantic_matcher.temporal_node import TemporalMatcher

    return TemporalMatcher()


def main(args: list[str] | None = None) -> NoReturn:
    """Run the node; see :func:`~semantic_matcher.node_main.run_node`."""
    run_node("temporal_matcher", "Matches each image of a camera with an earlier one.", _create, args)


if __name__ == "__main__":
    main()
