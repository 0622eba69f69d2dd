"""The node that matches each image of a camera with an earlier one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from semantic_matcher_msgs.msg import Descriptors, Keypoints, Matches

from semantic_matcher.image_input import ImageInput
from semantic_matcher.matcher_node import MatcherNode
from semantic_matcher.matching_model import MatchingModel, verifier
from semantic_matcher.messages import stamp_ns
from semantic_matcher.output import Output
from semantic_matcher.publishing import publish_frame, publish_pair
from semantic_matcher_core.streams import StampOrder, TemporalPairing, TemporalStream


class TemporalMatcher(MatcherNode):
    """Subscribes ``image``; publishes ``~/keypoints``, ``~/descriptors``, ``~/matches`` and the views."""

    def __init__(self, **options: Any) -> None:
        super().__init__("temporal_matcher", **options)
        self._stream: TemporalStream | None = None

    def create_outputs(self) -> dict[str, Output]:
        types = {"keypoints": Keypoints, "descriptors": Descriptors, "matches": Matches}
        return {name: Output(self, type_, f"~/{name}", self.statistics) for name, type_ in types.items()}

    def create_inputs(self) -> list[ImageInput]:
        transport = self.parameters.values.image_transport
        return [ImageInput(self, "image", transport, self.offer, self.statistics)]

    def begin(self, model: MatchingModel) -> None:
        self._stream = TemporalStream(model.matcher)

    def apply(self, settings: SimpleNamespace) -> None:
        assert self._stream is not None
        self._stream.pairing = TemporalPairing(
            settings.reference_policy, settings.every_nth, settings.min_inlier_share, settings.min_overlap
        )
        self._stream.verify = verifier(settings)

    def process(self, item: Any) -> None:
        stream = self._stream
        assert stream is not None
        if self.is_stale(item.header):
            return
        order = stream.admit(stamp_ns(item.header))
        if order is StampOrder.RESTARTED:
            self.get_logger().warning("time went back: matching begins anew", throttle_duration_sec=5.0)
        if not order.usable:
            self.statistics.count("out of order")
            return
        frame, pair = stream.process(self.image_of(item), stamp_ns(item.header), item.header)
        publish_frame(self, "", frame)
        if pair is not None:
            publish_pair(self, pair, "temporal")
        self.finished(item.header)
