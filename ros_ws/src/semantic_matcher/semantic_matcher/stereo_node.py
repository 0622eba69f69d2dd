"""The node that matches left with right images."""

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
from semantic_matcher_core.streams import StereoStream, StereoSynchronizer

_SIDES = ("left", "right")


class StereoMatcher(MatcherNode):
    """Subscribes ``left/image`` and ``right/image``.

    Publishes ``~/left/keypoints``, ``~/left/descriptors``, the same of the right, ``~/matches`` and the views.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("stereo_matcher", **options)
        self._stream: StereoStream | None = None
        self._synchronizer: StereoSynchronizer[Any] = StereoSynchronizer()

    def create_outputs(self) -> dict[str, Output]:
        types = {f"{side}/keypoints": Keypoints for side in _SIDES}
        types |= {f"{side}/descriptors": Descriptors for side in _SIDES}
        types["matches"] = Matches
        return {name: Output(self, type_, f"~/{name}", self.statistics) for name, type_ in types.items()}

    def create_inputs(self) -> list[ImageInput]:
        transport = self.parameters.values.image_transport
        return [
            ImageInput(self, "left/image", transport, self._receive_left, self.statistics),
            ImageInput(self, "right/image", transport, self._receive_right, self.statistics),
        ]

    def begin(self, model: MatchingModel) -> None:
        self._stream = StereoStream(model.matcher)
        self._synchronizer = StereoSynchronizer()
        self._set_tolerance()
        self.parameters.on_change(lambda _: self._set_tolerance())

    def apply(self, settings: SimpleNamespace) -> None:
        assert self._stream is not None
        self._stream.verify = verifier(settings)

    def process(self, item: Any) -> None:
        left, right = item
        assert self._stream is not None
        if self.is_stale(left.header):
            return
        pair = self._stream.process(
            self.image_of(left),
            self.image_of(right),
            (stamp_ns(left.header), stamp_ns(right.header)),
            (left.header, right.header),
        )
        publish_frame(self, "left/", pair.reference)
        publish_frame(self, "right/", pair.current)
        publish_pair(self, pair, "stereo")
        self.finished(right.header)

    def _set_tolerance(self) -> None:
        values = self.parameters.values
        self._synchronizer.slop = round(values.slop * 1e9)
        self._synchronizer.queue_size = values.queue_size

    def _receive_left(self, message: Any) -> None:
        self._offer_pair(self._synchronizer.add_left(stamp_ns(message.header), message))

    def _receive_right(self, message: Any) -> None:
        self._offer_pair(self._synchronizer.add_right(stamp_ns(message.header), message))

    def _offer_pair(self, pair: tuple[Any, Any] | None) -> None:
        unpaired = sum(self._synchronizer.unpaired)
        self.statistics.count("unpaired", unpaired - self.statistics.total("unpaired"))
        if pair is not None:
            self.offer(pair)
