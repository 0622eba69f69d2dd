"""``python -m semantic_matcher.demo``: what the user types and what the user reads."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from semantic_matcher.demo import interruption
from semantic_matcher.demo.domain import graph_environment, own_domain
from semantic_matcher.demo.errors import DemoError
from semantic_matcher.demo.evaluation import (
    CORRECT_PX,
    Figures,
    Match,
    Recording,
    epipolar_inliers,
    errors_px,
    measure,
    read_recording,
)
from semantic_matcher.demo.graph import MATCHERS, Outcome, Plan, run_graph
from semantic_matcher.demo.picture import Panel, write_picture
from semantic_matcher.demo.sequences import Sequence
from semantic_matcher_core.variants.names import DEFAULT_VARIANT, PLAIN

# What two cores keep up with, both images of a stereo pair included.
_FRAMES, _RATE_HZ, _KEYPOINTS = 30, 2.0, 1024
_REFERENCE_TOPICS = {"temporal": ("/camera/image", "/camera/image"), "stereo": ("/left/image", "/right/image")}


def main(args: list[str] | None = None) -> int:
    """Run the demo.

    Returns:
        0 when all went well, 1 after one sentence on what did not, 130 after Ctrl-C.
    """
    options = _parser().parse_args(args)
    from semantic_matcher_core.errors import SemanticMatcherError

    interruption.listen()
    try:
        with own_domain(options.domain_id) as domain:
            _run(options, domain)
    except (DemoError, SemanticMatcherError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; all processes of the demo have been ended", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m semantic_matcher.demo",
        description="Runs a camera, matcher nodes and a recorder as a real ROS 2 graph, and says what it measured. "
        "Without --input the cameras drive through a drawn hall, of which the depths are known, so that every match can "
        "be checked.",
    )
    parser.add_argument("--input", type=Path, help="video, folder of images, or bag to match frame by frame")
    parser.add_argument("--topic", help="image topic, where --input is a bag with several")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of the results (default: demo)")
    parser.add_argument("--variant", help="what to match with (default: plain:compact, which comes with the package)")
    parser.add_argument("--frames", type=_positive_int, help=f"frames to play (default: {_FRAMES}, or all of --input)")
    parser.add_argument("--rate", type=_rate, help=f"frames per second (default: {_RATE_HZ:g}, or the pace of --input)")
    parser.add_argument(
        "--max-keypoints", type=_positive_int, default=_KEYPOINTS, help=f"keypoints per image (default: {_KEYPOINTS})"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<index> (default: auto)")
    parser.add_argument(
        "--no-descriptors", dest="descriptors", action="store_false", help="leave descriptors out of the recording"
    )
    parser.add_argument("--domain-id", type=int, help="ROS_DOMAIN_ID of the graph (default: one that is free)")
    return parser


def _run(options: argparse.Namespace, domain: int) -> None:
    output: Path = options.output.expanduser()
    results = [output / name for name in ("matches.mcap", "matches.png", "report.json", "report.html")]
    source: Path | None = None if options.input is None else options.input.expanduser()
    if source is not None and any(result.exists() and result.samefile(source) for result in results if source.exists()):
        raise DemoError(f"--input {source} is what the demo would overwrite; name another folder with --output")
    camera, modes = _camera_arguments(options, source)
    variant = options.variant or DEFAULT_VARIANT
    print(_variant_line(variant))
    parameters = {
        "variant": variant,
        "device": options.device,
        "max_keypoints": str(options.max_keypoints),
        # A matcher waits for the camera, and for the other to have had its turn.
        "no_image_warning_period": "0.0",
    }
    plan = Plan(modes, parameters, camera, descriptors=options.descriptors, output=output)
    try:
        plan.stamps.parent.mkdir(parents=True, exist_ok=True)
        for result in results:
            result.unlink(missing_ok=True)
    except OSError as error:
        raise DemoError(f"cannot write to the folder {output}: {error.strerror}; name another with --output") from error
    names = " + ".join(MATCHERS[mode].executable for mode in modes)
    print(f"graph of this machine alone, ROS_DOMAIN_ID={domain}: camera → {names} → recorder", flush=True)
    try:
        outcome = run_graph(plan, graph_environment(domain), _progress)
    except BaseException:
        # Part of a recording looks like a whole one; the logs tell what happened.
        plan.recording.unlink(missing_ok=True)
        raise
    _progress("", 0)
    figures, panels = {}, []
    for mode in plan.modes:
        matcher = MATCHERS[mode]
        recording = read_recording(plan.recording, matcher.matches_topic, matcher.keypoints_topics)
        sequence = _sequence(mode) if source is None else None
        figures[mode] = measure(
            recording, outcome.stamps[mode], first_has_no_partner=mode == "temporal", sequence=sequence
        )
        panels.append(_panel(mode, variant, recording, outcome, sequence))
    write_picture(output / "matches.png", plan.recording, panels)
    _write_report(output / "report.json", variant, outcome, figures)
    print(_table(figures))
    for topic, count in outcome.lost.items():
        print(f"the recorder lost {count} messages of {topic}: the disk is too slow for this pace (--rate)")
    from semantic_matcher_core.viz.report import write_report

    write_report(plan.recording, output / "report.html")
    print(f"\nlook at  {output / 'matches.png'}\nopen     {plan.recording}   in Foxglove")
    print(f"open     {output / 'report.html'}   in a browser: every pair on a time line, and why its matches won")


def _variant_line(variant: str) -> str:
    """Return what is matched with; where that is descriptors alone, also the command for more."""
    if not variant.startswith(PLAIN):
        return f"variant {variant}"
    return f"variant {variant}: descriptors alone; to match with semantics: make demo VARIANT=compact"


def _camera_arguments(options: argparse.Namespace, source: Path | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return arguments of the camera process, and the modes it plays to; says what it will play."""
    rate = ("--rate", str(options.rate)) if options.rate else ()
    if source is None:
        if options.topic is not None:
            raise DemoError(f"--topic {options.topic} has no meaning without --input")
        frames = options.frames or _FRAMES
        print(
            f"playing {frames} views of a robot that drives through a drawn hall, then {frames} stereo pairs of it; "
            "depth and motion are known"
        )
        rate = rate or ("--rate", str(_RATE_HZ))
        return ("--sequence", "temporal", "--sequence", "stereo", "--frames", str(frames), *rate), (
            "temporal",
            "stereo",
        )
    from semantic_matcher.demo.sources import open_source

    # Opened here as well, so that what cannot be played is said before anything is started.
    print(f"playing {open_source(source, options.topic).description}")
    topic = ("--topic", options.topic) if options.topic else ()
    frames_argument = ("--frames", str(options.frames)) if options.frames else ()
    return ("--input", str(source), *topic, *rate, *frames_argument), ("temporal",)


def _progress(name: str, sent: int) -> None:
    """Rewrite one line on a terminal; an empty name ends it."""
    if sys.stdout.isatty():
        print(f"\r\033[K{name}: {sent} frames sent" if name else "\r\033[K", end="", flush=True)


def _sequence(mode: str) -> Sequence:
    from semantic_matcher.demo import sequences

    return getattr(sequences, mode)()


def _panel(mode: str, variant: str, recording: Recording, outcome: Outcome, sequence: Sequence | None) -> Panel:
    """Return the pair that says most: the one whose good matches went the longest way, all together."""

    def is_good(match: Match) -> np.ndarray:
        if sequence is not None:
            return errors_px(match, sequence, outcome.stamps[mode]) <= CORRECT_PX
        return epipolar_inliers(match)

    def told(match: Match) -> float:
        return float(np.linalg.norm(match.points1 - match.points0, axis=1)[is_good(match)].sum())

    match: Match = max(recording.matches, key=told)
    good = is_good(match)
    if sequence is not None:
        title = f"{mode}, {variant}: blue within {CORRECT_PX:g} px of the true position"
    else:
        title = f"{mode}, {variant}: blue where one fundamental matrix agrees"
    return Panel(title, _REFERENCE_TOPICS[mode], match, np.asarray(good))


def _table(figures: Mapping[str, Figures]) -> str:
    """Return what was measured, one matcher a line."""
    with_truth = all(row.correct is not None for row in figures.values())
    quality = ["within 3 px"] if with_truth else ["homography", "epipolar"]
    heads = ["", "frames", "matched", "dropped", "keypoints", "matches", *quality, "latency (median, p95)"]
    lines = [heads]
    for mode, row in figures.items():
        shares = [row.correct] if with_truth else [row.homography, row.epipolar]
        lines.append(
            [mode, *(str(n) for n in (row.frames, row.matched, row.dropped, row.keypoints, row.matches))]
            + [f"{share:.1%}" for share in shares if share is not None]
            + [f"{row.latency_ms:.0f} ms, {row.latency_p95_ms:.0f} ms"]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    legend = (
        "keypoints, matches: medians; within 3 px: share of all matches that close to the true position"
        if with_truth
        else "keypoints, matches: medians; homography, epipolar: median share of matches that one homography (3 px), "
        "or one fundamental matrix (1.5 px), explains"
    )
    return "\n" + "\n".join([*text, "", legend, "latency: from the image's stamp to its matches at the recorder"])


def _write_report(path: Path, variant: str, outcome: Outcome, figures: Mapping[str, Figures]) -> None:
    from semantic_matcher_core.io.atomic import atomic_output

    content = {
        "variant": variant,
        "start_s": round(outcome.start_s, 2),
        **{mode: asdict(row) for mode, row in figures.items()},
    }
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{value} is too few, expected 2 or more")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text} frames per second, expected 0.1 to 1000")
    return value


if __name__ == "__main__":
    sys.exit(main())
