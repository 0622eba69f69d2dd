"""One run: images of a recording in, keypoints, descriptors and matches out, as the nodes publish them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semantic_matcher_core.errors import BagError, ConfigError, ImageError, OutputError
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.messages import (
    COMPRESSED_IMAGE,
    compressed_image_message,
    descriptors_message,
    header_message,
    keypoints_message,
    matches_message,
    typestore,
)
from semantic_matcher_core.offline.exports import FRAME_TOPIC, INTERNAL, PAIR_TOPIC, Exports, write_exports
from semantic_matcher_core.offline.pairing import MODES, Pairing, ReferenceWork, Result, StereoWork, TemporalWork
from semantic_matcher_core.offline.work_folder import WorkFolder
from semantic_matcher_core.streams import TemporalPairing

if TYPE_CHECKING:
    from semantic_matcher_core.offline.sources import ImageSource, SourceImage
    from semantic_matcher_core.pipeline import SemanticMatcher
    from semantic_matcher_core.streams import Frame, Verifier

RUN_INFO_TOPIC = "/semantic_matcher/run"
IMAGE_CHOICES = ("jpeg", "none")
_STRING = "std_msgs/msg/String"


@dataclass(frozen=True)
class RunOptions:
    """What a run does; the same options on the same recording give the same file.

    Attributes:
        mode: ``temporal``, ``stereo`` or ``reference``.
        pairing: which earlier image, in temporal mode.
        slop_s: largest difference between left and right stamps in seconds, in stereo mode.
        queue_size: images of each side that wait for their partner, in stereo mode.
        geometry: ``None``, ``"homography"`` or ``"fundamental"``.
        geometry_threshold: largest distance of an inlier from the model, in pixels.
        descriptors: write descriptors as well; they are large.
        images: ``"jpeg"`` to write the images beside the results, or ``"none"``.
        jpeg_quality: 1 to 100.
        namespace: put before all topics, as a node's namespace is.
    """

    mode: str = "temporal"
    pairing: TemporalPairing = field(default_factory=TemporalPairing)
    slop_s: float = 0.0
    queue_size: int = 10
    geometry: str | None = None
    geometry_threshold: float = 2.0
    descriptors: bool = False
    images: str = "jpeg"
    jpeg_quality: int = 90
    namespace: str = ""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"unknown mode {self.mode!r}; use one of {', '.join(MODES)}")
        if self.images not in IMAGE_CHOICES:
            raise ConfigError(f"unknown choice of images {self.images!r}; use one of {', '.join(IMAGE_CHOICES)}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"jpeg_quality must be from 1 to 100, got {self.jpeg_quality}")


@dataclass(kw_only=True)
class Progress:
    """How far a run is.

    Attributes:
        done: images of the recording that are dealt with, those of an earlier run included.
        resumed: how many of them an earlier run did.
        total: images of the recording, or ``None`` where that is not known.
        frames, pairs, matches: written so far.
        left_out: images without a result, by reason.
    """

    done: int = 0
    resumed: int = 0
    total: int | None = None
    frames: int = 0
    pairs: int = 0
    matches: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RunHooks:
    """What a run tells while it goes on; both may be left out."""

    progress: Callable[[Progress], None] = lambda progress: None
    notice: Callable[[str], None] = lambda text: None


def run(
    source: ImageSource,
    matcher: SemanticMatcher,
    output: Path,
    options: RunOptions,
    *,
    references: tuple[Path, ...] = (),
    exports: Exports | None = None,
    overwrite: bool = False,
    part_seconds: float = 15.0,
    hooks: RunHooks | None = None,
) -> Progress:
    """Match the images of a recording and write the results to an MCAP file.

    The file holds, under the names that the node of the same mode uses, Keypoints, Matches, Descriptors and the images
    as JPEG, stamped like the images they came from, and one std_msgs/String on ``/semantic_matcher/run`` that says in
    JSON how it was made. An interrupted run is resumed by the same call, and ends with the same bytes.

    Args:
        source: the recording.
        matcher: what matches.
        output: a file name ending in ``.mcap``; it appears when the run is complete.
        options: what to do.
        references: image files to match with, in reference mode.
        exports: further files to make of the results.
        overwrite: replace a file that is there; otherwise a complete result of the same run is left as it is.
        part_seconds: how much work an interruption may lose.
        hooks: what to call as the run goes on.

    Raises:
        BagError, ImageError: the recording is damaged or gives no usable image. Single images that cannot be decoded
            are counted and left out.
        OutputError: the output cannot be written, or another file has its name.
        ConfigError: options contradict each other or the recording.
    """
    hooks, exports = hooks or RunHooks(), exports or Exports()
    info = _run_info(source, matcher, options, references)
    if output.exists() and not overwrite:
        _require_complete(output, info, exports)
        hooks.notice(f"{output} is complete already")
        return Progress(done=source.total or 0, resumed=source.total or 0, total=source.total)
    exports.prepare()
    pairing = _pairing(source, matcher, options, references)
    key = {"info": info, "environment": _environment(matcher), "exports": [p is not None for p in exports.paths()]}
    with WorkFolder(output, key) as work:
        if work.restarted:
            hooks.notice(f"{work.folder} was of another run (options, weights or software differ); starting anew")
        publisher = _Publisher(work, matcher, options, exports, info)
        progress = _process(source, pairing, work, publisher, part_seconds, hooks)
        if progress.frames == 0:
            raise ImageError(f"{source.path} gave no usable image: {_reasons(progress)}")
        work.assemble(lambda topic: not topic.startswith(INTERNAL))
        if exports.any:
            write_exports(exports, matcher.variant, work.messages())
        work.publish()
    return progress


def read_run_info(path: Path) -> dict[str, Any] | None:
    """How a file was made, or ``None`` where it does not say (a recording of the nodes).

    Raises:
        BagError: the file is no bag, or damaged.
    """
    with BagReader(path) as bag:
        for message in bag.messages([RUN_INFO_TOPIC]):
            try:
                return json.loads(message.message.data)
            except (AttributeError, ValueError) as error:
                raise BagError(f"{path} has something else than a run's description on {RUN_INFO_TOPIC}") from error
    return None


def model_digest(matcher: SemanticMatcher) -> str:
    """SHA-256 of all the matcher's weights, by name; the same on every machine."""
    import torch

    total = hashlib.sha256()
    for name, tensor in sorted(matcher.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        total.update(f"{name}\0{array.dtype}\0{tuple(array.shape)}\0".encode())
        total.update(array.flatten().view(torch.uint8).numpy())
    return total.hexdigest()


def _process(
    source: ImageSource,
    pairing: Pairing,
    work: WorkFolder,
    publisher: _Publisher,
    part_seconds: float,
    hooks: RunHooks,
) -> Progress:
    progress = Progress(total=source.total)
    if work.state is not None:
        saved = work.state
        progress.resumed, progress.frames = saved["done"], saved["frames"]
        progress.pairs, progress.matches = saved["pairs"], saved["matches"]
        progress.left_out = dict(saved["left_out"])
        pairing.restore(saved["pairing"])
        hooks.notice(f"going on after {progress.resumed} images of an earlier run")
    begun = time.monotonic()
    new = False
    for image in source.images():
        publisher.clock = max(publisher.clock, image.received_ns)
        if progress.done < progress.resumed:
            pairing.replay(image)
            progress.done += 1
            hooks.progress(progress)
            continue
        if progress.done == progress.resumed and progress.resumed:
            pairing.resume()
        if progress.done == 0:
            publisher.begin(pairing)
        try:
            result = pairing.process(image)
        except ImageError as error:
            hooks.notice(f"left out: {error}")
            progress.left_out["unreadable"] = progress.left_out.get("unreadable", 0) + 1
        else:
            if result is not None:
                publisher.publish(result, pairing.mode)
                progress.frames += len(result.frames)
                progress.pairs += len(result.pairs)
                progress.matches += sum(len(pair.matches) for pair in result.pairs)
        progress.done += 1
        progress.left_out.update(pairing.counts)
        new = True
        hooks.progress(progress)
        if time.monotonic() - begun >= part_seconds:
            work.commit(_state(progress, pairing))
            begun, new = time.monotonic(), False
    if new:
        work.commit(_state(progress, pairing))
    return progress


def _state(progress: Progress, pairing: Pairing) -> dict[str, Any]:
    return {
        "done": progress.done,
        "frames": progress.frames,
        "pairs": progress.pairs,
        "matches": progress.matches,
        "left_out": progress.left_out,
        "pairing": pairing.state(),
    }


class _Publisher:
    """Writes results under the node's topics.

    Attributes:
        clock: time of recording, never going back, of what is written next.
    """

    def __init__(
        self,
        work: WorkFolder,
        matcher: SemanticMatcher,
        options: RunOptions,
        exports: Exports,
        info: dict[str, Any],
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

    def publish(self, result: Result, mode: str) -> None:
        for prefix, frame in result.frames:
            self._frame(prefix, frame)
        for pair in result.pairs:
            header, reference_header = _header(pair.current.tag), _header(pair.reference.tag)
            topic = f"{self._node}/{self._pair_prefix(result)}matches"
            self._note(PAIR_TOPIC, name0=pair.reference.tag.name, name1=pair.current.tag.name)
            self._work.write(topic, matches_message(pair.matches, mode, header, reference_header), self.clock)

    def _pair_prefix(self, result: Result) -> str:
        # Of several cameras each has matches of its own; left and right share theirs.
        return result.frames[0][0] if self._options.mode == "temporal" else ""

    def _frame(self, prefix: str, frame: Frame) -> None:
        image: SourceImage = frame.tag
        header = _header(image)
        self._note(FRAME_TOPIC, name=image.name, camera=image.stream)
        keep = self._options.images == "jpeg"
        if keep or (self._exports.colmap is not None and self._exports.colmap_images):
            topic = f"{self._node}/{prefix}image" if prefix == "reference/" else f"/{image.stream.strip('/')}"
            topic = topic.removesuffix("/compressed") + "/compressed"
            message = _compressed(image, frame, header, self._options.jpeg_quality)
            self._work.write(topic if keep else f"{INTERNAL}/image", message, self.clock)
        self._work.write(f"{self._node}/{prefix}keypoints", keypoints_message(frame.features, header), self.clock)
        keep = self._options.descriptors
        if keep or self._exports.features is not None:
            topic = f"{self._node}/{prefix}descriptors" if keep else f"{INTERNAL}/descriptors"
            self._work.write(topic, descriptors_message(frame.features, self._variant, header), self.clock)

    def _note(self, topic: str, **content: str) -> None:
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


def _pairing(
    source: ImageSource, matcher: SemanticMatcher, options: RunOptions, references: tuple[Path, ...]
) -> Pairing:
    verify = _verifier(options)
    if (options.mode == "reference") != bool(references):
        raise ConfigError(
            "mode 'reference' needs reference images (--reference)"
            if options.mode == "reference"
            else f"reference images are of no use in mode {options.mode!r}"
        )
    if options.mode == "stereo":
        if len(source.streams) != 2:
            raise ConfigError(f"mode 'stereo' needs a left and a right stream, got {len(source.streams)}")
        slop = round(options.slop_s * 1e9)
        left, right = source.streams
        return StereoWork(matcher, left, right, slop_ns=slop, queue_size=options.queue_size, verify=verify)
    if options.mode == "reference":
        from semantic_matcher_core.io.images import read_image

        return ReferenceWork(matcher, source.streams, [(path.name, read_image(path)) for path in references], verify)
    return TemporalWork(matcher, source.streams, options.pairing, verify)


def _verifier(options: RunOptions) -> Verifier | None:
    if options.geometry is None:
        return None
    from functools import partial

    from semantic_matcher_core.matching.verification import verify

    return partial(verify, kind=options.geometry, threshold_px=options.geometry_threshold)


def _run_info(
    source: ImageSource, matcher: SemanticMatcher, options: RunOptions, references: tuple[Path, ...]
) -> dict[str, Any]:
    from semantic_matcher_core import __version__

    info = {
        "program": f"semantic-matcher {__version__}",
        "source": {"name": source.path.resolve().name, "streams": list(source.streams), "digest": source.digest()},
        "variant": matcher.variant,
        "weights_sha256": model_digest(matcher),
        "precision": matcher.precision,
        "max_keypoints": matcher.extractor.max_keypoints,
        "matching": asdict(matcher.matching),
        "options": asdict(options),
        "references": [{"name": p.name, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()} for p in references],
    }
    return json.loads(json.dumps(info))


def _environment(matcher: SemanticMatcher) -> dict[str, Any]:
    """What may change a result in its last digits: parts made elsewhere do not fit."""
    import cv2
    import numpy as np
    import torch

    return {
        "device": str(matcher.device.type),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }


def _require_complete(output: Path, info: dict[str, Any], exports: Exports) -> None:
    try:
        there = read_run_info(output)
    except BagError:
        there = None
    if there != info:
        raise OutputError(f"{output} is there already, and not of this run; use --overwrite, or another name")
    if missing := exports.missing():
        raise OutputError(f"{output} is complete, but {missing[0]} is not there; --overwrite makes both anew")


def _reasons(progress: Progress) -> str:
    named = [f"{count} {reason}" for reason, count in progress.left_out.items() if count]
    return ", ".join(named) or "it holds none"
