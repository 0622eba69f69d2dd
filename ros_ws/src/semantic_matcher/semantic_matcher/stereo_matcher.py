"""The executable ``stereo_matcher``, which matches left with right images."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from semantic_matcher.node_main import run_node

if TYPE_CHECKING:
    from semantic_matcher.stereo_node import StereoMatcher


def _create() -> StereoMatcher:
    # Here, so that signals are answered while torch is imported.
    from semantic_matcher.stereo_node import StereoMatcher

    return StereoMatcher()


def main(args: list[str] | None = None) -> NoReturn:
    """Run the node; see :func:`~semantic_matcher.node_main.run_node`."""
    run_node("stereo_matcher", "Matches left with right images.", _create, args)


if __name__ == "__main__":
    main()
