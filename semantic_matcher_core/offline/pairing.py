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
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.io.exif import Exif
from semantic_matcher_core.io.masks import Mask
from semantic_matcher_core.offline.calibration import Points, Side
from semantic_matcher_core.offline.odometry import Placed
from semantic_matcher_core.offline.sources import SourceImage
from semantic_matcher_core.streams import (
    FeatureMatcher,
    Frame,
    MatchedPair,
    ReferenceStream,
    StereoStream,
    StereoSynchronizer,
    TemporalPairing,
    TemporalStream,
    Verifier,
    features_of,
)

T = TypeVar("T")


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


VerifierOf = Callable[[Side, Side], Verifier | None]
"""The geometric check for two images; ``None`` for none."""
Masks = Mapping[str, Mask | None]
"""Where keypoints of the images of a stream are wanted; ``None`` for everywhere."""
NO_MASKS: Masks = MappingProxyType({})
PointsOf = Callable[[MatchedPair], Points | None]


class Pairing(ABC):
    """One mode of work.

    Attributes:
        counts: images that were left out, by reason.
    """

    mode: str

    def __init__(self, masks: Masks = NO_MASKS) -> None:
        self.counts: Counter[str] = Counter()
        self._masks = masks

    @abstractmethod
    def process(self, image: SourceImage) -> Result | None:
        """Work on the next image; ``None`` where it gives nothing.

        Raises:
            ImageError: the image cannot be decoded; it counts as not recorded.
        """

    def _mask(self, image: SourceImage, pixels: np.ndarray) -> np.ndarray | None:
        """Return where keypoints of an image are wanted; raises ImageError where its mask is of another size."""
        mask = self._masks.get(image.stream)
        return None if mask is None else mask.of_size(_side(image, pixels)[1])

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


class _ResumableTemporalStream(TemporalStream):
    """A temporal stream that can be put where another one stood."""

    @property
    def served(self) -> int:
        return self._served

    def put(self, reference: Frame | None, served: int) -> None:
        self.reference, self._served = reference, served


class TemporalWork(Pairing):
    """Each stream's images with earlier ones of the same stream.

    Args:
        matcher: features and matches.
        streams: names of the streams; with several, each has topics of its own.
        pairing: which earlier image.
        verify: gives the geometric check.
        across_sizes: the check holds for two images of unlike size as well; else such pairs are not checked, because
            one calibration does not describe both.
        masks: of the streams.
    """

    mode = "temporal"

    def __init__(
        self,
        matcher: FeatureMatcher,
        streams: Sequence[str],
        pairing: TemporalPairing,
        verify: VerifierOf,
        *,
        across_sizes: bool = True,
        masks: Masks = NO_MASKS,
    ) -> None:
        super().__init__(masks)
        self._matcher = matcher
        self._verify, self._across_sizes = verify, across_sizes
        self._streams = {name: _ResumableTemporalStream(matcher, pairing) for name in streams}
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
        alike = self._across_sizes or reference is None or reference.features.image_size == side[1]
        stream.verify = self._verify(side, side) if alike else None
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
                features = features_of(self._matcher, pixels, self._mask(image, pixels))
                frame = Frame(image.stamp_ns, pixels, features, image)
            self._streams[name].put(frame, served)
        self._references.clear()


class DepthWork(TemporalWork):
    """Images of one camera with earlier ones, and with the depth that belongs to them; only those that have some.

    Args:
        matcher, streams, pairing, verify, across_sizes, masks: as for :class:`TemporalWork`, of one stream.
        depth: name of the stream of depth.
        place: says where the camera is that took a frame with its depth.
    """

    def __init__(
        self,
        matcher: FeatureMatcher,
        streams: Sequence[str],
        pairing: TemporalPairing,
        verify: VerifierOf,
        *,
        depth: str,
        place: Callable[[Frame, np.ndarray], Placed | None],
        across_sizes: bool = True,
        masks: Masks = NO_MASKS,
    ) -> None:
        super().__init__(matcher, streams, pairing, verify, across_sizes=across_sizes, masks=masks)
        self._depth, self._place = depth, place
        # As the node pairs them.
        self._synchronizer: StereoSynchronizer[SourceImage] = StereoSynchronizer(None, 10)

    def process(self, image: SourceImage) -> Result | None:
        add = self._synchronizer.add_right if image.stream == self._depth else self._synchronizer.add_left
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
        return replace(result, image=at, placed=self._place(result.frames[0][1], metres))


class StereoWork(Pairing):
    """Left with right images of about the same time.

    Args:
        matcher: features and matches.
        left: name of the stream of left images.
        slop_ns: largest difference between the stamps of a pair; ``None`` leaves it to the frame period.
        queue_size: images of each side that wait for their partner.
        verify: gives the geometric check.
        points: gives the points in space of a pair, or ``None``.
        place: says where the left camera is, or ``None``.
        masks: of the two streams.
    """

    mode = "stereo"

    def __init__(
        self,
        matcher: FeatureMatcher,
        left: str,
        *,
        slop_ns: int | None = 0,
        queue_size: int = 10,
        verify: VerifierOf = lambda left, right: None,
        points: PointsOf = lambda pair: None,
        place: Callable[[MatchedPair], Placed | None] = lambda pair: None,
        masks: Masks = NO_MASKS,
    ) -> None:
        super().__init__(masks)
        self._stream = StereoStream(matcher)
        self._place = place
        self._verify, self._points = verify, points
        self._synchronizer: StereoSynchronizer[SourceImage] = StereoSynchronizer(slop_ns, queue_size)
        self._left = left
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
        self._stream.verify = self._verify(_side(left, pixels[0]), _side(right, pixels[1]))
        masks = self._mask(left, pixels[0]), self._mask(right, pixels[1])
        matched = self._stream.process(*pixels, (left.stamp_ns, right.stamp_ns), (left, right), masks)
        frames = [("left/", matched.reference), ("right/", matched.current)]
        return Result(frames, [matched], image, self._points(matched), self._place(matched))

    def _add(self, image: SourceImage) -> tuple[SourceImage, SourceImage] | None:
        add = self._synchronizer.add_left if image.stream == self._left else self._synchronizer.add_right
        pair = add(image.stamp_ns, image)
        self._count()
        return pair

    def _count(self) -> None:
        self.counts["without partner"] = sum(self._synchronizer.unpaired)


class ReferenceWork(Pairing):
    """Images with one or several stored ones.

    Args:
        matcher: features and matches.
        streams: names of the streams; with several, each has topics of its own.
        references: (name, pixels, EXIF) of the stored images.
        verify: geometric check, or ``None``.
        rotation: how images may be turned against the stored ones.
        masks: of the streams; stored images are taken whole.

    Raises:
        ConfigError: two stored images have the same name.
        ImageError: a stored image cannot be used.
    """

    mode = "reference"

    def __init__(
        self,
        matcher: FeatureMatcher,
        streams: Sequence[str],
        references: Sequence[tuple[str, np.ndarray, Exif]],
        verify: Verifier | None,
        rotation: str = "upright",
        masks: Masks = NO_MASKS,
    ) -> None:
        super().__init__(masks)
        names = [name for name, _, _ in references]
        if len(set(names)) != len(names):
            raise ConfigError(f"reference images must have names of their own, got {', '.join(names)}")
        self._prefixes = _prefixes(streams)
        self._stream = ReferenceStream(matcher, verify, rotation=rotation)
        tagged = [
            (
                pixels,
                SourceImage(
                    -1 - i,
                    "reference",
                    f"reference/{name}",
                    0,
                    0,
                    "",
                    _constant(pixels),
                    stored_name=name,
                    exif=_constant(exif),
                ),
            )
            for i, (name, pixels, exif) in enumerate(references)
        ]
        self._stream.set_references(tagged)

    @property
    def references(self) -> tuple[Frame, ...]:
        """The stored images and their features."""
        return self._stream.references

    def process(self, image: SourceImage) -> Result | None:
        pixels = image.decode()
        frame, pairs = self._stream.process(pixels, image.stamp_ns, image, self._mask(image, pixels))
        return Result([(self._prefixes[image.stream], frame)], pairs, image)


def _side(image: SourceImage, pixels: np.ndarray) -> Side:
    return image.stream, (pixels.shape[0], pixels.shape[1])


def _prefixes(streams: Sequence[str]) -> dict[str, str]:
    return {name: "" if len(streams) == 1 else f"{name.strip('/')}/" for name in streams}


def _constant(value: T) -> Callable[[], T]:
    return lambda: value
