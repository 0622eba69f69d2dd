"""``semantic-matcher match``: two images, their matches as a picture, as JSON, or as arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semantic_matcher_core.cli.flatten import flattened
from semantic_matcher_core.cli.options import (
    FullScaleOption,
    MaskOptions,
    MatchingOptions,
    ModelOptions,
    OrientationOption,
)
from semantic_matcher_core.cli.progress import counted

if TYPE_CHECKING:
    import numpy as np

    from semantic_matcher_core.pipeline import SemanticMatcher
    from semantic_matcher_core.types import Features, Matches


@flattened
def match_command(
    image0: Annotated[Path, typer.Argument(help="First image.")],
    image1: Annotated[Path, typer.Argument(help="Second image.")],
    matching: MatchingOptions,
    model: ModelOptions,
    masks: MaskOptions,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Picture of the matches to write (.png, .jpg).")
    ] = None,
    npz: Annotated[
        Path | None,
        typer.Option(help="Matches to write as NumPy arrays (.npz): keypoints, indices, confidence, inlier, model."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print counts, timings and geometry as JSON on stdout.")
    ] = False,
    arrays: Annotated[bool, typer.Option("--arrays", help="With --json: the matches themselves as well.")] = False,
    max_lines: Annotated[int, typer.Option(min=0, help="Lines in the picture; more would hide each other.")] = 120,
    view: Annotated[
        str,
        typer.Option(
            help="What the picture shows: lines from image to image; arrows of motion on the second; warp, the first "
            "laid over the second (--geometry homography); epipolar lines (--geometry fundamental); semantics, "
            "what the semantic map tells apart."
        ),
    ] = "lines",
    point: Annotated[
        str | None,
        typer.Option(
            help="Instead of --view: what this point of the first image (X,Y in pixels) resembles in the second by "
            "texture, by semantics and by both."
        ),
    ] = None,
    theme: Annotated[str, typer.Option(help="Surroundings of the picture: dark or light.")] = "dark",
    orientation: OrientationOption = "exif",
    rotation: Annotated[
        str,
        typer.Option(
            help="How the second image may be turned: upright; quarter, looked for at four turns; any, at eight."
        ),
    ] = "upright",
    smaller: Annotated[
        bool,
        typer.Option("--smaller", help="The second image may show the first one small: look at that smaller as well."),
    ] = False,
    image_full_scale: FullScaleOption = 0.0,
) -> None:
    """Match two images.

    The picture shows them upright; coordinates (--json, --npz) are pixels of the files as they are stored.

    Examples:

      semantic-matcher match A.jpg B.jpg -o matches.png

      semantic-matcher match A.jpg B.jpg -o matches.png --variant plain:sift --geometry homography

      semantic-matcher match A.jpg B.jpg --descriptor aliked --dino dinov2_vits14 --fetch --json
    """
    from semantic_matcher_core.cli.outputs import check_output_option
    from semantic_matcher_core.errors import ConfigError, PoseError
    from semantic_matcher_core.io.images import IMAGE_SUFFIXES
    from semantic_matcher_core.settings import turns_of

    kind = matching.kind()
    turns_of(rotation)
    if arrays and not as_json:
        raise ConfigError("--arrays adds to --json; give both, or write arrays to a file with --npz")
    read = [image0, image1, *(masks.mask or ())]
    check_output_option("--output", output, sorted(IMAGE_SUFFIXES), read)
    check_output_option("--npz", npz, (".npz",), [*read, output])
    place = _check_view(view, theme, kind, point)
    if output is None and (view != "lines" or point is not None):
        raise ConfigError("--view and --point say what the picture shows; add -o matches.png")
    model.name()

    from semantic_matcher_core.cli.progress import Stopwatch, spinner
    from semantic_matcher_core.io.exif import read_exif
    from semantic_matcher_core.io.exif import turns as exchanged
    from semantic_matcher_core.io.images import decode_image, read_bytes, write_image
    from semantic_matcher_core.io.masks import read_masks
    from semantic_matcher_core.io.stored import matches_as_stored

    clock = Stopwatch()
    with clock("read"):
        data = [(path, read_bytes(path)) for path in (image0, image1)]
        images = [
            decode_image(raw, name=str(path), orientation=orientation, full_scale=image_full_scale or None)
            for path, raw in data
        ]
        sides = zip(read_masks(masks.mask or (), 2), images, strict=True)
        wanted = [None if m is None else m.of_size((i.shape[0], i.shape[1])) for m, i in sides]
    turns = [read_exif(raw).orientation if orientation == "exif" else 1 for _, raw in data]
    with spinner("loading the model"), clock("load"):
        matcher = model.load(matching)
    with spinner("matching"):
        features0, features1, matches = _match(matcher, images, wanted, kind, matching, clock, rotation, smaller)
    if view in ("warp", "epipolar") and matches.model is None:
        raise PoseError(
            f"no {kind} was found among {counted(len(matches), 'match', 'matches')}, so --view {view} has nothing to "
            "show; without --view the matches are drawn"
        )
    if output is not None:
        style: dict[str, Any] = {"title": matcher.variant, "theme": theme}
        found = (features0, features1)
        if place is not None or view == "semantics":
            picture = _semantic_picture(matcher, images, found, place, style)
        else:
            from semantic_matcher_core.viz.matches import draw_matches

            style |= {"features0": features0, "features1": features1, "max_lines": max_lines, "view": view}
            picture = draw_matches(images[0], images[1], matches, **style)
        write_image(output, picture)
    sizes = images[0].shape[:2], images[1].shape[:2]
    matches = matches_as_stored(matches, (turns[0], turns[1]), sizes)
    if npz is not None:
        _write_npz(npz, matches)
    written = [str(path) for path in (output, npz) if path is not None]
    stored = [size[::-1] if exchanged(turn) else size for size, turn in zip(sizes, turns, strict=True)]
    summary = _summary(matcher, (image0, image1), stored, (features0, features1), matches, kind, clock, written)
    if as_json:
        lists = {name: array if array is None else array.tolist() for name, array in _arrays(matches).items()}
        typer.echo(json.dumps({**summary, **(lists if arrays else {})}, indent=None if arrays else 2))
    else:
        typer.echo(_sentence(summary))


def _check_view(view: str, theme: str, kind: str | None, point: str | None) -> tuple[float, float] | None:
    """Return the point as numbers; refuses before the work what the picture could not show after it."""
    from semantic_matcher_core.errors import ConfigError, check_choice

    check_choice("--view", view, ("lines", "arrows", "warp", "epipolar", "semantics"))
    check_choice("--theme", theme, ("dark", "light"))
    needed = {"warp": "homography", "epipolar": "fundamental"}.get(view)
    if needed and kind != needed:
        raise ConfigError(f"--view {view} shows a {needed}; add --geometry {needed}")
    if point is None:
        return None
    try:
        x, y = (float(value) for value in point.split(","))
    except ValueError:
        raise ConfigError(f"--point {point!r} is no X,Y in pixels, such as 320,240") from None
    return x, y


def _semantic_picture(
    matcher: SemanticMatcher,
    images: list[np.ndarray],
    features: tuple[Features, Features],
    point: tuple[float, float] | None,
    style: dict[str, Any],
) -> np.ndarray:
    from semantic_matcher_core.viz.semantics import draw_point, draw_semantics

    first, second = images
    if point is not None:
        return draw_point(first, second, features[0], features[1], point, matching=matcher.matching, **style)
    maps = [matcher.extract_with_map(image)[1] for image in images]
    return draw_semantics(first, second, maps[0], maps[1], **style)


def _match(
    matcher: SemanticMatcher,
    images: list[np.ndarray],
    masks: list[np.ndarray | None],
    kind: str | None,
    matching: MatchingOptions,
    clock: Any,
    rotation: str,
    smaller: bool,
) -> tuple[Features, Features, Matches]:
    with clock("extract0"):
        extract = matcher.extract_at_sizes if smaller else matcher.extract_turned
        features0 = extract(images[0], masks[0], rotation=rotation)[0]
    with clock("extract1"):
        features1 = matcher.extract(images[1], masks[1])[0]
    with clock("match"):
        matches = matcher.match(features0, features1).to("cpu")
    if kind is not None:
        from semantic_matcher_core.matching.verification import verify

        with clock("verify"):
            matches = verify(matches, kind, threshold_px=matching.geometry_threshold, backend=matching.geometry_backend)
    return features0.to("cpu"), features1.to("cpu"), matches


def _summary(
    matcher: SemanticMatcher,
    paths: tuple[Path, Path],
    sizes: list[tuple[int, ...]],
    features: tuple[Features, Features],
    matches: Matches,
    kind: str | None,
    clock: Any,
    written: list[str],
) -> dict[str, Any]:
    geometry = None
    if kind is not None and matches.inlier is not None:
        inliers = int(matches.inlier.sum())
        geometry = {
            "kind": kind,
            "inliers": inliers,
            "inlier_share": inliers / len(matches) if len(matches) else 0.0,
            "model": None if matches.model is None else matches.model.tolist(),
        }
    return {
        "variant": matcher.variant,
        "device": str(matcher.device),
        "precision": matcher.precision,
        "images": [
            {"path": str(path), "width": size[1], "height": size[0], "keypoints": item.keypoints.shape[1]}
            for path, size, item in zip(paths, sizes, features, strict=True)
        ],
        "matches": len(matches),
        "mean_confidence": float(matches.confidence.mean()) if len(matches) else None,
        "geometry": geometry,
        "milliseconds": clock.milliseconds,
        "written": written,
    }


_MODELS = {"homography": "one homography", "fundamental": "one fundamental matrix", "essential": "one essential matrix"}


def _sentence(summary: dict[str, Any]) -> str:
    counts = " + ".join(str(image["keypoints"]) for image in summary["images"])
    text = f"{counted(summary['matches'], 'match', 'matches')} between {counts} keypoints"
    if summary["geometry"] is not None:
        found = summary["geometry"]
        share, model = found["inlier_share"], _MODELS[found["kind"]]
        text += f", {found['inliers']} of them ({share:.0%}) agree with {model}"
    text += f" ({summary['variant']} on {summary['device']})"
    empty = [f"{im['path']} ({im['width']} x {im['height']})" for im in summary["images"] if not im["keypoints"]]
    if empty:
        text += f"; nothing is found in {' and '.join(dict.fromkeys(empty))}: flat, blurred, too small, or masked"
    return text + "".join(f"\nwrote {path}" for path in summary["written"])


def _arrays(matches: Matches, *more: str) -> dict[str, np.ndarray | None]:
    names = ("indices", "keypoints0", "keypoints1", "confidence", "inlier", *more)
    tensors = {name: getattr(matches, name) for name in names}
    return {name: None if tensor is None else tensor.numpy() for name, tensor in tensors.items()}


def _write_npz(path: Path, matches: Matches) -> None:
    import numpy as np

    from semantic_matcher_core.io.atomic import atomic_output

    arrays: dict[str, Any] = {name: array for name, array in _arrays(matches, "model").items() if array is not None}
    with atomic_output(path) as temporary:
        np.savez(temporary, **arrays)
