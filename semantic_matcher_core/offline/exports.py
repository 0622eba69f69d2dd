"""Results in the files of other tools: HDF5 as hloc has it, and a COLMAP project."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.io.atomic import atomic_output, check_output, make_folder
from semantic_matcher_core.io.colmap import ColmapWriter, Intrinsics
from semantic_matcher_core.io.exif import to_stored, turns
from semantic_matcher_core.io.features_file import FeaturesWriter
from semantic_matcher_core.io.matches_file import MatchesWriter
from semantic_matcher_core.io.messages import (
    COMPRESSED_IMAGE,
    DESCRIPTORS,
    KEYPOINTS,
    MATCHES,
    descriptors_of,
    matches_of,
    typestore,
)
from semantic_matcher_core.io.stored import as_stored, model_as_stored, transformed
from semantic_matcher_core.offline.pair_choice import PairChoice
from semantic_matcher_core.types import Features, Matches

if TYPE_CHECKING:
    from semantic_matcher_core.pipeline import SemanticMatcher
    from semantic_matcher_core.streams import Verifier

# Messages on topics below this one are for the exports, and do not get into the output.
INTERNAL = "/_work"
FRAME_TOPIC = f"{INTERNAL}/frame"
PAIR_TOPIC = f"{INTERNAL}/pair"


@dataclass(frozen=True)
class Exports:
    """Further outputs of a run.

    Attributes:
        features: HDF5 file of keypoints and of the descriptors that matching compares (see ``io.features_file``).
        matches: HDF5 file of matches (see ``io.matches_file``).
        colmap: folder that gets ``database.db``, and with ``colmap_images`` the images below ``images``.
        colmap_images: write the images as well; image files that exist already need no copy.
        half: store descriptors in 16 bits.
        pairs: which pairs of images they hold beside those that the run matched.
        camera: intrinsics of all images in the COLMAP project; ``None`` for what the recording or EXIF says.
    """

    features: Path | None = None
    matches: Path | None = None
    colmap: Path | None = None
    colmap_images: bool = True
    half: bool = False
    pairs: PairChoice = field(default_factory=PairChoice)
    camera: Intrinsics | None = None

    @property
    def any(self) -> bool:
        """Whether anything is wanted."""
        return any(path is not None for path in self.paths())

    def paths(self) -> list[Path | None]:
        """Return the files that appear, as far as they are wanted."""
        return [self.features, self.matches, None if self.colmap is None else self.colmap / "database.db"]

    @property
    def matches_further_pairs(self) -> bool:
        """Whether pairs beyond those of the run are matched."""
        return self.any and self.pairs.kind != "matched"

    @property
    def needs_descriptors(self) -> bool:
        """Whether the exports are made of descriptors, so that a run must keep them until its end."""
        return self.features is not None or self.matches_further_pairs

    def settings(self) -> dict[str, Any]:
        """Return what decides their content (JSON)."""
        return {
            "wanted": [path is not None for path in self.paths()],
            "colmap_images": self.colmap_images,
            "half": self.half,
            "pairs": self.pairs.settings(),
            "camera": None if self.camera is None else asdict(self.camera),
        }

    def missing(self) -> list[Path]:
        """Wanted files that are not there."""
        return [path for path in self.paths() if path is not None and not path.exists()]

    def prepare(self, matcher: SemanticMatcher) -> None:
        """Fail early where something can never be written or matched.

        Raises:
            OutputError: a folder is missing or not writable.
            ConfigError: LightGlue needs more of features than is recorded of them.
        """
        if self.colmap is not None:
            check_output(self.colmap / "database.db" if self.colmap.is_dir() else self.colmap)
        lightglue = matcher.lightglue if matcher.matching.matcher == "lightglue" else None
        if lightglue is None or not self.matches_further_pairs:
            return
        if lightglue.published.architecture.scale_and_orientation:
            raise ConfigError(
                f"LightGlue for {lightglue.extractor!r} needs scales and orientations, which recorded features lack; "
                "match further pairs for --hdf5 and --colmap with --matcher nearest, or choose --pairs matched"
            )


def write_exports(
    exports: Exports,
    matcher: SemanticMatcher,
    messages: Iterable[tuple[str, str, int, bytes]],
    verify: Verifier,
    cameras: Mapping[str, Intrinsics],
    notice: Callable[[str], None],
) -> None:
    """Make the files of a run's messages.

    Keypoints and models are those of the files as they are stored, whatever turn their EXIF asks for: that is what the
    tools that read the exports see.

    Args:
        exports: what is wanted.
        matcher: what made the features; it matches the further pairs.
        messages: (topic, msgtype, time, CDR data) in the order they were written: a note on :data:`FRAME_TOPIC`, then
            the frame's image, keypoints and descriptors; a note on :data:`PAIR_TOPIC`, then the pair's matches.
        verify: geometric check of further pairs, and for COLMAP of pairs that the run did not check: COLMAP maps only
            what was verified.
        cameras: intrinsics by stream, where they are known.
        notice: is told what of the wanted pairs is missing.

    Raises:
        OutputError: the disk is full, or a folder cannot be made. What is complete stays.
    """
    with contextlib.ExitStack() as stack:
        sink = _Sink(exports, matcher, stack, verify, cameras)
        note: dict[str, Any] = {}
        for topic, msgtype, _, data in messages:
            if topic in (FRAME_TOPIC, PAIR_TOPIC):
                note = json.loads(typestore().deserialize_cdr(data, msgtype).data)  # type: ignore[attr-defined]
                if topic == FRAME_TOPIC:
                    sink.finish_frame()
            elif msgtype in sink.takers and note:
                sink.takers[msgtype](note, typestore().deserialize_cdr(data, msgtype))
        sink.finish_frame()
        unknown = sorted(set(exports.pairs.names()) - sink.names)
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            notice(f"warning: the list of pairs names images that are not here: {', '.join(unknown[:3])}{more}")


@dataclass(frozen=True, eq=False)
class _FrameInfo:
    """What is kept of a frame: its way into the file's pixels, its number of keypoints, and its features."""

    name: str
    to_stored: np.ndarray
    count: int
    features: Features | None = None


class _Sink:
    def __init__(
        self,
        exports: Exports,
        matcher: SemanticMatcher,
        stack: contextlib.ExitStack,
        verify: Verifier,
        cameras: Mapping[str, Intrinsics],
    ) -> None:
        self._exports = exports
        # Rows say nothing where the two are no stereo pair.
        self._matcher = matcher.with_settings(matching=replace(matcher.matching, band_px=None))
        self._verify = verify
        self._cameras = cameras
        self._frames: dict[str, _FrameInfo] = {}
        self._done: set[frozenset[str]] = set()
        self._earlier = exports.pairs.memory()
        self._newest: _FrameInfo | None = None
        self._keypoints: Any = None
        self._features = self._matches = self._colmap = None
        # A file that needs a reader's patience opens first and closes last; each is complete or absent.
        if exports.features is not None:
            self._features = stack.enter_context(
                FeaturesWriter(exports.features, variant=matcher.variant, half=exports.half, compared=True)
            )
        if exports.matches is not None:
            self._matches = stack.enter_context(MatchesWriter(exports.matches, variant=matcher.variant))
        if exports.colmap is not None:
            make_folder(exports.colmap)
            self._colmap = stack.enter_context(ColmapWriter(exports.colmap / "database.db"))
        self.takers = {
            COMPRESSED_IMAGE: self._take_image,
            KEYPOINTS: self._take_keypoints,
            DESCRIPTORS: self._take_descriptors,
            MATCHES: self._take_matches,
        }

    @property
    def names(self) -> set[str]:
        """Names of the images so far."""
        return set(self._frames)

    def finish_frame(self) -> None:
        """Pair the newest frame with earlier ones; what the run itself matched it with has come by now."""
        newest, self._newest = self._newest, None
        if newest is None:
            return
        for earlier in self._earlier:
            if frozenset((earlier.name, newest.name)) in self._done:
                continue
            if self._exports.pairs.wants(earlier.name, newest.name):
                self._match(earlier, newest)
        self._earlier.append(newest)

    def _match(self, first: _FrameInfo, second: _FrameInfo) -> None:
        assert first.features is not None and second.features is not None
        device = self._matcher.device
        found = self._matcher.match(first.features.to(device), second.features.to(device))
        matches = self._verify(found.to("cpu"))
        self._write_pair(first, second, matches, matches)

    def _take_image(self, note: dict[str, Any], message: Any) -> None:
        if self._exports.colmap is None or not self._exports.colmap_images:
            return
        path = self._exports.colmap / "images" / note["name"]
        make_folder(path.parent)
        with atomic_output(path) as temporary:
            temporary.write_bytes(message.data.tobytes())

    def _take_keypoints(self, note: dict[str, Any], message: Any) -> None:
        self._keypoints = message
        matrix = to_stored(note["orientation"], (message.height, message.width))
        points = transformed(matrix, message.xy.reshape(-1, 2))
        self._newest = _FrameInfo(note["name"], matrix, len(points))
        self._frames[note["name"]] = self._newest
        if self._colmap is not None:
            size = (message.width, message.height)
            size = size[::-1] if turns(note["orientation"]) else size
            known = self._exports.camera or self._cameras.get(note["stream"])
            intrinsics = known or Intrinsics.guessed(size, note["focal_35mm"])
            self._colmap.add_image(
                note["name"],
                points,
                size,
                camera=note["camera"],
                intrinsics=intrinsics,
                position=note.get("position"),
                covariance=note.get("covariance"),
            )

    def _take_descriptors(self, note: dict[str, Any], message: Any) -> None:
        if not self._exports.needs_descriptors:
            return
        keypoints = self._keypoints
        count = len(keypoints.scores)
        flat, semantic_flat = descriptors_of(message)
        semantic = semantic_flat.reshape(count, message.semantic_dim) if message.semantic_dim else None
        data = _batch(flat.reshape(count, message.dim))
        features = Features(
            _batch(keypoints.xy.reshape(count, 2)),
            _batch(keypoints.scores),
            data,
            (keypoints.height, keypoints.width),
            reasoned=data if semantic is not None else None,
            semantic=None if semantic is None else _batch(semantic),
        )
        frame = self._newest
        assert frame is not None
        if self._exports.pairs.kind != "matched":
            self._newest = replace(frame, features=features)
        if self._features is not None:
            self._features.write(note["name"], as_stored(replace(features, reasoned=None), note["orientation"]))

    def _take_matches(self, note: dict[str, Any], message: Any) -> None:
        first, second = self._frames[note["name0"]], self._frames[note["name1"]]
        matches = matches_of(message)
        verified = matches if matches.inlier is not None or self._colmap is None else self._verify(matches)
        self._write_pair(first, second, matches, verified)

    def _write_pair(self, first: _FrameInfo, second: _FrameInfo, matches: Matches, verified: Matches) -> None:
        self._done.add(frozenset((first.name, second.name)))
        if self._matches is not None:
            self._matches.write(
                first.name,
                second.name,
                first.count,
                matches.indices.numpy(),
                matches.confidence.numpy(),
                **_geometry(matches, first, second),
            )
        if self._colmap is not None:
            geometry = _geometry(verified, first, second)
            self._colmap.add_matches(first.name, second.name, verified.indices.numpy(), **geometry)


def _geometry(matches: Matches, first: _FrameInfo, second: _FrameInfo) -> dict[str, Any]:
    """Return what a check found, for pixels of the files as they are stored."""
    found: dict[str, Any] = {"inlier": None if matches.inlier is None else matches.inlier.numpy()}
    if matches.model is not None and matches.model_type:
        model = matches.model.double().numpy()
        model = model_as_stored(model, matches.model_type, first.to_stored, second.to_stored)
        found |= {"model": model, "model_type": matches.model_type}
    return found


def _batch(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32))[None]
