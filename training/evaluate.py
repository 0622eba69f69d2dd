"""``python -m training.evaluate pose|homography|nonrigid|suite|odometry``: methods by the field's protocols."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from semantic_matcher_core.io.atomic import make_folder
from training.cli import console, run_app
from training.errors import DataError

app = typer.Typer(
    help="Evaluate matching methods. A METHOD is a variant (xfeat), plain:<extractor>, a checkpoint folder or zip, or "
    "module:function for your own (image0, image1) -> (points0, points1).",
    no_args_is_help=True,
    add_completion=False,
)

Methods = Annotated[list[str], typer.Argument(help="One or more methods; see above.", metavar="METHOD...")]
Output = Annotated[Path, typer.Option(help="Folder for per-pair CSV files and the summary.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda …")]
Keypoints = Annotated[int, typer.Option(min=1, help="Keypoints of each image.")]
Weights = Annotated[Path | None, typer.Option(help="Folder searched for weights first.")]
_DIFFICULTIES, _GAPS, _NONE, _TURNS = [0.3, 0.6], [1, 5, 10, 15], list[Path](), list[float]()
Limit = Annotated[int, typer.Option(min=0, help="Only the first N pairs; 0 for all.")]


@app.command()
def pose(
    methods: Methods,
    pairs: Annotated[Path, typer.Option(help="Pair list of ScanNet-1500 or MegaDepth-1500.")],
    data: Annotated[Path, typer.Option(help="Folder that the list's paths start from.")],
    output: Output = Path("evaluation"),
    estimator: Annotated[str, typer.Option(help="poselib or opencv.")] = "poselib",
    workers: Annotated[int, typer.Option(min=1, help="Processes for RANSAC.")] = os.cpu_count() or 1,
    device: Device = "auto",
    max_keypoints: Keypoints = 2048,
    long_side: Annotated[
        int, typer.Option(min=0, help="Shrink images to this long side before matching; 0: as they are.")
    ] = 0,
    weights: Weights = None,
    limit: Limit = 0,
) -> None:
    """Measure relative pose: AUC at 5, 10 and 20 degrees over the published RANSAC thresholds, the best one named."""
    from training.evaluation.methods import file_states, match_function, on_shrunk
    from training.evaluation.pose import (
        RANSAC_THRESHOLDS_PX,
        pose_auc_by_threshold,
        pose_error_table,
        read_pose_pairs,
    )
    from training.evaluation.tables import write_rows

    listed = _limited(read_pose_pairs(pairs, data), limit)
    options: dict[str, Any] = {"device": device, "max_keypoints": max_keypoints, "weights": weights}

    def run(method: str) -> dict[str, float]:
        made_of = [
            method,
            file_states(method),
            file_states(pairs),
            str(data.resolve()),
            len(listed),
            long_side,
            options,
        ]
        key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]
        cache = output / f"{_file_name(method)}.{key}.matches.npz"
        matches = _cached_matches(
            cache, listed, lambda: on_shrunk(match_function(method, **options), long_side), method
        )
        table = pose_error_table(matches, listed, backend=estimator, workers=workers)
        auc = pose_auc_by_threshold(table)
        best = int(auc[:, 0].argmax())
        write_rows(
            output / f"{_file_name(method)}.pairs.csv",
            [
                {
                    "image0": str(pair.image0),
                    "image1": str(pair.image1),
                    "matches": len(points0),
                    "inliers": int(table[best, i, 2]),
                    "translation error deg": float(table[best, i, 0]),
                    "rotation error deg": float(table[best, i, 1]),
                }
                for i, (pair, (points0, _)) in enumerate(zip(listed, matches, strict=True))
            ],
        )
        write_rows(
            output / f"{_file_name(method)}.thresholds.csv",
            [
                {"threshold px": threshold, "AUC@5": row[0], "AUC@10": row[1], "AUC@20": row[2]}
                for threshold, row in zip(RANSAC_THRESHOLDS_PX, auc.tolist(), strict=True)
            ],
        )
        named = dict(zip(("AUC@5", "AUC@10", "AUC@20"), auc[best].tolist(), strict=True))
        return {"pairs": float(len(listed)), **named, "at px": RANSAC_THRESHOLDS_PX[best]}

    _summarise(methods, run, output)


@app.command()
def homography(
    methods: Methods,
    data: Annotated[Path, typer.Option(help="Folder of sequences in HPatches' layout.")],
    output: Output = Path("evaluation"),
    device: Device = "auto",
    max_keypoints: Keypoints = 2048,
    weights: Weights = None,
    limit: Limit = 0,
) -> None:
    """Evaluate homographies: mean matching accuracy and AUC of corner errors."""
    from training.evaluation.homography import evaluate_homography_pair, homography_pairs, summarise_homography
    from training.evaluation.methods import match_function
    from training.evaluation.tables import write_rows

    listed = _limited(list(homography_pairs(data)), limit)

    def run(method: str) -> dict[str, float]:
        match = match_function(method, device=device, max_keypoints=max_keypoints, weights=weights)
        with _tracked(listed, method) as tracked:
            rows = [evaluate_homography_pair(pair, match) for pair in tracked]
        write_rows(output / f"{_file_name(method)}.pairs.csv", rows)
        return summarise_homography(rows)

    _summarise(methods, run, output)


@app.command()
def nonrigid(
    methods: Methods,
    images: Annotated[Path, typer.Option(help="Folder with <set>/<object>/<name>-rgb.png.")],
    tps: Annotated[Path, typer.Option(help="Folder with the truth, <set>/<object>/<name>_theta.npy …")],
    output: Output = Path("evaluation"),
    device: Device = "auto",
    max_keypoints: Keypoints = 2048,
    weights: Weights = None,
    limit: Limit = 0,
) -> None:
    """Run the non-rigid benchmark: matching score, matching accuracy and inliers.

    An extractor that is no variant needs no plain: before its name (dalf, sift). Of a Python function only matches are
    known: it gets inliers and their share.
    """
    from semantic_matcher_core import list_extractors, list_variants
    from training.evaluation.methods import PLAIN, imported_function, load_matcher
    from training.evaluation.nonrigid import (
        evaluate_nonrigid_matches,
        evaluate_nonrigid_pair,
        nonrigid_pairs,
        summarise_nonrigid,
    )
    from training.evaluation.tables import write_rows

    listed = _limited(list(nonrigid_pairs(images, tps)), limit)
    extractors = set(list_extractors()) - {variant.name for variant in list_variants(weights)}

    def run(method: str) -> dict[str, float]:
        if (function := imported_function(method, max_keypoints)) is not None:
            evaluated = partial(evaluate_nonrigid_matches, match=function)
        else:
            name = PLAIN + method if method in extractors else method
            matcher = load_matcher(name, device=device, max_keypoints=max_keypoints, weights=weights)
            evaluated = partial(evaluate_nonrigid_pair, matcher=matcher)
        with _tracked(listed, method) as tracked:
            rows = [evaluated(pair) for pair in tracked]
        write_rows(output / f"{_file_name(method)}.pairs.csv", rows)
        return summarise_nonrigid(rows)

    _summarise(methods, run, output)


@app.command()
def suite(
    methods: Methods,
    photos: Annotated[Path | None, typer.Option(help="Photos to make pairs of by known homographies.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Only every n-th photo, as training holds them out.")] = 10,
    holdout_list: Annotated[Path | None, typer.Option(help="Only the photos whose names this file lists.")] = None,
    difficulty: Annotated[
        list[float], typer.Option(help="Strength of the homographies, 0 to 1; repeatable.")
    ] = _DIFFICULTIES,
    pairs: Annotated[
        Path | None, typer.Option(help="Real pairs: fox1.png and fox2.png, x_ref.png and x_tgt.png …")
    ] = None,
    sequence: Annotated[list[Path], typer.Option(help="Folder of frames of a rigid scene; repeatable.")] = _NONE,
    gap: Annotated[list[int], typer.Option(help="Distances of its frames; repeatable.")] = _GAPS,
    stereo: Annotated[Path | None, typer.Option(help="Rectified pair: left.png and right.png.")] = None,
    relit: Annotated[bool, typer.Option(help="The photos under strong changes of light, too.")] = False,
    views: Annotated[list[Path], typer.Option(help="Label file of real views; repeatable.")] = _NONE,
    turn: Annotated[
        list[float], typer.Option(help="Turn the second view by this many degrees, too; repeatable.")
    ] = _TURNS,
    rendered: Annotated[int, typer.Option(min=0, help="Number of rendered scenes with the photos as textures.")] = 0,
    speed: Annotated[bool, typer.Option(help="Frames a second on the first --sequence.")] = False,
    output: Output = Path("evaluation"),
    device: Device = "auto",
    max_keypoints: Keypoints = 2048,
    weights: Weights = None,
    limit: Annotated[int, typer.Option(min=0, help="Only the first N photos; 0 for all.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the homographies.")] = 0,
) -> None:
    """Compare methods: known homographies of photos, real pairs, a sequence at several gaps, a stereo pair.

    Correct matches and their share of all, for each of what is given. training.evaluation.opencv_methods:orb is
    OpenCV's ORB; plain:sift is RootSIFT. Extractors with a threshold give all keypoints up to the number asked for.
    """
    from training.evaluation import suite as suite_
    from training.evaluation import world
    from training.evaluation.methods import match_function
    from training.evaluation.tables import write_grouped_summary, write_rows

    cases: list[suite_.Case] = []
    if photos is not None:
        held_out = suite_.held_out_photos(photos, every=every, holdout_list=holdout_list)
        chosen = _limited(held_out, limit)
        cases += suite_.photo_cases(chosen, difficulties=difficulty, seed=seed)
        if relit:
            cases += world.relit_cases(chosen, seed)
        if rendered:
            cases += world.rendered_cases(chosen, rendered, seed)
    elif relit or rendered:
        raise DataError("--relit and --rendered need --photos")
    if speed and not sequence:
        raise DataError("--speed needs a --sequence")
    for file in views:
        cases += world.view_cases(file, turn)
    if pairs is not None:
        cases += suite_.pair_cases(pairs)
    for folder in sequence:
        cases += suite_.sequence_cases(folder, gap)
    if stereo is not None:
        cases += suite_.stereo_cases(stereo)
    if not cases:
        raise DataError(
            "nothing to evaluate on; give at least one of --photos, --pairs, --sequence, --stereo and --views"
        )
    settings = {
        "photos": photos and str(photos),
        "every": None if holdout_list else every,
        "holdout_list": holdout_list and str(holdout_list),
        "seed": seed,
        "max_keypoints": max_keypoints,
        "cases": len(cases),
    }
    make_folder(output)
    summary, markdown = {}, ""
    for method in methods:
        match = match_function(
            method, device=device, max_keypoints=max_keypoints, weights=weights, full_budget=True, keep=32
        )
        with _tracked(cases, method) as tracked:
            rows = list(suite_.run_cases(tracked, match))
        if not rows:
            raise DataError(f"the images of not one of {len(cases)} cases can be read")
        write_rows(output / f"{_file_name(method)}.pairs.csv", rows)
        summary[method] = suite_.summarise_suite(rows)
        if speed:
            fresh = match_function(
                method, device=device, max_keypoints=max_keypoints, weights=weights, full_budget=True, keep=2
            )
            summary[method]["speed"] = {"frames/s": world.frames_per_second(fresh, sequence[0])}
        # After every method: hours of the others are not lost with one that fails.
        markdown = write_grouped_summary(output, summary, settings)
    print(markdown)
    console.print(f"details in {output}")


@app.command()
def odometry(
    methods: Annotated[list[str], typer.Argument(help="Variants, or opencv:orb+pnp.", metavar="METHOD...")],
    sequence: Annotated[
        list[Path],
        typer.Option(help="Folder of rgb/, depth/ and poses_tum.txt, or poses.txt and K.txt; repeatable."),
    ],
    output: Output = Path("evaluation"),
    device: Device = "auto",
    max_keypoints: Keypoints = 1024,
    weights: Weights = None,
) -> None:
    """Measure odometry with depth: absolute (ATE) and relative (RPE) errors of trajectories.

    opencv:orb+pnp is the textbook's: ORB, mutual nearest neighbours, PnP with RANSAC from frame to frame.
    """
    from semantic_matcher_core import SemanticMatcher
    from semantic_matcher_core.io.trajectory import write_tum
    from training.evaluation import odometry as odometry_
    from training.evaluation.tables import write_summary

    make_folder(output)
    sequences = [odometry_.read_sequence(folder) for folder in sequence]
    summary: dict[str, dict[str, float]] = {}
    for name in methods:
        follow = odometry_.method(
            name,
            partial(SemanticMatcher.from_pretrained, name, device=device, max_keypoints=max_keypoints, weights=weights),
        )
        for item in sequences:
            poses = follow(item)
            summary[f"{item.name} {name}"] = odometry_.errors(item, poses)
            known = [(stamp, pose) for stamp, pose in zip(item.stamps, poses, strict=True) if pose is not None]
            write_tum(
                output / f"{item.name}.{_file_name(name)}.tum.txt",
                [stamp for stamp, _ in known],
                [np.concatenate([pose.translation, pose.quaternion]) for _, pose in known],
            )
    print(write_summary(output, summary))
    console.print(f"trajectories in {output}")


def _summarise(methods: Sequence[str], run: Callable[[str], dict[str, float]], output: Path) -> None:
    from training.evaluation.tables import write_summary

    make_folder(output)
    print(write_summary(output, {method: run(method) for method in methods}))
    console.print(f"details in {output}")


def _cached_matches(
    path: Path, pairs: Sequence[Any], load: Callable[[], Any], method: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return matches of all pairs, from an earlier run where it had the same pairs and options."""
    from semantic_matcher_core.io.atomic import atomic_output
    from semantic_matcher_core.io.images import read_image

    if path.is_file():
        with np.load(path) as stored:
            return [(stored[f"{i}_0"], stored[f"{i}_1"]) for i in range(len(pairs))]
    match = load()
    with _tracked(pairs, method) as tracked:
        matches = [match(read_image(pair.image0), read_image(pair.image1)) for pair in tracked]
    with atomic_output(path) as temporary:
        arrays: dict[str, Any] = {
            f"{i}_{side}": np.asarray(points) for i, pair in enumerate(matches) for side, points in enumerate(pair)
        }
        np.savez(temporary, **arrays)
    return matches


def _limited(pairs: list[Any], limit: int) -> list[Any]:
    return pairs[:limit] if limit else pairs


def _tracked(items: Sequence[Any], what: str) -> contextlib.closing[Any]:
    # Closed where the work fails, too: the garbage collector may do it in rich's thread, which then waits for itself.
    return contextlib.closing(track(items, description=what, console=console))


def _file_name(method: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in method).strip("_.")[-80:]


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
