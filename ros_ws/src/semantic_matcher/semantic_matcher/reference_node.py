"""The node that matches the images of a camera, or of several, with stored ones."""

from __future__ import annotations

import functools
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import PoseWithCovarianceStamped
from std_msgs.msg import Header

from semantic_matcher.calibration import CameraInfoInput
from semantic_matcher.image_input import ImageInput
from semantic_matcher.matcher_node import MatcherNode
from semantic_matcher.matching_model import MatchingModel, verifier
from semantic_matcher.messages import StoredImage, descriptors_message, keypoints_message, stamp_ns
from semantic_matcher.output import Output
from semantic_matcher.publishing import (
    frame_types,
    pair_types,
    publish_descriptors,
    publish_keypoints,
    publish_pairs,
    publish_pictures,
)
from semantic_matcher.reference_pose import PlanePoses
from semantic_matcher.reference_service import ReferenceRequest, ReferenceService
from semantic_matcher.temporal_node import prefix_of
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.io.images import read_image, with_folders
from semantic_matcher_core.options import named
from semantic_matcher_core.streams import ReferenceStream

if TYPE_CHECKING:
    import numpy as np


class ReferenceMatcher(MatcherNode):
    """Subscribes ``image`` and ``camera_info``; serves ``~/set_reference``.

    Publishes ``~/keypoints``, ``~/descriptors``, ``~/matches``, ``~/pose`` and ``~/debug_image``, of several cameras
    each below its own name; and once, kept for later subscribers, ``~/reference/keypoints`` and
    ``~/reference/descriptors``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("reference_matcher", **options)
        self._cameras = named(self.parameters.values.cameras) or [""]
        self._stream: ReferenceStream | None = None
        self._stored: list[tuple[np.ndarray, StoredImage]] = []
        self._sides: dict[str, int] = {}
        self._service = ReferenceService(self)
        self._infos: dict[str, CameraInfoInput] = {}
        self._poses = PlanePoses(self)

    def prepare(self, settings: SimpleNamespace) -> None:
        self._stored = _read_references(named(settings.reference_images))
        self._rotation: str = settings.rotation

    def create_outputs(self) -> dict[str, Output]:
        types: dict[str, type] = {}
        for camera in self._cameras:
            prefix = prefix_of(camera)
            types |= frame_types(prefix) | pair_types(self, prefix)
            types |= {f"{prefix}pose": PoseWithCovarianceStamped}
        outputs = {name: Output(self, type_, f"~/{name}") for name, type_ in types.items()}
        for name, type_ in frame_types("reference/").items():
            outputs[name] = Output(self, type_, f"~/{name}", latched=max(len(self._stored), 1))
        return outputs

    def create_inputs(self) -> list[ImageInput | CameraInfoInput]:
        images = {
            # Kept while there is no subscriber: the service may be asked to take the newest image.
            camera: self.image_input(
                f"{prefix_of(camera)}image", camera, receive=functools.partial(self._receive, camera), keep=True
            )
            for camera in self._cameras
        }
        self._infos = {
            camera: CameraInfoInput(self, f"{prefix_of(camera)}camera_info", images[camera].base)
            for camera in self._cameras
        }
        return [*images.values(), *self._infos.values()]

    def image_prefixes(self) -> list[str]:
        return [prefix_of(camera) for camera in self._cameras]

    def begin(self, model: MatchingModel) -> None:
        self._stream = ReferenceStream(model, rotation=self._rotation)
        self._stream.set_references(self._stored)
        self._sides = {}
        self._service.forget()
        self._poses.begin()
        self._show()

    def started(self) -> None:
        self._announce()

    def end(self) -> None:
        self._stream = None
        self._poses.end()
        self._service.forget()

    def wanted(self, prefix: str = "") -> bool:
        return self._poses.always or super().wanted(prefix)

    def apply(self, settings: SimpleNamespace) -> None:
        assert self._stream is not None
        self._stream.verify = verifier(settings)

    def process(self, source: str, item: Any) -> None:
        assert self._stream is not None
        if isinstance(item, ReferenceRequest):
            self._service.answer(item, self._take)
            return
        if self.is_stale(item.header, source):
            return
        prefix, image = prefix_of(source), self.image_of(item)
        mask = self.mask_of(prefix, item.header, image)
        self._sides[source] = max(image.shape[:2])
        if self._stream.fit(max(self._sides.values())):
            self._announce()
            self._show()
        frame, pairs = self._stream.process(image, stamp_ns(item.header), item.header, mask, source)
        publish_keypoints(self, prefix, frame)
        publish_pairs(self, prefix, pairs, "reference")
        self.beside("pose", lambda: self._poses.publish(prefix, frame, pairs, self._infos[source]))
        publish_descriptors(self, prefix, frame)
        self.finished(source, item.header)
        publish_pictures(self, prefix, pairs, "reference")

    def _receive(self, camera: str, message: Any) -> None:
        self._service.saw(message)
        self.offer_wanted(prefix_of(camera), camera, message)

    def _take(self, message: Any, name: str) -> int:
        """Make an image the only reference; the number of its keypoints."""
        assert self._stream is not None
        stored = [(self.image_of(message), StoredImage(name, message.header))]
        self._stream.set_references(stored)
        self._stored = stored
        self._announce()
        self._show()
        return int(self._stream.references[0].features.keypoints.shape[1])

    def _announce(self) -> None:
        """Publish the stored images' features; who subscribes later gets those of all, and of no earlier ones."""
        assert self._stream is not None and self.model is not None
        for name in frame_types("reference/"):
            self.outputs[name].renew(max(len(self._stream.references), 1))
        for frame in self._stream.references:
            name, header = frame.tag
            self.outputs["reference/keypoints"].publish(partial(keypoints_message, frame, header, name))
            self.outputs["reference/descriptors"].publish(
                partial(descriptors_message, frame, header, self.model.variant, name, self.settings.descriptor_dtype)
            )

    def _show(self) -> None:
        assert self._stream is not None
        references = self._stream.references
        shown = (f"{frame.tag.name} ({frame.features.keypoints.shape[1]} keypoints)" for frame in references)
        self.statistics.set("references", ", ".join(shown))
        empty = [frame.tag.name for frame in references if not frame.features.keypoints.shape[1]]
        text = f"no keypoints in {', '.join(map(repr, empty))}: nothing will be matched with it" if empty else ""
        if not references:
            text = f"no reference image yet: set reference_images, or call {self._service.topic}"
        self.set_problem("reference", text)


def _read_references(paths: list[str]) -> list[tuple[np.ndarray, StoredImage]]:
    """Return image files, of a folder all in it, and what they are known by: the file's name, and a header without
    stamp and frame.

    Raises:
        ImageError: a file is missing or damaged, or a folder holds none.
        ConfigError: two files have the same name.
    """
    files = with_folders(paths)
    names = [file.name for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"reference_images has two files named {twice!r}; give them names of their own")
    return [(read_image(file), StoredImage(file.name, Header())) for file in files]
