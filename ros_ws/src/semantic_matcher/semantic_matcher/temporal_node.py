"""The node that matches each image of a camera, or of several, with an earlier one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from nav_msgs.msg import Odometry

from semantic_matcher.calibration import CameraInfoInput
from semantic_matcher.depth_input import DepthInput
from semantic_matcher.image_input import ImageInput
from semantic_matcher.matcher_node import MatcherNode
from semantic_matcher.matching_model import MatchingModel, verifier
from semantic_matcher.messages import stamp_ns
from semantic_matcher.odometry_output import OdometryFollower, odometry_refusal
from semantic_matcher.output import Output
from semantic_matcher.publishing import (
    frame_types,
    pair_types,
    publish_descriptors,
    publish_keypoints,
    publish_pairs,
    publish_pictures,
)
from semantic_matcher.rgbd_output import Side, rgbd_message, rgbd_types
from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.io.depth_messages import depth_of, unit_doubt
from semantic_matcher_core.motion.view import View, depth_view
from semantic_matcher_core.options import named
from semantic_matcher_core.streams import Frame, StampOrder, TemporalPairing, TemporalStream


class TemporalMatcher(MatcherNode):
    """Subscribes ``image`` and ``camera_info``.

    Publishes ``~/keypoints``, ``~/descriptors``, ``~/matches`` and ``~/debug_image``; of several cameras, each has
    these below its own name. With ``odometry`` or ``publish_rgbd`` it subscribes ``depth`` as well, takes the images
    that have some, and publishes ``~/odometry`` or ``~/rgbd_image``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("temporal_matcher", **options)
        self._cameras = named(self.parameters.values.cameras) or [""]
        self._streams: dict[str, TemporalStream] = {}
        self._infos: dict[str, CameraInfoInput] = {}
        self._anew: set[str] = set()
        self._follower: OdometryFollower | None = None
        self._depth: DepthInput | None = None

    def create_outputs(self) -> dict[str, Output]:
        types: dict[str, type] = {}
        for camera in self._cameras:
            prefix = prefix_of(camera)
            types |= frame_types(prefix) | pair_types(self, prefix)
        if self.parameters.values.odometry:
            types |= {"odometry": Odometry}
        types |= rgbd_types(self.parameters.values)
        return {name: Output(self, type_, f"~/{name}") for name, type_ in types.items()}

    def create_inputs(self) -> list[ImageInput | CameraInfoInput | DepthInput]:
        asked = self.parameters.values.odometry or self.parameters.values.publish_rgbd
        self._depth = DepthInput(self, lambda pair: self.offer("", pair), self.wanted) if asked else None
        receive = None if self._depth is None else self._depth.add_image
        images = {c: self.image_input(f"{prefix_of(c)}image", c, prefix_of(c), receive) for c in self._cameras}
        self._infos = {
            camera: CameraInfoInput(self, f"{prefix_of(camera)}camera_info", images[camera].base)
            for camera in self._cameras
        }
        return [*images.values(), *self._infos.values(), *([] if self._depth is None else [self._depth])]

    def image_prefixes(self) -> list[str]:
        return [prefix_of(camera) for camera in self._cameras]

    def begin(self, model: MatchingModel) -> None:
        self._streams = {camera: TemporalStream(model) for camera in self._cameras}
        self._follower = OdometryFollower(self, model) if self.parameters.values.odometry else None

    def end(self) -> None:
        self._streams = {}
        if self._follower is not None:
            self._follower.destroy()
        self._follower = None

    def resumed(self, source: str) -> None:
        self._anew.add(source)

    def wanted(self, prefix: str = "") -> bool:
        # TF subscribers cannot be counted.
        values = self.parameters.values
        return (values.odometry and values.publish_tf) or super().wanted(prefix)

    def apply(self, settings: SimpleNamespace) -> None:
        for stream in self._streams.values():
            stream.pairing = TemporalPairing(
                settings.reference_policy, settings.every_nth, settings.min_inlier_share, settings.min_overlap
            )
            stream.semantic_every = settings.semantic_every

    def process(self, source: str, item: Any) -> None:
        stream = self._streams[source]
        item, depth = item if self._depth is not None else (item, None)
        if source in self._anew:
            # The frame before is that from before a pause without subscribers.
            self._anew.discard(source)
            stream.reset()
        if self.is_stale(item.header, source):
            return
        order = stream.admit(stamp_ns(item.header))
        if order is StampOrder.RESTARTED:
            self.get_logger().warning("time went back: matching begins anew", throttle_duration_sec=5.0)
        if not order.usable:
            self.skipped("out of order", source)
            return
        image = self.image_of(item)
        stream.verify = verifier(self.settings, self._calibrated(source, image.shape[:2]))
        prefix = prefix_of(source)
        mask = self.mask_of(prefix, item.header, image)
        frame, pair = stream.process(image, stamp_ns(item.header), item.header, mask)
        publish_keypoints(self, prefix, frame)
        if pair is not None:
            publish_pairs(self, prefix, [pair], "temporal")
        view = functools.cache(lambda: self._view(source, frame, depth))
        if self._follower is not None:
            self.beside("odometry", lambda: self._follow(frame, view))
        publish_descriptors(self, prefix, frame)
        if "rgbd_image" in self.outputs:
            self.beside("rgbd_image", lambda: self._publish_rgbd(source, item, depth, frame, view))
        self.finished(source, item.header)
        if pair is not None:
            publish_pictures(self, prefix, [pair], "temporal")

    def _view(self, source: str, frame: Frame, depth: Any) -> View:
        camera = self._infos[source].camera(frame.features.image_size, self._rectified)
        values = depth_of(depth)
        doubt = unit_doubt(values)
        self.set_problem("unit of depth", doubt, kind=doubt and "unit of depth")
        return depth_view(frame.features, values, camera, image=frame.image, stamp=frame.stamp)

    def _follow(self, frame: Frame, view: Callable[[], View]) -> None:
        assert self._follower is not None
        if (seen := self.calibration("odometry calibration", view)) is not None:
            self._follower.process(seen, frame.tag)

    def _publish_rgbd(self, source: str, image: Any, depth: Any, frame: Frame, view: Callable[[], View]) -> None:
        output = self.outputs["rgbd_image"]
        if not output.wanted:
            self.set_problem("rgbd_image", "")
            return
        if (seen := self.calibration("rgbd_image", view)) is not None:
            info = self._infos[source].newest()
            output.publish(lambda: rgbd_message(frame, seen, Side(image, info, frame.image), Side(depth, info)))

    def _refusal(self, values: SimpleNamespace) -> str:
        asked = [name for name in ("odometry", "publish_rgbd") if getattr(values, name)]
        if asked and named(values.cameras):
            return f"{asked[0]} is of one camera: leave cameras empty, or start a node for each"
        return odometry_refusal(values) or super()._refusal(values)

    def _calibrated(self, source: str, size: tuple[int, int]) -> tuple[Camera, Camera] | None:
        """Return the camera of the reference and of the current image, where the check needs them and they are
        known.
        """
        if self.settings.geometry != "essential":
            self.set_problem(f"{source} calibration", "")
            return None
        reference = self._streams[source].reference
        # Across a change of size there is one calibration for two cameras.
        if reference is not None and reference.features.image_size != size:
            return None
        camera = self.calibration(f"{source} calibration", lambda: self._infos[source].camera(size, self._rectified))
        return None if camera is None else (camera, camera)

    @property
    def _rectified(self) -> bool:
        return bool(self.settings.rectified)


def prefix_of(camera: str) -> str:
    """Return what the topics of a camera begin with; nothing for the only one, which has no name."""
    return f"{camera}/" if camera else ""
