"""The executable ``reference_matcher``, which matches the images of a camera with stored ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from semantic_matcher.node_main import run_node

if TYPE_CHECKING:
    from semantic_matcher.reference_node import ReferenceMatcher


def _create() -> ReferenceMatcher:
    # Here, so that signals are answered while torch is imported.
    from semantic_matcher.reference_node import ReferenceMatcher

    return ReferenceMatcher()


def main(args: list[str] | None = None) -> NoReturn:
    """Run the node; see :func:`~semantic_matcher.node_main.run_node`."""
    run_node("reference_matcher", "Matches the images of a camera with stored ones.", _create, args)


if __name__ == "__main__":
    main()
