"""Which recorded images are matched with which: the streams of the nodes, fed from a recording.

A run that goes on after an interruption replays the time stamps of what was done, which is all that pairing needs,
and computes again the features of one image: the one that serves as reference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.io.exif import Exif
from semantic_matcher_core.io.masks import Mask
from semantic_matcher_core.offline.calibration import Calibrations, Points, Side, stereo_points, verifier
from semantic_matcher_core.offline.odometry import Placed, RecordedOdometry
from semantic_matcher_core.offline.sources import ImageSource, SourceImage
from semantic_matcher_core.streams import (
    Frame,
    MatchedPair,
    ReferenceStream,
    StereoStream,
    StereoSynchronizer,
    TemporalStream,
    Verifier,
    features_of,
    slop_of,
)

if TYPE_CHECKING:
    from semantic_matcher_core.offline.options import RunOptions
    from semantic_matcher_core.pipeline import SemanticMatcher


@dataclass(frozen=True, eq=False)
class Setup:
    """What a run works with.

    Attributes:
        source: the recording.
        matcher: features and matches.
        options: of the run.
        calibrations: of the source's streams.
        masks: where keypoints of the images of a stream are wanted; ``None`` for everywhere.
        notice: takes a sentence for the user.
    """

    source: ImageSource
    matcher: SemanticMatcher
    options: RunOptions
    calibrations: Calibrations
    masks: Mapping[str, Mask | None]
    notice: Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Result:
    """What the processing of one image gave: new frames, and the pairs that the last of them completes.

    Attributes:
        frames: (prefix of the topics, frame); a frame's tag is its :class:`SourceImage`.
        pairs: the current image of each is the last frame.
        placed: where the camera is, the left one of a stereo pair.
        image: the image whose time of recording is that of the result.
        points: ``K x 3`` points in the left camera's frame, ``K`` confidences, and ``K x 3`` RGB or ``None``, of a
            rectified stereo pair.
    """

    frames: list[tuple[str, Frame]]
    pairs: list[MatchedPair]
    image: SourceImage
    points: Points | None = None
    placed: Placed | None = None


class Pairing(ABC):
    """One mode of work.

    Attributes:
        counts: images that were left out, by reason.
    """

    def __init__(self, setup: Setup) -> None:
        self.counts: Counter[str] = Counter()
        self._setup = setup

    @abstractmethod
    def process(self, image: SourceImage) -> Result | None:
        """Work on the next image; ``None`` where it gives nothing.

        Raises:
            ImageError: the image cannot be decoded; it counts as not recorded.
        """

    def _mask(self, image: SourceImage, pixels: np.ndarray) -> np.ndarray | None:
        """Return where keypoints of an image are wanted; raises ImageError where its mask is of another size."""
        mask = self._setup.masks.get(image.stream)
        return None if mask is None else mask.of_size(_side(image, pixels)[1])

    def _verifier(self, *sides: Side) -> Verifier | None:
        return verifier(self._setup.options, self._setup.calibrations, *sides)

    def begin(self, image: SourceImage) -> bool:
        """Prepare for a run by its first image, which :meth:`process` gets as well; false to be asked with the next."""
        return True

    def replay(self, image: SourceImage) -> None:  # noqa: B027 - not every mode has anything to do
        """Note an image that an earlier run has processed."""

    def finish(self) -> Sequence[Callable[[], Result | None]]:
        """Return what is left to do when all images have come; each may raise as :meth:`process` does."""
        return []

    def state(self) -> Any:
        """Return what a later run needs besides the replayed images (JSON)."""
        return {}

    def restore(self, state: Any) -> None:  # noqa: B027
        """Begin where an earlier run stood; to be called before the first replayed image."""

    def resume(self) -> None:  # noqa: B027
        """Prepare, between the last replayed image and the first new one."""


class TemporalWork(Pairing):
    """Each stream's images with earlier ones of the same stream; of several, each has topics of its own."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        streams = setup.source.streams
        self._streams = {name: TemporalStream(setup.matcher, setup.options.pairing) for name in streams}
        self._prefixes = _prefixes(streams)
        self._wanted: dict[str, tuple[int | None, int]] = {}
        self._references: dict[str, SourceImage] = {}

    def process(self, image: SourceImage) -> Result | None:
        stream = self._streams[image.stream]
        order = stream.admit(image.stamp_ns)
        if not order.usable:
            self.counts[f"{order.value} stamp"] += 1
            return None
        pixels = image.decode()
        side, reference = _side(image, pixels), stream.reference
        # One calibration does not describe two images of unlike size.
        across_sizes = self._setup.options.geometry != "essential"
        alike = across_sizes or reference is None or reference.features.image_size == side[1]
        stream.verify = self._verifier(side, side) if alike else None
        frame, pair = stream.process(pixels, image.stamp_ns, image, self._mask(image, pixels))
        return Result([(self._prefixes[image.stream], frame)], [] if pair is None else [pair], image)

    def replay(self, image: SourceImage) -> None:
        self._streams[image.stream].admit(image.stamp_ns)
        if self._wanted.get(image.stream, (None, 0))[0] == image.index:
            self._references[image.stream] = image

    def state(self) -> Any:
        references = {
            name: [None if stream.reference is None else stream.reference.tag.index, stream.served]
            for name, stream in self._streams.items()
        }
        return {"references": references, "counts": dict(self.counts)}

    def restore(self, state: Any) -> None:
        self.counts = Counter(state["counts"])
        self._wanted = {name: (index, served) for name, (index, served) in state["references"].items()}

    def resume(self) -> None:
        for name, (_, served) in self._wanted.items():
            image = self._references.get(name)
            frame = None
            if image is not None:
                pixels = image.decode()
                features = features_of(self._setup.matcher, pixels, self._mask(image, pixels))
                frame = Frame(image.stamp_ns, pixels, features, image)
            self._streams[name].reference, self._streams[name].served = frame, served
        self._references.clear()


class DepthWork(TemporalWork):
    """Images of one camera with earlier ones, and with the depth that belongs to them; only those that have some."""

    def __init__(self, setup: Setup, odometry: RecordedOdometry) -> None:
        super().__init__(setup)
        self._odometry = odometry
        # As the node pairs them.
        self._synchronizer: StereoSynchronizer[SourceImage] = StereoSynchronizer(None, 10)

    def process(self, image: SourceImage) -> Result | None:
        is_depth = image.stream == self._setup.source.depth
        add = self._synchronizer.add_right if is_depth else self._synchronizer.add_left
        pair = add(image.stamp_ns, image)
        self.counts["without depth"] = self._synchronizer.unpaired[0]
        return None if pair is None else self._placed(*pair, image)

    def finish(self) -> list[Callable[[], Result | None]]:
        pairs = self._synchronizer.finish()
        self.counts["without depth"] = self._synchronizer.unpaired[0]
        return [partial(self._placed, *pair, max(pair, key=lambda image: image.received_ns)) for pair in pairs]

    def _placed(self, image: SourceImage, depth: SourceImage, at: SourceImage) -> Result | None:
        # Depth that cannot be read costs its image before that becomes a reference.
        metres = depth.decode()
        result = super().process(image)
        if result is None:
            return None
        return replace(result, image=at, placed=self._odometry.of_frame(result.frames[0][1], metres))


class StereoWork(Pairing):
    """Left with right images of about the same time.

    Raises:
        ConfigError: there are not two streams.
    """

    def __init__(self, setup: Setup, odometry: RecordedOdometry | None) -> None:
        super().__init__(setup)
        options, streams, known = setup.options, setup.source.streams, setup.calibrations.infos
        if len(streams) != 2:
            raise ConfigError(f"mode 'stereo' needs a left and a right stream, got {len(streams)}")
        matcher = setup.matcher
        if options.rectified and options.epipolar_band > 0:
            matcher = matcher.with_settings(matching=replace(matcher.matching, band_px=options.epipolar_band))
        self._has_points = options.points and options.rectified
        if self._has_points and len(known) < 2:
            missing = ", ".join(name for name in streams if name not in known)
            setup.notice(
                f"warning: no points: there is no camera_info beside {missing}, and no calibration file was given"
            )
            self._has_points = False
        self._odometry = odometry
        self._stream = StereoStream(matcher)
        slop_ns = slop_of(options.sync, options.slop_s)
        self._synchronizer: StereoSynchronizer[SourceImage] = StereoSynchronizer(slop_ns, options.queue_size)
        self._finished = False

    def process(self, image: SourceImage) -> Result | None:
        pair = self._add(image)
        return None if pair is None else self._match(*pair, image)

    def finish(self) -> list[Callable[[], Result]]:
        if self._finished:
            return []
        pairs = self._synchronizer.finish()
        self._count()
        self._finished = True
        return [partial(self._match, *pair, max(pair, key=lambda image: image.received_ns)) for pair in pairs]

    def replay(self, image: SourceImage) -> None:
        self._add(image)

    def state(self) -> Any:
        return {"finished": self._finished}

    def restore(self, state: Any) -> None:
        self._finished = state["finished"]

    def _match(self, left: SourceImage, right: SourceImage, image: SourceImage) -> Result:
        pixels = left.decode(), right.decode()
        self._stream.verify = self._verifier(_side(left, pixels[0]), _side(right, pixels[1]))
        masks = self._mask(left, pixels[0]), self._mask(right, pixels[1])
        matched = self._stream.process(*pixels, (left.stamp_ns, right.stamp_ns), (left, right), masks)
        frames = [("left/", matched.reference), ("right/", matched.current)]
        points = placed = None
        if self._has_points:
            setup = self._setup
            points = stereo_points(matched, setup.options, setup.calibrations, setup.source.streams)
        if self._odometry is not None:
            placed = self._odometry.of_pair(matched)
        return Result(frames, [matched], image, points, placed)

    def _add(self, image: SourceImage) -> tuple[SourceImage, SourceImage] | None:
        is_left = image.stream == self._setup.source.streams[0]
        add = self._synchronizer.add_left if is_left else self._synchronizer.add_right
        pair = add(image.stamp_ns, image)
        self._count()
        return pair

    def _count(self) -> None:
        self.counts["without partner"] = sum(self._synchronizer.unpaired)


class ReferenceWork(Pairing):
    """Images with one or several stored ones, which are taken whole; of several streams, each has topics of its own.

    Args:
        setup: of the run.
        references: (name, pixels, EXIF) of the stored images.

    Raises:
        ConfigError: two stored images have the same name.
        ImageError: a stored image cannot be used.
    """

    def __init__(self, setup: Setup, references: Sequence[tuple[str, np.ndarray, Exif]]) -> None:
        super().__init__(setup)
        names = [name for name, _, _ in references]
        if len(set(names)) != len(names):
            raise ConfigError(f"reference images must have names of their own, got {', '.join(names)}")
        self._prefixes = _prefixes(setup.source.streams)
        self._stream = ReferenceStream(setup.matcher, self._verifier(), rotation=setup.options.rotation)
        self._stream.set_references([(stored[1], _tag(i, *stored)) for i, stored in enumerate(references)])

    def begin(self, image: SourceImage) -> bool:
        if image.error:
            return False
        try:
            self._stream.fit(max(image.decode().shape[:2]))
        except ImageError:  # which is told when its turn comes
            return False
        return True

    def state(self) -> Any:
        return {"side": self._stream.side, "served": self._stream.served}

    def restore(self, state: Any) -> None:
        self._stream.fit(state["side"])
        self._stream.resume(state["served"])

    @property
    def references(self) -> tuple[Frame, ...]:
        """The stored images and their features."""
        return self._stream.references

    def process(self, image: SourceImage) -> Result | None:
        pixels = image.decode()
        mask = self._mask(image, pixels)
        frame, pairs = self._stream.process(pixels, image.stamp_ns, image, mask, image.stream)
        return Result([(self._prefixes[image.stream], frame)], pairs, image)


def _side(image: SourceImage, pixels: np.ndarray) -> Side:
    return image.stream, (pixels.shape[0], pixels.shape[1])


def _prefixes(streams: Sequence[str]) -> dict[str, str]:
    return {name: "" if len(streams) == 1 else f"{name.strip('/')}/" for name in streams}


def _tag(number: int, name: str, pixels: np.ndarray, exif: Exif) -> SourceImage:
    tag = SourceImage(-1 - number, "reference", f"reference/{name}", 0, 0, "", lambda: pixels)
    return replace(tag, stored_name=name, exif=lambda: exif)
