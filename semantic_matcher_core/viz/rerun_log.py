"""Results on the time line of Rerun: images, keypoints, matches, points and trajectory; needs the extra ``view``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semantic_matcher_core.errors import BagError, ImageError, MissingPackageError
from semantic_matcher_core.io.atomic import atomic_output, check_output
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.encoding import encode_image
from semantic_matcher_core.io.messages import KEYPOINTS, MATCHES, stamp_of
from semantic_matcher_core.viz.palette import INLIER, KEYPOINT, OUTLIER, amount_colours
from semantic_matcher_core.viz.spread import spread
from semantic_matcher_core.viz.timeline import camera_topics

_ODOMETRY, _POINTS = "nav_msgs/msg/Odometry", "sensor_msgs/msg/PointCloud2"
_MAX_ARROWS, _QUALITY = 300, 80


@dataclass(frozen=True, eq=False)
class Shown:
    """One thing on the time line.

    Attributes:
        stamp_ns: when, nanoseconds.
        place: where it stands in the tree of things, e.g. ``camera/matches``.
        kind: ``image`` (JPEG bytes), ``points2`` or ``points3`` (N x 2, N x 3), ``arrows`` (N x 4: from, to) or
            ``path`` (N x 3: all positions so far).
        data: as ``kind`` says.
        colours: ``N x 3`` uint8 RGB, or ``None`` for an image.
    """

    stamp_ns: int
    place: str
    kind: str
    data: Any
    colours: np.ndarray | None = None


def shown(path: Path) -> Iterator[Shown]:
    """Yield what a file of results holds, one thing after another.

    Raises:
        BagError: it is no bag, is damaged, or holds nothing of semantic_matcher.
    """
    with BagReader(path) as bag:
        wanted = [t.name for t in bag.topics if t.msgtype in (KEYPOINTS, MATCHES, _ODOMETRY, _POINTS) and t.count]
        if not any(t.msgtype in (KEYPOINTS, MATCHES) and t.count for t in bag.topics):
            raise BagError(f"{path} holds no results of semantic_matcher; {bag.describe_topics()}")
        images = camera_topics(bag)
        # Keypoints and matches are drawn on the images of their stamp and frame.
        cameras: dict[tuple[int, str], str] = {}
        for image in bag.images(images) if images else ():
            try:
                data = encode_image(image.decode(), jpeg_quality=_QUALITY).tobytes()
            except ImageError:
                continue  # the rest is shown without it
            place = image.topic.removesuffix("/compressed").strip("/")
            cameras.setdefault((image.stamp_ns, image.frame_id), place)
            yield Shown(image.stamp_ns, f"{place}/image", "image", data)
        travelled: dict[str, list[list[float]]] = {}
        for item in bag.messages(wanted):
            yield from _of_message(item.topic.strip("/"), item.msgtype, item.message, cameras, travelled)


def _of_message(
    topic: str, msgtype: str, message: Any, cameras: dict[tuple[int, str], str], travelled: dict[str, list[list[float]]]
) -> Iterator[Shown]:
    stamp = stamp_of(message.header)
    base = cameras.get((stamp, message.header.frame_id), topic)
    if msgtype == KEYPOINTS:
        xy = message.xy.reshape(-1, 2) + 0.5  # Rerun counts from the corner of the first pixel
        yield Shown(stamp, f"{base}/keypoints", "points2", xy, np.tile(np.array(KEYPOINT, np.uint8), (len(xy), 1)))
    elif msgtype == MATCHES:
        ends = np.hstack([message.xy0.reshape(-1, 2), message.xy1.reshape(-1, 2)]) + 0.5
        confidence = np.array(message.confidence)
        checked = len(message.inlier) == len(ends) and len(ends) > 0
        good = message.inlier.astype(bool) if checked else np.ones(len(ends), bool)
        if checked:
            colours = np.where(good[:, None], np.array(INLIER, np.uint8), np.array(OUTLIER, np.uint8))
        else:
            low, high = (confidence.min(), confidence.max()) if len(confidence) else (0, 1)
            colours = amount_colours((confidence - low) / max(high - low, 1e-9))
        rows = spread(ends[:, 2:], confidence, good, _MAX_ARROWS, (480, 1280))
        yield Shown(stamp, f"{base}/matches", "arrows", ends[rows], colours[rows])
    elif msgtype == _ODOMETRY:
        position = message.pose.pose.position
        path = travelled.setdefault(topic, [])
        path.append([position.x, position.y, position.z])
        yield Shown(stamp, f"world/{topic}", "path", np.array(path))
    else:
        points, values = _cloud(message)
        low, high = (values.min(), values.max()) if len(values) else (0, 1)
        yield Shown(stamp, f"world/{topic}", "points3", points, amount_colours((values - low) / max(high - low, 1e-9)))


def _cloud(message: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return ``N x 3`` points and ``N`` confidences (zeros where there are none) of a PointCloud2 of float32 fields."""
    offsets = {field.name: field.offset for field in message.fields if field.datatype == 7}
    raw = np.frombuffer(bytes(message.data), np.uint8).reshape(-1, message.point_step)
    if not {"x", "y", "z"} <= set(offsets):
        return np.zeros((0, 3)), np.zeros(0)

    def column(name: str) -> np.ndarray:
        values = np.ascontiguousarray(raw[:, offsets[name] : offsets[name] + 4])
        return values.view(">f4" if message.is_bigendian else "<f4")[:, 0].astype(np.float64)

    points = np.stack([column(name) for name in "xyz"], axis=1)
    values = column("confidence") if "confidence" in offsets else np.zeros(len(points))
    finite = np.isfinite(points).all(axis=1)
    return points[finite], values[finite]


def write_rrd(results: Path, output: Path) -> int:
    """Write what a file of results holds as a recording for Rerun; gives the number of things in it.

    Raises:
        MissingPackageError: rerun-sdk is not installed.
        BagError, OutputError: the file cannot be read, or the recording not written.
    """
    rerun = _rerun()
    check_output(output)
    with atomic_output(output) as temporary:
        recording = rerun.RecordingStream("semantic_matcher", recording_id=results.name)
        recording.save(temporary)
        count = _log(rerun, recording, results)
        recording.flush()
        recording.disconnect()
    return count


def view(results: Path) -> int:
    """Open Rerun's viewer on what a file of results holds; see :func:`write_rrd`."""
    rerun = _rerun()
    recording = rerun.RecordingStream("semantic_matcher", recording_id=results.name)
    recording.spawn()
    count = _log(rerun, recording, results)
    recording.flush()
    return count


def _rerun() -> Any:
    try:
        import rerun
    except ModuleNotFoundError as error:
        if error.name != "rerun":
            raise
        raise MissingPackageError("the viewer needs rerun-sdk, not installed here: pip install rerun-sdk") from error
    return rerun


def _log(rerun: Any, recording: Any, results: Path) -> int:
    makers: dict[str, Callable[[Shown], Any]] = {
        "image": lambda s: rerun.EncodedImage(contents=s.data, media_type="image/jpeg"),
        "points2": lambda s: rerun.Points2D(s.data, colors=s.colours, radii=1.0),
        "points3": lambda s: rerun.Points3D(s.data, colors=s.colours, radii=0.01),
        "arrows": lambda s: rerun.Arrows2D(
            origins=s.data[:, :2], vectors=s.data[:, 2:] - s.data[:, :2], colors=s.colours, radii=0.6
        ),
        "path": lambda s: rerun.LineStrips3D([s.data]),
    }
    count = 0
    for item in shown(results):
        recording.set_time("stamp", timestamp=np.datetime64(item.stamp_ns, "ns"))
        recording.log(item.place, makers[item.kind](item))
        count += 1
    return count
