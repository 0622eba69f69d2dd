"""One run: images of a recording in, keypoints, descriptors and matches out, as the nodes publish them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semantic_matcher_core.errors import BagError, ConfigError, ImageError, OutputError
from semantic_matcher_core.io.atomic import check_output
from semantic_matcher_core.io.exif import read_exif
from semantic_matcher_core.io.masks import read_masks
from semantic_matcher_core.io.names import readable
from semantic_matcher_core.io.run_info import read_run_info
from semantic_matcher_core.offline.calibration import Calibrations, verifier
from semantic_matcher_core.offline.exports import INTERNAL, Exports, write_exports
from semantic_matcher_core.offline.odometry import RecordedOdometry
from semantic_matcher_core.offline.options import RunOptions
from semantic_matcher_core.offline.pairing import (
    DepthWork,
    Pairing,
    ReferenceWork,
    Result,
    Setup,
    StereoWork,
    TemporalWork,
)
from semantic_matcher_core.offline.publisher import Publisher
from semantic_matcher_core.offline.run_info import environment, run_info
from semantic_matcher_core.offline.work_folder import WorkFolder

if TYPE_CHECKING:
    from semantic_matcher_core.offline.sources import ImageSource, SourceImage
    from semantic_matcher_core.pipeline import SemanticMatcher

# Of a run's progress, what a later run goes on counting from.
_COUNTS = ("frames", "pairs", "matches", "empty", "left_out", "unreadable")
# Of images that cannot be used: a recording may be full of them, all for one reason.
_MOST_NAMED = 20


@dataclass(kw_only=True)
class Progress:
    """How far a run is.

    Attributes:
        done: images of the recording that are dealt with, those of an earlier run included.
        resumed: how many of them an earlier run did.
        total: images of the recording, or ``None`` where that is not known.
        frames, pairs, matches: written so far.
        left_out: images without a result, by reason.
        problems: what is missing of the recording itself, one sentence each.
        unreadable: what was wrong with the newest image that could not be used.
        empty: images in which no keypoints were found.
    """

    done: int = 0
    resumed: int = 0
    total: int | None = None
    frames: int = 0
    pairs: int = 0
    matches: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unreadable: str = ""
    empty: int = 0


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
    calibration: tuple[Path, ...] = (),
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
        calibration: calibration files of the streams' cameras, in their order; none for what is recorded.
        exports: further files to make of the results.
        overwrite: replace a file that is there; otherwise a complete result of the same run is left as it is.
        part_seconds: how much work an interruption may lose; with odometry all of it.
        hooks: what to call as the run goes on.

    Raises:
        BagError, ImageError: the recording is damaged or gives no usable image. Single images that cannot be decoded
            are counted and left out.
        OutputError: the output cannot be written, or another file has its name.
        ConfigError: options contradict each other or the recording.
    """
    hooks, exports = hooks or RunHooks(), exports or Exports()
    read = [*source.files(), *references, *calibration, *map(Path, options.mask)]
    for written in (output, exports.features, exports.matches):
        if written is not None:
            check_output(written, read)
    info = run_info(source, matcher, options, references, exports, calibration)
    if output.exists() and not overwrite:
        _require_complete(output, info, exports)
        hooks.notice(f"{output} is complete already")
        return Progress(done=source.total or 0, resumed=source.total or 0, total=source.total)
    exports.prepare(matcher)
    masks = dict(zip(source.streams, read_masks(options.mask, len(source.streams)), strict=True))
    setup = Setup(source, matcher, options, Calibrations.of(source, calibration), masks, hooks.notice)
    odometry = _odometry(setup)
    if odometry is not None:
        # Where a camera is rests on all that was before: such a run is made in one go.
        part_seconds = math.inf
    pairing = _pairing(setup, references, odometry)
    key = {"info": info, "environment": environment(matcher)}
    with WorkFolder(output, key) as work:
        if work.restarted:
            hooks.notice(f"{work.folder} was of another run (options, weights or software differ); starting anew")
        publisher = Publisher(work, matcher, options, exports, info)
        progress = _process(source, pairing, work, publisher, part_seconds, hooks)
        if progress.frames == 0:
            raise ImageError(f"{source.path} gave no usable image: {_reasons(progress)}")
        work.assemble(lambda topic: not topic.startswith(INTERNAL))
        if exports.any:
            _write_exports(exports, setup, work)
        work.publish()
        if odometry is not None:
            odometry.write(output)
            hooks.notice(odometry.summary())
    return progress


def _odometry(setup: Setup) -> RecordedOdometry | None:
    source, options = setup.source, setup.options
    if not options.odometry:
        if source.depth:
            raise ConfigError(f"depth ({source.depth}) is for --odometry; give both")
        return None
    if options.mode == "stereo" and source.depth:
        raise ConfigError("--odometry by stereo takes no depth: leave it out, or use --mode temporal and one camera")
    if options.mode == "temporal" and not source.depth:
        raise ConfigError(
            "--odometry needs depth that is registered to the images (bag: --depth-topic, images: --depth), or stereo "
            "(--mode stereo --rectified)"
        )
    expected = 2 if options.mode == "stereo" else 1
    if len(source.streams) != expected:
        what = "a left and a right stream" if expected == 2 else "the images of one camera"
        raise ConfigError(f"--odometry needs {what}, got {len(source.streams)}: {', '.join(source.streams)}")
    setup.calibrations.require(source, "--odometry")
    return RecordedOdometry(setup.matcher, options, setup.calibrations, source.streams)


def _process(
    source: ImageSource, pairing: Pairing, work: WorkFolder, publisher: Publisher, part_seconds: float, hooks: RunHooks
) -> Progress:
    progress = Progress(total=source.total)
    if work.state is not None:
        counts = {name: work.state[name] for name in _COUNTS if name in work.state}
        progress = replace(progress, resumed=work.state["done"], **counts)
        pairing.restore(work.state["pairing"])
        hooks.notice(f"going on after {progress.resumed} images of an earlier run")
    begun = time.monotonic()
    new, has_begun = False, progress.resumed > 0
    for image in source.images():
        publisher.clock = max(publisher.clock, image.received_ns)
        if progress.done < progress.resumed:
            if not image.error:
                pairing.replay(image)
            progress.done += 1
            hooks.progress(progress)
            continue
        if progress.done == progress.resumed and progress.resumed:
            pairing.resume()
        if not has_begun and (has_begun := pairing.begin(image)):
            publisher.begin(pairing)
        _give(partial(_work_on, image, pairing), publisher, progress, hooks)
        progress.done += 1
        progress.left_out.update(pairing.counts)
        new = has_begun
        _tell_problems(source, progress, hooks)
        hooks.progress(progress)
        if new and time.monotonic() - begun >= part_seconds:
            work.commit(_state(progress, pairing))
            begun, new = time.monotonic(), False
    if progress.done:
        for work_left in pairing.finish():
            _give(work_left, publisher, progress, hooks)
            new = True
        progress.left_out.update(pairing.counts)
    if new:
        work.commit(_state(progress, pairing))
    # What a reader finds missing at the end of a recording comes after its last image.
    _tell_problems(source, progress, hooks)
    return progress


def _tell_problems(source: ImageSource, progress: Progress, hooks: RunHooks) -> None:
    for text in source.problems[len(progress.problems) :]:
        hooks.notice(f"warning: {text}")
        progress.problems.append(text)


def _work_on(image: SourceImage, pairing: Pairing) -> Result | None:
    if image.error:
        raise ImageError(image.error)
    return pairing.process(image)


def _give(work_on: Callable[[], Result | None], publisher: Publisher, progress: Progress, hooks: RunHooks) -> None:
    """Publish and count what comes of an image; one that cannot be decoded is counted and left out."""
    try:
        result = work_on()
    except ImageError as error:
        count = progress.left_out.get("unreadable", 0) + 1
        progress.unreadable = str(error)
        progress.left_out["unreadable"] = count
        if count <= _MOST_NAMED:
            hooks.notice(f"left out: {error}")
        elif count == _MOST_NAMED + 1:
            hooks.notice("left out: more than these; they are only counted from here on")
        return
    if result is not None:
        publisher.publish(result)
        progress.frames += len(result.frames)
        progress.empty += sum(frame.features.keypoints.shape[1] == 0 for _, frame in result.frames)
        progress.pairs += len(result.pairs)
        progress.matches += sum(len(pair.matches) for pair in result.pairs)


def _state(progress: Progress, pairing: Pairing) -> dict[str, Any]:
    counts = {name: getattr(progress, name) for name in _COUNTS}
    return {"done": progress.done, **counts, "pairing": pairing.state()}


def _pairing(setup: Setup, references: tuple[Path, ...], odometry: RecordedOdometry | None) -> Pairing:
    options = setup.options
    if (options.mode == "reference") != bool(references):
        raise ConfigError(
            "mode 'reference' needs reference images (--reference)"
            if options.mode == "reference"
            else f"reference images are of no use in mode {options.mode!r}"
        )
    if options.geometry == "essential":
        setup.calibrations.require(setup.source, "geometry 'essential'")
    if options.mode == "stereo":
        return StereoWork(setup, odometry)
    if options.mode == "reference":
        from semantic_matcher_core.io.images import decode_image, read_bytes

        data = [(path, read_bytes(path)) for path in references]
        stored = [(readable(path.name), decode_image(raw, name=str(path)), read_exif(raw)) for path, raw in data]
        return ReferenceWork(setup, stored)
    return TemporalWork(setup) if odometry is None else DepthWork(setup, odometry)


def _write_exports(exports: Exports, setup: Setup, work: WorkFolder) -> None:
    options = setup.options
    # Further pairs are of one scene that does not move; COLMAP finds the essential matrix itself where it can.
    kind = options.geometry if options.geometry in ("homography", "fundamental") else "fundamental"
    check = verifier(replace(options, geometry=kind))
    assert check is not None
    cameras = setup.calibrations.intrinsics(options.rectified) if exports.colmap is not None else {}
    write_exports(exports, setup.matcher, work.messages(), check, cameras, setup.notice)


def _require_complete(output: Path, info: dict[str, Any], exports: Exports) -> None:
    try:
        there = read_run_info(output)
    except BagError:
        there = None
    if there is None or {**there, "exports": 0} != {**info, "exports": 0}:
        raise OutputError(f"{output} is there already, and not of this run; use --overwrite, or another name")
    if missing := exports.missing():
        raise OutputError(f"{output} is complete, but {missing[0]} is not there; --overwrite makes both anew")
    if exports.any and there.get("exports") != info.get("exports"):
        raise OutputError(f"{output} is complete, but its exports were made with other options; use --overwrite")


def _reasons(progress: Progress) -> str:
    named = [f"{count} {reason}" for reason, count in progress.left_out.items() if count] + progress.problems
    last = f"; the last one: {progress.unreadable}" if progress.unreadable else ""
    return (", ".join(named) or "it holds none") + last
