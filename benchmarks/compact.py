"""What the bundled variant was chosen by, and what it costs.

``python -m benchmarks.compact alternatives --photos FOLDER`` trains alternatives to its extractor, each as briefly:
every one sees the same views for the same number of steps, and figures are those of ``training.compact.validation`` on
held-out photographs. They say which design learns fastest, not how good each can become.

``python -m benchmarks.compact cost`` times its parts beside XFeat's and DINOv2-S's networks.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from benchmarks.timing import machine_description, time_interleaved
from semantic_matcher_core.io.images import list_images
from training.cli import run_app
from training.compact.config import CompactConfig, DataConfig, ExtractorConfig, TeacherConfig
from training.compact.extractor_stage import extractor_of, train_extractor
from training.compact.teacher import lessons
from training.compact.validation import validate, validation_pairs
from training.compact.views import load_pictures, split

app = typer.Typer(add_completion=False, rich_markup_mode=None)
console = Console(stderr=True)


class XFeatNetwork(nn.Module):
    """XFeat's network (kornia's) from scratch, with the outputs that the training expects."""

    def __init__(self) -> None:
        super().__init__()
        from kornia.feature.xfeat import XFeatModel

        self.net = XFeatModel()
        # To the teacher's dimension, so that all alternatives are distilled the same way.
        self.widen = nn.Conv2d(64, 128, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        descriptors, logits, _ = self.net(images)
        probability = nn.functional.pixel_shuffle(logits.float().softmax(dim=1)[:, :64], 8).clamp(1e-6, 1 - 1e-6)
        wide = nn.functional.interpolate(self.widen(descriptors), scale_factor=2.0, mode="bilinear")
        return wide, probability.logit()


@dataclass(frozen=True)
class Alternative:
    """A change of the shipped configuration."""

    extractor: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    build: Callable[[], nn.Module] | None = None


ALTERNATIVES = {
    "as shipped": Alternative(),
    "half the widths": Alternative({"widths": (16, 32, 48, 64, 80)}),
    "XFeat's network": Alternative(build=XFeatNetwork),
    "no distillation": Alternative({"distillation": 0.0}),
    "teacher aliked-n16rot": Alternative(teacher={"extractor": "aliked-n16rot"}),
    "teacher xfeat": Alternative(teacher={"extractor": "xfeat"}),
    "views turned by up to 45 degrees only": Alternative(data={"turn_probability": 0.0}),
}


@app.command()
def alternatives(
    photos: Annotated[Path, typer.Option(help="Folder of photographs.")],
    weights: Annotated[Path | None, typer.Option(help="Folder with the teachers' weights.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each alternative.")] = 400,
    only: Annotated[list[str] | None, typer.Option(help="Only this alternative; repeatable.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file of the figures.")] = Path("compact.json"),
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 1,
) -> None:
    """Train the alternatives and print a table in Markdown."""
    torch.set_num_threads(threads)
    rows: dict[str, dict[str, Any]] = {}
    columns = ("alternative", "parameters", "best ms at 640 × 480", "upright: correct", "precision")
    print(f"| {' | '.join((*columns, 'turned: correct', 'precision'))} |\n|---|{'---:|' * 6}", flush=True)
    for name, alternative in ALTERNATIVES.items():
        if only and name not in only:
            continue
        rows[name] = row = _figures(alternative, photos, weights, steps)
        cells = [f"{row['parameters'] / 1e6:.2f} M", f"{row['ms']:.0f}"]
        for kind in ("upright", "turned"):
            cells += [f"{row[kind]['correct']:.0f}", f"{row[kind]['precision']:.1%}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        output.write_text(json.dumps(rows, indent=2), encoding="utf-8")


@app.command()
def cost(
    keypoints: Annotated[int, typer.Option(min=1, help="Of each image.")] = 2048,
    repeats: Annotated[int, typer.Option(min=1, help="Timed calls of each.")] = 7,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch; default its own choice.")] = None,
) -> None:
    """Milliseconds for one 640 x 480 image; XFeat and DINOv2-S have random weights, which cost the same."""
    from semantic_matcher_core import SemanticMatcher
    from semantic_matcher_core.extractors.xfeat import XFeat
    from semantic_matcher_core.semantics import resize_for_encoder
    from semantic_matcher_core.semantics.dinov2 import DinoV2
    from semantic_matcher_core.types import Features

    if threads is not None:
        torch.set_num_threads(threads)
    device = torch.device("cpu")
    torch.manual_seed(0)
    matcher = SemanticMatcher.from_pretrained("compact", device=device, max_keypoints=keypoints)
    encoder, reasoner, dino = matcher.semantic_encoder, matcher.reasoner, DinoV2("dinov2_vits14").eval()
    xfeat = XFeat(keypoints, detection_threshold=0.0)
    assert encoder is not None and reasoner is not None
    image = torch.rand(1, 3, 480, 640)
    features: Features = matcher.extract(image)
    semantic = matcher.semantic_features(image, features)
    resized, _ = resize_for_encoder(image, reasoner.config.fix_dino_size, encoder.patch_size, registration="exact")
    large, _ = resize_for_encoder(image, 896, dino.patch_size, registration="exact")
    calls: dict[str, Callable[[], object]] = {
        "extractor xfeat": lambda: xfeat(image),
        "DINOv2-S at 896": lambda: dino(large),
        "extractor compact": lambda: matcher.extractor(image),
        f"context encoder at {reasoner.config.fix_dino_size}": lambda: encoder(resized),
        "compact's reasoner": lambda: reasoner(features.descriptors, semantic, features.valid),
        "compact, all of it": lambda: matcher.extract(image),
    }
    with torch.inference_mode():
        timings = time_interleaved(calls, repeats=repeats, warmup=2, device=device)
    print(f"{keypoints} keypoints; {machine_description(device)}\n\n| part | median ms | best ms |\n|---|---:|---:|")
    for name, timing in timings.items():
        print(f"| {name} | {timing.median_ms:.0f} | {timing.best_ms:.0f} |")
    allowed = timings["extractor xfeat"].median_ms + timings["DINOv2-S at 896"].median_ms / 3
    print(
        f"\nXFeat and a third of DINOv2-S: {allowed:.0f} ms, {allowed / timings['compact, all of it'].median_ms:.2f} x"
    )


def _figures(alternative: Alternative, photos: Path, weights: Path | None, steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = CompactConfig(
            DataConfig(str(photos), **alternative.data),
            folder=folder,
            validate_every=steps,
            save_every=steps,
            teacher=TeacherConfig(weights=None if weights is None else str(weights), **alternative.teacher),
            extractor=dataclasses.replace(
                ExtractorConfig(steps=steps, batch=4, distillation=2.0), **alternative.extractor
            ),
        )
        train, held = split(list_images(photos), config.data.holdout)
        pictures = load_pictures(train, config.data.picture_side)
        pairs = validation_pairs(load_pictures(held, config.data.picture_side), config.data)
        cache = Path(tempfile.gettempdir()) / f"lessons-{config.teacher.extractor}.safetensors"
        taught = lessons(pictures, config.teacher, cache)
        device = torch.device("cpu")
        found: list[nn.Module] = []

        def build() -> nn.Module:
            from semantic_matcher_core.extractors.compact import CompactNetwork

            stage = config.extractor
            found.append(
                alternative.build()
                if alternative.build
                else CompactNetwork(stage.widths, stage.descriptor_dim, batch_norm=True)
            )
            return found[0]

        train_extractor(config, pictures, taught, pairs, device=device, report=_say, build=build)
    from semantic_matcher_core.layers import folded

    extractor = extractor_of(folded(found[0]), device)
    image = torch.rand(1, 3, 480, 640)
    with torch.inference_mode():
        timing = time_interleaved({"": lambda: extractor(image)}, repeats=7, warmup=2, device=device)[""]
    parameters = sum(p.numel() for p in found[0].parameters())
    return {"parameters": parameters, "ms": timing.best_ms, "steps": steps, **validate(extractor.extract, pairs)}


def _say(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_app(app)
