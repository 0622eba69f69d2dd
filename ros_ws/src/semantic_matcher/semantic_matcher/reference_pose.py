"""Where a flat stored image of known width is, as seen by the camera."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from types import SimpleNamespace
from typing import TYPE_CHECKING

from geometry_msgs.msg import PoseWithCovarianceStamped

from semantic_matcher.messages import StoredImage
from semantic_matcher.odometry_output import fill_pose
from semantic_matcher.tf_output import TransformOutput
from semantic_matcher_core.errors import PoseError
from semantic_matcher_core.io.images import IMAGE_SUFFIXES
from semantic_matcher_core.motion.localisation import Localiser, StoredView, plane_view
from semantic_matcher_core.motion.pose import inverse_covariance
from semantic_matcher_core.motion.view import mono_view

if TYPE_CHECKING:
    from semantic_matcher.calibration import CameraInfoInput
    from semantic_matcher.matcher_node import MatcherNode
    from semantic_matcher_core.streams import Frame, MatchedPair


class PlanePoses:
    """Publishes ``~/pose`` of the stored image that most matches agree with, in the camera's optical frame.

    With ``publish_tf``, the same goes to /tf, as the place of a frame that is called like the stored image (without its
    suffix; below the name of the camera, of several).

    Args:
        node: with the parameters ``reference_width``, ``rectified`` and ``publish_tf``, and the outputs ``pose``.
    """

    def __init__(self, node: MatcherNode) -> None:
        self._node = node
        self._tf: TransformOutput | None = None
        self._planes: dict[tuple[int, float], tuple[Frame, StoredView]] = {}

    @property
    def always(self) -> bool:
        """Whether poses are wanted even without a subscriber: TF subscribers cannot be counted."""
        values = self._node.parameters.values
        return bool(values.publish_tf and values.reference_width > 0)

    def begin(self) -> None:
        """Open what is published besides the node's outputs."""
        self._tf = TransformOutput(self._node) if self._node.parameters.values.publish_tf else None

    def end(self) -> None:
        """Let go of it, and of what is known of the stored images."""
        if self._tf is not None:
            self._tf.destroy()
        self._tf = None
        self._planes.clear()

    def publish(self, prefix: str, frame: Frame, pairs: Sequence[MatchedPair], info: CameraInfoInput) -> None:
        """Find and publish the pose, if it is wanted and one of the stored images is there."""
        settings, output = self._node.settings, self._node.outputs[f"{prefix}pose"]
        if not (settings.reference_width > 0 and (output.wanted or self._tf is not None) and pairs):
            self._node.set_problem(f"{prefix}pose", "")
            return
        camera = self._node.calibration(
            f"{prefix}pose", lambda: info.camera(frame.features.image_size, settings.rectified)
        )
        if camera is None:
            return
        view = mono_view(frame.features, camera, image=frame.image, stamp=frame.stamp)
        planes = [self._plane(pair.reference, settings.reference_width) for pair in pairs]
        matches = {id(pair.reference.features): pair.matches for pair in pairs}
        matched = SimpleNamespace(match=lambda features0, features1: matches[id(features0)])
        try:
            best = Localiser(matched, planes).locate(view)
        except PoseError as error:
            self._node.statistics.set(f"{prefix}pose", f"none: {error}")
            return
        self._node.statistics.set(f"{prefix}pose", f"{best.view.name} by {best.inliers} of {best.matches} matches")
        message = PoseWithCovarianceStamped(header=frame.tag)
        # Of the plane in the camera's frame: the other way round than the camera in the plane's.
        fill_pose(message.pose.pose, best.pose.inverse())
        message.pose.covariance = inverse_covariance(best.pose, best.covariance).reshape(-1).tolist()
        output.publish(lambda: message)
        self._node.check_frame(frame.tag, "~/pose")
        if self._tf is not None:
            self._tf.publish(message.header, f"{prefix}{frame_of(best.view.name)}", best.pose.inverse())

    def _plane(self, reference: Frame, width: float) -> StoredView:
        key = (id(reference.features), width)
        if key not in self._planes:
            if len(self._planes) >= 100:
                self._planes.clear()
            name = reference.tag.name if isinstance(reference.tag, StoredImage) else ""
            # The frame is kept with it, or its id might become another's.
            self._planes[key] = (reference, plane_view(reference.features, width, name, image=reference.image))
        return self._planes[key][1]


def frame_of(name: str) -> str:
    """Return the TF frame of a stored image of a name: without the suffix of a file, and of letters, digits and _
    alone.
    """
    path = PurePath(name)
    stem = path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name
    return re.sub(r"[^A-Za-z0-9_]", "_", stem) or "reference"
