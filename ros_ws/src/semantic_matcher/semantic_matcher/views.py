"""What a node publishes to be looked at: a picture of the matches, raw and compressed, and annotations for Foxglove.

All of it is made only while there is a subscriber, and the picture once for both of its topics.
"""

from __future__ import annotations

import traceback
from functools import cache
from typing import TYPE_CHECKING, Any

from sensor_msgs.msg import CompressedImage, Image

from semantic_matcher.annotations import annotations_message, foxglove_messages
from semantic_matcher.messages import jpeg_message, rgb_image_message
from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.viz.matches import draw_matches

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from rclpy.node import Node

    from semantic_matcher.matcher_node import MatcherNode
    from semantic_matcher_core.streams import MatchedPair


def view_types(node: Node) -> dict[str, type]:
    """Return topic below ``~`` -> message type; logs, once in a process, where there are no annotations."""
    types: dict[str, type] = {"debug_image": Image, "debug_image/compressed": CompressedImage}
    foxglove = foxglove_messages()
    if foxglove is None:
        node.get_logger().info("foxglove_msgs is not installed: ~/annotations is not published", once=True)
    else:
        types["annotations"] = foxglove.ImageAnnotations
    return types


def publish_views(node: MatcherNode, prefix: str, pair: MatchedPair, mode: str) -> None:
    """Publish the views of a pair, on the topics of ``prefix``, under the current image's header."""
    header, settings, outputs = pair.current.tag, node.settings, node.outputs

    @cache
    def picture() -> np.ndarray:
        return _draw(node, pair, mode)

    if settings.publish_debug_image:
        publish_picture(node, f"{prefix}debug_image", lambda: rgb_image_message(picture(), header))
        publish_picture(
            node,
            f"{prefix}debug_image/compressed",
            lambda: jpeg_message(picture(), header, settings.debug_jpeg_quality),
        )
    if settings.publish_annotations and f"{prefix}annotations" in outputs:
        foxglove = foxglove_messages()
        assert foxglove is not None
        publish_picture(node, f"{prefix}annotations", lambda: annotations_message(pair, header, foxglove))


def publish_picture(node: MatcherNode, output: str, build: Callable[[], Any]) -> None:
    """Publish what is only to be looked at: where it cannot be made, that is logged, and costs nothing else."""
    try:
        node.outputs[output].publish(build)
    except Exception as error:  # noqa: BLE001 - whatever drawing and encoding raise; reported
        details = "" if isinstance(error, ImageError) else traceback.format_exc()
        text = str(error) if isinstance(error, ImageError) else repr(error)
        node.report_error(f"~/{output} was not made: {text}", details)


def _draw(node: MatcherNode, pair: MatchedPair, mode: str) -> np.ndarray:
    assert node.model is not None
    return draw_matches(
        pair.reference.image,
        pair.current.image,
        pair.matches,
        features0=pair.reference.features,
        features1=pair.current.features,
        title=f"{node.model.variant}, {mode}",
        # A camera moves little between two frames: what moved where says more than two images beside each other.
        view="arrows" if mode == "temporal" else "lines",
        max_lines=node.settings.debug_max_matches,
        height=node.settings.debug_height,
    )
