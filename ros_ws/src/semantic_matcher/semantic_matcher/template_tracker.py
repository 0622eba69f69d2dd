"""The executable ``template_tracker``, which follows a template that bends in the images of a camera."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from semantic_matcher.node_main import run_node

if TYPE_CHECKING:
    from semantic_matcher.template_node import TemplateTrackerNode


def _create() -> TemplateTrackerNode:
    # Here, so that signals are answered while torch is imported.
    from semantic_matcher.template_node import TemplateTrackerNode

    return TemplateTrackerNode()


def main(args: list[str] | None = None) -> NoReturn:
    """Run the node; see :func:`~semantic_matcher.node_main.run_node`."""
    run_node("template_tracker", "Follows a template that bends in the images of a camera.", _create, args)


if __name__ == "__main__":
    main()
