"""What a result becomes on the node's topics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from semantic_matcher.messages import descriptors_message, keypoints_message, matches_message
from semantic_matcher.views import publish_views

if TYPE_CHECKING:
    from semantic_matcher.matcher_node import MatcherNode
    from semantic_matcher_core.streams import Frame, MatchedPair


def publish_frame(node: MatcherNode, prefix: str, frame: Frame) -> None:
    """Keypoints and descriptors of a frame, under its image's header."""
    assert node.model is not None
    variant = node.model.variant
    node.statistics.set(f"{prefix}keypoints", frame.features.keypoints.shape[1])
    if node.settings.publish_keypoints:
        node.outputs[f"{prefix}keypoints"].publish(lambda: keypoints_message(frame, frame.tag))
    if node.settings.publish_descriptors:
        node.outputs[f"{prefix}descriptors"].publish(lambda: descriptors_message(frame, frame.tag, variant))


def publish_pair(node: MatcherNode, pair: MatchedPair, mode: str) -> None:
    """Matches, and views of them where somebody looks, under the current image's header."""
    node.statistics.set("matches", len(pair.matches))
    current, reference = pair.current.tag, pair.reference.tag
    if node.outputs["matches"].publish(lambda: matches_message(pair, current, reference, mode)):
        node.statistics.count("published")
    publish_views(node, pair, mode)
