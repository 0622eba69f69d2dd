"""``python -m benchmarks.compact``: what a new frame costs with the bundled extractor, beside XFeat.

``--candidate FILE`` adds the weights of another training (``training.train_compact``), so that networks are chosen by
what they cost as well. XFeat has random weights where its own are not given; they cost the same but for the number of
keypoints, which are all there either way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.timing import machine_description, time_interleaved
from training.cli import run_command

console = Console(stderr=True)


def command(
    image: Annotated[Path | None, typer.Option(help="A picture; random noise without it.")] = None,
    other: Annotated[Path | None, typer.Option(help="Another view, with which the first matches disagree.")] = None,
    candidate: Annotated[list[Path] | None, typer.Option(help="Weights of another training; repeatable.")] = None,
    keypoints: Annotated[int, typer.Option(min=1, help="Of each image.")] = 2048,
    repeats: Annotated[int, typer.Option(min=1, help="Timed calls of each.")] = 15,
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 2,
    weights: Annotated[Path | None, typer.Option(help="Folder with xfeat.pt.")] = None,
) -> None:
    """Print milliseconds for a new 640 x 480 frame: network alone, extraction, and extraction with matching, of the
    same picture and of another view, whose search ``compact`` makes up to three times.
    """
    import cv2

    from semantic_matcher_core import SemanticMatcher, create_extractor
    from semantic_matcher_core.extractors.dense import DenseExtractor
    from semantic_matcher_core.extractors.xfeat import XFeat
    from semantic_matcher_core.io.images import read_image

    torch.set_num_threads(threads)
    device = torch.device("cpu")
    torch.manual_seed(0)
    pixels = torch.rand(480, 640, 3).mul(255).byte().numpy() if image is None else read_image(image)
    pixels = cv2.resize(pixels, (640, 480), interpolation=cv2.INTER_AREA)
    view = None if other is None else cv2.resize(read_image(other), (640, 480), interpolation=cv2.INTER_AREA)
    xfeat = (
        XFeat(keypoints, detection_threshold=0.0)
        if weights is None
        else create_extractor("xfeat", keypoints, weights=weights, device=device, detection_threshold=0.0)
    )
    extractors = {"xfeat": xfeat, "compact": create_extractor("compact", keypoints, device=device)}
    for file in candidate or []:
        extractors[file.stem] = create_extractor("compact", keypoints, weights=file, device=device)
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    calls: dict[str, Callable[[], object]] = {}
    for name, extractor in extractors.items():
        matcher = SemanticMatcher.from_parts(extractor, device=device)
        before = matcher.extract(pixels)
        assert isinstance(extractor, DenseExtractor)
        prepared = extractor.prepare(batch)
        calls[f"{name}: network"] = lambda e=extractor, p=prepared: e.dense(*e.dense_inputs(p))  # type: ignore[misc]
        calls[f"{name}: extraction"] = lambda m=matcher: m.extract(pixels)  # type: ignore[misc]
        calls[f"{name}: new frame"] = lambda m=matcher, b=before: m.match(m.extract(pixels), b)  # type: ignore[misc]
        if view is not None:
            seen = matcher.extract(view)
            calls[f"{name}: other view"] = lambda m=matcher, b=seen: m.match(m.extract(pixels), b)  # type: ignore[misc]
    with torch.inference_mode():
        timings = time_interleaved(calls, repeats=repeats, warmup=2, device=device)
    console.print(f"{keypoints} keypoints, {threads} threads; {machine_description(device)}", highlight=False)
    print("| part | median ms | best ms | of XFeat's |\n|---|---:|---:|---:|")
    for name, timing in timings.items():
        share = timing.best_ms / timings[f"xfeat: {name.partition(': ')[2]}"].best_ms
        print(f"| {name} | {timing.median_ms:.0f} | {timing.best_ms:.0f} | {share:.2f} |")


if __name__ == "__main__":
    run_command(command)
