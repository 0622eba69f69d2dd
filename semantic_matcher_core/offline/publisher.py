"""Results under the topics of the node of the same mode."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from semantic_matcher_core.io.messages import (
    COMPRESSED_IMAGE,
    compressed_image_message,
    descriptors_message,
    header_message,
    keypoints_message,
    matches_message,
    points_message,
    similarities_message,
    similarities_topic,
    typestore,
)
from semantic_matcher_core.io.run_info import RUN_INFO_TOPIC
from semantic_matcher_core.matching.evidence import of_matches
from semantic_matcher_core.offline.exports import FRAME_TOPIC, INTERNAL, PAIR_TOPIC, Exports
from semantic_matcher_core.offline.odometry import Placed, odometry_message
from semantic_matcher_core.offline.pairing import Pairing, ReferenceWork, Result

if TYPE_CHECKING:
    from semantic_matcher_core.offline.options import RunOptions
    from semantic_matcher_core.offline.sources import SourceImage
    from semantic_matcher_core.offline.work_folder import WorkFolder
    from semantic_matcher_core.pipeline import SemanticMatcher
    from semantic_matcher_core.streams import Frame

_STRING = "std_msgs/msg/String"


class Publisher:
    """Writes results under the node's topics.

    Attributes:
        clock: time of recording, never going back, of what is written next.
    """

    def __init__(
        self, work: WorkFolder, matcher: SemanticMatcher, options: RunOptions, exports: Exports, info: dict[str, Any]
    ) -> None:
        self.clock = 0
        self._exports = exports
        self._work = work
        self._variant = matcher.variant
        self._options = options
        self._info = info
        self._namespace = f"/{options.namespace.strip('/')}" if options.namespace.strip("/") else ""
        self._node = f"{self._namespace}/{options.mode}_matcher"

    def begin(self, pairing: Pairing) -> None:
        text = json.dumps(self._info, sort_keys=True)
        self._work.write(RUN_INFO_TOPIC, typestore().types[_STRING](text), self.clock)
        if isinstance(pairing, ReferenceWork):
            for frame in pairing.references:
                self._frame("reference/", frame)

    def publish(self, result: Result) -> None:
        for index, (prefix, frame) in enumerate(result.frames):
            # It is the first's, the left one's of a pair.
            self._frame(prefix, frame, result.placed if index == 0 else None)
        if result.points is not None:
            header = _header(result.pairs[0].reference.tag)
            points, confidence, colours = result.points
            message = points_message(points, confidence, header, colours)
            self._work.write(f"{self._node}/points", message, self.clock)
        if result.placed is not None:
            header = header_message(result.placed.stamp_ns, result.placed.frame)
            self._work.write(f"{self._node}/odometry", odometry_message(result.placed, header), self.clock)
        for pair in result.pairs:
            header, reference_header = _header(pair.current.tag), _header(pair.reference.tag)
            topic = f"{self._node}/{self._pair_prefix(result)}matches"
            self._note(PAIR_TOPIC, name0=pair.reference.tag.name, name1=pair.current.tag.name)
            name = pair.reference.tag.stored_name
            message = matches_message(pair.matches, self._options.mode, header, reference_header, name)
            self._work.write(topic, message, self.clock)
            if not self._options.descriptors:  # from which a report computes them
                texture, semantic = of_matches(pair.reference.features, pair.current.features, pair.matches)
                if semantic is not None:
                    self._work.write(similarities_topic(topic), similarities_message(texture, semantic), self.clock)

    def _pair_prefix(self, result: Result) -> str:
        # Of several cameras each has matches of its own; left and right share theirs.
        return result.frames[0][0] if self._options.mode == "temporal" else ""

    def _frame(self, prefix: str, frame: Frame, placed: Placed | None = None) -> None:
        image: SourceImage = frame.tag
        header = _header(image)
        if self._exports.any:
            exif = image.exif()
            self._note(
                FRAME_TOPIC,
                name=image.name,
                stream=image.stream,
                camera=image.camera or image.stream,
                orientation=exif.orientation,
                focal_35mm=exif.focal_35mm,
                **({} if placed is None else placed.prior),
            )
        keep = self._options.images == "jpeg"
        if keep or (self._exports.colmap is not None and self._exports.colmap_images):
            topic = f"{self._node}/{prefix}image" if prefix == "reference/" else f"/{image.stream.strip('/')}"
            topic = topic.removesuffix("/compressed") + "/compressed"
            # A picture has no other field that could say which of the stored ones it is.
            labelled = header_message(image.stamp_ns, image.stored_name) if image.stored_name else header
            message = _compressed(image, frame, labelled, self._options.jpeg_quality)
            self._work.write(topic if keep else f"{INTERNAL}/image", message, self.clock)
        keypoints = keypoints_message(frame.features, header, image.stored_name)
        self._work.write(f"{self._node}/{prefix}keypoints", keypoints, self.clock)
        keep = self._options.descriptors
        if keep or self._exports.needs_descriptors:
            topic = f"{self._node}/{prefix}descriptors" if keep else f"{INTERNAL}/descriptors"
            dtype = self._options.descriptor_dtype if keep else "float32"
            descriptors = descriptors_message(frame.features, self._variant, header, image.stored_name, dtype)
            self._work.write(topic, descriptors, self.clock)

    def _note(self, topic: str, **content: Any) -> None:
        if self._exports.any:
            self._work.write(topic, typestore().types[_STRING](json.dumps(content)), self.clock)


def _header(image: SourceImage) -> Any:
    return header_message(image.stamp_ns, image.frame_id)


def _compressed(image: SourceImage, frame: Frame, header: Any, quality: int) -> Any:
    if image.encoded is None:
        return compressed_image_message(frame.image, header, quality=quality)
    # As it was recorded: encoding it once more would cost quality.
    description, data = image.encoded
    return typestore().types[COMPRESSED_IMAGE](header=header, format=description, data=data)
