"""What a node says while many of its images are left out for their time stamps or for their age."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semantic_matcher.matcher_node import MatcherNode

# Of the images of the last ten seconds: warned of from the first share on, over below the second.
_BEGIN, _END, _AT_LEAST = 0.25, 0.1, 3


def warn_of_skipped(node: MatcherNode) -> None:
    """Begin and end the warnings of a node's cameras, each of which has its own."""
    statistics = node.statistics
    for event in statistics.events():
        why, colon, source = event.partition(":")
        if not colon or why not in ("out of order", "stale"):
            continue
        skipped = statistics.recent(event)
        total = skipped + statistics.recent(f"processed:{source}")
        goes_on = node.has_problem(event) and skipped > _END * total
        text = ""
        if goes_on or (skipped >= _AT_LEAST and skipped >= _BEGIN * total):
            of = f" of {source}" if source else ""
            text = f"{skipped} of {total} images{of} in the last 10 s were skipped, because {_reason(node, why)}"
        node.set_problem(event, text, kind=event if text else "")


def _reason(node: MatcherNode, why: str) -> str:
    if why == "stale":
        limit = node.parameters.values.max_image_age
        return (
            f"they were older than max_image_age ({limit:g} s) when their turn came: raise it, or set it to 0 for no "
            "limit"
        )
    return (
        "their time stamps repeat, or go back by less than a second: have the driver stamp each image with the time it "
        "was taken at, and see that one driver alone publishes"
    )
