"""The node that follows a template that bends in the images of a camera."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import PoseWithCovarianceStamped
from semantic_matcher_msgs.msg import TemplateTrack
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from semantic_matcher.calibration import CameraInfoInput
from semantic_matcher.image_input import ImageInput
from semantic_matcher.matcher_node import MatcherNode
from semantic_matcher.matching_model import MatchingModel
from semantic_matcher.messages import StoredImage, jpeg_message, rgb_image_message, stamp_ns
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
from semantic_matcher.track_messages import confidence_of, grid_marker, track_message
from semantic_matcher.views import publish_picture
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.io.images import read_image
from semantic_matcher_core.io.masks import read_mask
from semantic_matcher_core.io.video import VideoFrame
from semantic_matcher_core.registration import (
    FrameRegistration,
    OneEuroFilter,
    RegistrationConfig,
    Template,
    TemplateTracker,
)
from semantic_matcher_core.streams import Frame, MatchedPair

if TYPE_CHECKING:
    import numpy as np

    from semantic_matcher_core.registration.pair import Agreement

_TYPES = {
    "track": TemplateTrack,
    "grid_marker": Marker,
    "pose": PoseWithCovarianceStamped,
    "rectified": Image,
    "rectified/compressed": CompressedImage,
}


class TemplateTrackerNode(MatcherNode):
    """Subscribes ``image`` and ``camera_info``; serves ``~/set_reference``, which makes an image the template.

    Publishes ``~/track`` (where the template is, and how sure that is), ``~/rectified`` (the image as the template
    would see it), ``~/grid_marker``, ``~/pose`` (where a flat one of known width is in space), and ``~/keypoints``,
    ``~/descriptors``, ``~/matches`` and ``~/debug_image`` as the other nodes do, the template being the reference.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("template_tracker", **options)
        self._tracker: TemplateTracker | None = None
        self._picture: tuple[np.ndarray, np.ndarray | None, StoredImage] | None = None
        self._stored = StoredImage("", Header())
        self._model: MatchingModel | None = None
        self._count = 0
        self._service = ReferenceService(self)
        self._info: CameraInfoInput | None = None
        self._poses = PlanePoses(self)

    def prepare(self, settings: SimpleNamespace) -> None:
        self._picture = _read_template(settings.template_image, settings.template_mask)

    def create_outputs(self) -> dict[str, Output]:
        types = frame_types("") | pair_types(self, "") | _TYPES
        return {name: Output(self, type_, f"~/{name}") for name, type_ in types.items()}

    def create_inputs(self) -> list[ImageInput | CameraInfoInput]:
        # Kept while there is no subscriber: the service may be asked to take the newest image.
        image = self.image_input("image", "image", receive=self._receive, keep=True)
        self._info = CameraInfoInput(self, "camera_info", image.base)
        return [image, self._info]

    def begin(self, model: MatchingModel) -> None:
        self._model = model
        self._service.forget()
        if self._picture is not None:
            self._set_template(*self._picture)
        self._poses.begin()
        self._show()
        self._show_track(None)

    def end(self) -> None:
        self._tracker = self._model = None
        self._poses.end()
        self._service.forget()

    def wanted(self, prefix: str = "") -> bool:
        return self._poses.always or super().wanted(prefix)

    def apply(self, settings: SimpleNamespace) -> None:
        if self._tracker is None:
            return
        self._tracker.config = _config(settings)
        if not settings.smooth:
            self._tracker.smoothing = None
        elif self._tracker.smoothing is None:
            self._tracker.smoothing = OneEuroFilter()

    def process(self, source: str, item: Any) -> None:
        if isinstance(item, ReferenceRequest):
            self._service.answer(item, self._take)
            return
        if self._tracker is None or self.is_stale(item.header, source):
            return
        self._count += 1
        image = self.image_of(item)
        mask = self.mask_of("", item.header, image)
        result = self._tracker.track(VideoFrame(self._count, stamp_ns(item.header), image), mask=mask)
        pair = self._publish(result, item.header)
        self.finished(source, item.header)
        publish_pictures(self, "", [pair], "reference")
        settings, header = self.settings, item.header
        publish_picture(
            self, "grid_marker", lambda: grid_marker(result, header, settings.grid_columns, settings.marker_scale)
        )
        self._publish_rectified(result, header)

    def _receive(self, message: Any) -> None:
        self._service.saw(message)
        self.offer_wanted("", "image", message)

    def _publish(self, result: FrameRegistration, header: Header) -> MatchedPair:
        settings, outputs, name = self.settings, self.outputs, self._stored.name
        image = result.frame.image
        current = Frame(result.frame.stamp_ns, image, result.features, header)
        template = Frame(stamp_ns(self._stored.header), result.template.image, result.template.features, self._stored)
        publish_keypoints(self, "", current)
        pair = MatchedPair(template, current, result.matches)
        publish_pairs(self, "", [pair], "reference")

        outputs["track"].publish(lambda: track_message(result, name, header, settings.grid_columns))
        self._show_track(result.agreement)
        assert self._info is not None
        found = [pair] if result.agreement is not None else []
        self.beside("pose", partial(self._poses.publish, "", current, found, self._info))
        publish_descriptors(self, "", current)
        return pair

    def _publish_rectified(self, result: FrameRegistration, header: Header) -> None:
        if not self.settings.publish_rectified or result.agreement is None:
            return
        warped, quality = result.agreement.warped, self.settings.debug_jpeg_quality
        publish_picture(self, "rectified", lambda: rgb_image_message(warped, header))
        publish_picture(self, "rectified/compressed", lambda: jpeg_message(warped, header, quality))

    def _take(self, message: Any, name: str) -> int:
        """Make an image the template; the number of its keypoints."""
        picture = (self.image_of(message), None, StoredImage(name, message.header))
        self._set_template(*picture)
        self._picture = picture
        self.apply(self.settings)
        self._show()
        assert self._tracker is not None
        return int(self._tracker.template.features.keypoints.shape[1])

    def _set_template(self, image: np.ndarray, mask: np.ndarray | None, stored: StoredImage) -> None:
        assert self._model is not None
        config = _config(self.settings)
        template = Template.from_image(self._model, image, mask=mask, config=config)
        self._tracker = TemplateTracker(self._model, template, config)
        self._stored = stored

    def _show_track(self, agreement: Agreement | None) -> None:
        self.statistics.set("tracked", agreement is not None)
        self.statistics.set("confidence", f"{confidence_of(agreement):.2f}")

    def _show(self) -> None:
        missing = f"no template yet: set template_image, or call {self._service.topic}"
        self.set_problem("template", "" if self._tracker else missing)
        if self._tracker is not None:
            count = self._tracker.template.features.keypoints.shape[1]
            self.statistics.set("template", f"{self._stored.name} ({count} keypoints)")


def _config(settings: SimpleNamespace) -> RegistrationConfig:
    return RegistrationConfig(
        threshold=settings.deformation_threshold,
        regularisation=settings.regularisation,
        min_inliers=settings.min_inliers,
        max_side=settings.max_side,
    )


def _read_template(image: str, mask: str) -> tuple[np.ndarray, np.ndarray | None, StoredImage] | None:
    """Return the template's picture, its mask, and what it is known by: the file's name, a header without stamp and
    frame.

    Raises:
        ImageError: a file is missing or damaged.
        ConfigError: a mask without an image.
    """
    if not image:
        if mask:
            raise ConfigError(f"template_mask is {mask!r}, but template_image is empty; a mask is of that image")
        return None
    pixels = read_image(Path(image).expanduser())
    area = read_mask(mask).pixels if mask else None
    return pixels, area, StoredImage(Path(image).name, Header())
