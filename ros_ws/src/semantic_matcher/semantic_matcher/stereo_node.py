"""The node that matches left with right images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from nav_msgs.msg import Odometry
from sensor_msgs.msg import PointCloud2

from semantic_matcher.calibration import CameraInfoInput
from semantic_matcher.image_input import ImageInput
from semantic_matcher.matcher_node import MatcherNode
from semantic_matcher.matching_model import MatchingModel, verifier
from semantic_matcher.messages import points_message, stamp_ns
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
from semantic_matcher.stereo_pairing import StereoPairing
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.geometry.stereo import point_colours, sparse_points, why_few_points
from semantic_matcher_core.motion.disparity import aligned_matches
from semantic_matcher_core.motion.view import View
from semantic_matcher_core.streams import MatchedPair, StereoStream, slop_of, view_of_pair

_SIDES = ("left", "right")
_BOTH_SIDES_S = 2.0


class StereoMatcher(MatcherNode):
    """Subscribes ``image`` and ``camera_info`` below ``left`` and ``right``.

    Publishes ``~/left/keypoints``, ``~/left/descriptors``, the same of the right, ``~/matches``, ``~/debug_image`` and
    ``~/points``; with ``odometry``, ``~/odometry``; with ``publish_rgbd``, ``~/rgbd_image``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("stereo_matcher", **options)
        self._stream: StereoStream | None = None
        self._pairing = StereoPairing(self.parameters.values, self.statistics)
        self._infos: list[CameraInfoInput] = []
        self._follower: OdometryFollower | None = None

    def create_outputs(self) -> dict[str, Output]:
        types = frame_types("left/") | frame_types("right/") | pair_types(self, "") | {"points": PointCloud2}
        if self.parameters.values.odometry:
            types |= {"odometry": Odometry}
        types |= rgbd_types(self.parameters.values)
        return {name: Output(self, type_, f"~/{name}") for name, type_ in types.items()}

    def create_inputs(self) -> list[ImageInput | CameraInfoInput]:
        images = [
            self.image_input(f"{side}/image", "", receive=functools.partial(self._receive, side)) for side in _SIDES
        ]
        self._infos = [
            CameraInfoInput(self, f"{side}/camera_info", image.base) for side, image in zip(_SIDES, images, strict=True)
        ]
        return [*images, *self._infos]

    def image_prefixes(self) -> list[str]:
        return [f"{side}/" for side in _SIDES]

    def begin(self, model: MatchingModel) -> None:
        self._stream = StereoStream(model)
        self._follower = OdometryFollower(self, model) if self.parameters.values.odometry else None
        self._pairing = StereoPairing(self.parameters.values, self.statistics)
        self.parameters.on_change(lambda values: self._pairing.take(values))

    def end(self) -> None:
        self._stream = None
        if self._follower is not None:
            self._follower.destroy()
        self._follower = None
        self._pairing.clear()

    def resumed(self, source: str) -> None:
        self._pairing.clear()

    def review_more(self) -> None:
        # Of a side that is silent altogether something else is said.
        both = all(self.statistics.since(f"received:{side}/image") < _BOTH_SIDES_S for side in _SIDES)
        self.set_problem("pairs", self._pairing.trouble() if both else "", kind="pairs" if both else "")

    def wanted(self, prefix: str = "") -> bool:
        # TF subscribers cannot be counted.
        values = self.parameters.values
        return (values.odometry and values.publish_tf) or super().wanted(prefix)

    def apply(self, settings: SimpleNamespace) -> None:
        pass

    def process(self, source: str, item: Any) -> None:
        left, right = item
        assert self._stream is not None
        if self.is_stale(left.header, source):
            return
        images = self.image_of(left), self.image_of(right)
        self._stream.verify = verifier(self.settings, self._calibrated([image.shape[:2] for image in images]))
        masks = (self.mask_of("left/", left.header, images[0]), self.mask_of("right/", right.header, images[1]))
        pair = self._stream.process(
            *images, (stamp_ns(left.header), stamp_ns(right.header)), (left.header, right.header), masks
        )
        sides = {"left/": pair.reference, "right/": pair.current}
        for prefix, frame in sides.items():
            publish_keypoints(self, prefix, frame)
        publish_pairs(self, "", [pair], "stereo")
        self.beside("points", lambda: self._publish_points(pair))
        view = functools.cache(lambda: self._view(pair))
        if self._follower is not None:
            self.beside("odometry", lambda: self._follow(pair, view))
        for prefix, frame in sides.items():
            publish_descriptors(self, prefix, frame)
        if "rgbd_image" in self.outputs:
            self.beside("rgbd_image", lambda: self._publish_rgbd(item, pair, view))
        self.finished(source, right.header)
        publish_pictures(self, "", [pair], "stereo")

    def _calibrated(self, sizes: list[tuple[int, int]]) -> tuple[Camera, Camera] | None:
        if self.settings.geometry != "essential":
            self.set_problem("calibration", "")
            return None
        rectified = self.settings.rectified

        def cameras() -> tuple[Camera, Camera]:
            left, right = (info.camera(size, rectified) for info, size in zip(self._infos, sizes, strict=True))
            return left, right

        return self.calibration("calibration", cameras)

    def _publish_points(self, pair: MatchedPair) -> None:
        output = self.outputs["points"]
        if not (self.settings.publish_points and output.wanted):
            for subject in ("points", "few points", "frame of ~/points"):
                self.set_problem(subject, "")
            return
        settings = self.settings
        frames = pair.reference, pair.current

        def points() -> tuple[Any, Any, Any, str]:
            if not settings.rectified:
                raise ConfigError("~/points needs rectified images: set the parameter rectified where they are")
            left, right = (info.projection(f.features.image_size) for info, f in zip(self._infos, frames, strict=True))
            measured = aligned_matches(pair.matches, *(frame.image for frame in frames))
            self.statistics.set("matches without a measurable disparity", len(pair.matches) - len(measured))
            limits = {
                "max_row_difference": settings.epipolar_band or settings.geometry_threshold,
                "min_disparity": settings.min_disparity,
            }
            found, confidence = sparse_points(measured, left, right, **limits)
            colours = point_colours(found, left, pair.reference.image) if settings.color_points else None
            why_few = why_few_points(pair.matches, measured, len(found), left, right, **limits)
            return found, confidence, colours, why_few

        found = self.calibration("points", points)
        if found is None:
            self.set_problem("few points", "")
        else:
            self.statistics.set("points", len(found[0]))
            cloud, confidence, colours, why_few = found
            # Told as one, whatever of its reasons is the first at the moment.
            self.set_problem("few points", why_few, kind=why_few and "few points")
            self.check_frame(pair.reference.tag, "~/points")
            output.publish(lambda: points_message(cloud, confidence, pair.reference.tag, colours))

    def _view(self, pair: MatchedPair) -> View:
        settings, frames = self.settings, (pair.reference, pair.current)
        if not settings.rectified:
            raise ConfigError(
                "~/odometry and ~/rgbd_image need rectified images: set the parameter rectified where they are"
            )
        left, right = (info.projection(f.features.image_size) for info, f in zip(self._infos, frames, strict=True))
        return view_of_pair(pair, left, right, settings.epipolar_band or settings.geometry_threshold)

    def _follow(self, pair: MatchedPair, view: Callable[[], View]) -> None:
        assert self._follower is not None
        if (seen := self.calibration("odometry calibration", view)) is not None:
            self._follower.process(seen, pair.reference.tag)

    def _publish_rgbd(self, images: tuple[Any, Any], pair: MatchedPair, view: Callable[[], View]) -> None:
        output = self.outputs["rgbd_image"]
        if not output.wanted:
            self.set_problem("rgbd_image", "")
            return
        if (seen := self.calibration("rgbd_image", view)) is not None:
            frames = pair.reference, pair.current
            left, right = (
                Side(image, info.newest(), frame.image)
                for image, info, frame in zip(images, self._infos, frames, strict=True)
            )
            output.publish(lambda: rgbd_message(pair.reference, seen, left, right))

    def _receive(self, side: str, message: Any) -> None:
        pair = self._pairing.add(side, message)
        if pair is not None:
            self.offer("", pair)

    def _refusal(self, values: SimpleNamespace) -> str:
        try:
            slop_of(values.sync, values.slop)
        except ConfigError as error:
            return str(error)
        return odometry_refusal(values) or super()._refusal(values)
