"""What a result becomes on the node's topics."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from semantic_matcher_msgs.msg import Descriptors, Keypoints, Matches

from semantic_matcher.messages import StoredImage, descriptors_message, keypoints_message, matches_message
from semantic_matcher.views import publish_views, view_types

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rclpy.node import Node

    from semantic_matcher.matcher_node import MatcherNode
    from semantic_matcher_core.streams import Frame, MatchedPair


def frame_types(prefix: str) -> dict[str, type]:
    """Return topics, below ``~``, of the frames of one camera, and the types of their messages."""
    return {f"{prefix}keypoints": Keypoints, f"{prefix}descriptors": Descriptors}


def pair_types(node: Node, prefix: str) -> dict[str, type]:
    """Return topics, below ``~``, of matched pairs and views of them, and the types of their messages."""
    return {f"{prefix}{name}": type_ for name, type_ in ({"matches": Matches} | view_types(node)).items()}


def publish_keypoints(node: MatcherNode, prefix: str, frame: Frame) -> None:
    """Publish the keypoints of a frame, under its image's header."""
    node.statistics.set(f"{prefix}keypoints", frame.features.keypoints.shape[1])
    if node.settings.publish_keypoints:
        node.outputs[f"{prefix}keypoints"].publish(lambda: keypoints_message(frame, frame.tag))


def publish_descriptors(node: MatcherNode, prefix: str, frame: Frame) -> None:
    """Publish the descriptors of a frame, under its image's header; last, because they are the largest."""
    assert node.model is not None
    variant, dtype = node.model.variant, node.settings.descriptor_dtype
    if node.settings.publish_descriptors:
        node.outputs[f"{prefix}descriptors"].publish(
            lambda: descriptors_message(frame, frame.tag, variant, dtype=dtype)
        )


def publish_pairs(node: MatcherNode, prefix: str, pairs: Sequence[MatchedPair], mode: str) -> None:
    """Publish the matches of one image with others, under its header."""
    for pair in pairs:
        current, tag = pair.current.tag, pair.reference.tag
        name, reference = tag if isinstance(tag, StoredImage) else StoredImage("", tag)
        if node.outputs[f"{prefix}matches"].publish(partial(matches_message, pair, current, reference, mode, name)):
            node.statistics.count("published")
    best = best_of(pairs)
    if best is not None:
        node.statistics.set(f"{prefix}matches", len(best.matches))
        if best.matches.inlier is not None:
            node.statistics.set(f"{prefix}inliers", int(best.matches.inlier.sum()))


def publish_pictures(node: MatcherNode, prefix: str, pairs: Sequence[MatchedPair], mode: str) -> None:
    """Publish views of the pair with the most matches, for subscribers; after the results, which need not wait."""
    best = best_of(pairs)
    if best is not None:
        publish_views(node, prefix, best, mode)


def best_of(pairs: Sequence[MatchedPair]) -> MatchedPair | None:
    """Return the pair with the most matches."""
    return max(pairs, key=lambda pair: len(pair.matches), default=None)
