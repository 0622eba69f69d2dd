"""The second stage: context encoder and reasoner together, on the frozen extractor's features."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.extractors.compact import Compact
from semantic_matcher_core.io.atomic import atomic_output
from semantic_matcher_core.layers import folded
from semantic_matcher_core.pipeline import SemanticMatcher
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics import sample_at_keypoints
from semantic_matcher_core.semantics.compact_context import CompactContext
from semantic_matcher_core.types import Features
from training.compact.config import CompactConfig
from training.compact.extractor_stage import batches, learning_rate, summary
from training.compact.run_state import StageFolder, load_initial, take_step
from training.compact.validation import validate
from training.compact.views import ViewPairs
from training.projection import Warped
from training.reasoner.loss import dual_softmax_loss
from training.reasoner.supervision import Positives, true_matches

# Stage seeds differ so that the second stage sees other views than the first.
_SEED_OFFSET = 1_000


class ContextReasoner(nn.Module):
    """What this stage trains.

    Args:
        config: of the reasoner.

    Attributes:
        encoder, reasoner: its parts.
    """

    def __init__(self, config: ReasonerConfig) -> None:
        super().__init__()
        self.encoder = CompactContext(batch_norm=True)
        self.reasoner = Reasoner(config)
        self.reasoner.joint_features.requires_grad_(False)
        self.reasoner.semantic_attentions.requires_grad_(config.semantic_conditioning)
        _start_at_plain_matching(self.reasoner)


def train_reasoner(
    config: CompactConfig,
    pictures: Sequence[Tensor],
    extractor_weights: Path,
    held_out: dict[str, list[ViewPairs]],
    *,
    device: torch.device,
    report: Callable[[str], None],
    name: str = "reasoner",
    initial: Path | None = None,
) -> Path:
    """Train, going on from a checkpoint where there is one; arguments, result and errors as ``train_extractor``.

    Args:
        extractor_weights: what the first stage returned.
        name: of the stage's folder.
        initial: folder of the stage whose last checkpoint this one starts from; ``None`` to start anew.
    """
    stage = config.reasoner
    data = stage.data(config.data)
    folder = StageFolder(config.run_folder / name, config.decisive(stage, data))
    if folder.final.is_file():
        return folder.final
    weights = load_file(extractor_weights)
    extractor = Compact(stage.keypoints, **Compact.options_of_state_dict(weights))
    extractor.load_state_dict(extractor.convert_state_dict(weights))
    extractor.requires_grad_(False).to(device)
    torch.manual_seed(config.seed)
    model = ContextReasoner(reasoner_config(config)).to(device)
    if initial is not None:
        load_initial(model, initial)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, stage.lr, weight_decay=stage.weight_decay)
    start, spent = folder.restore(model, optimizer)
    began = time.monotonic() - spent
    seed = config.seed + _SEED_OFFSET + zlib.crc32(name.encode()) % 1000
    views = replace(config, data=data)
    for step, pairs in enumerate(batches(views, pictures, stage.batch, start, stage.steps, seed), start):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(stage.lr, step, stage.steps)
        model.train()
        images = pairs.images.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            with torch.no_grad():
                features = extractor(images)
            layers = reasoned_layers(model, images, features)
        loss = matching_loss(layers, features, pairs, config.extractor.temperature)
        done = step + 1
        take_step(optimizer, loss, name, done)
        if done % 50 == 0:
            folder.log(done, {"loss": round(loss.item(), 4)})
            report(f"{name} {done}/{stage.steps}, {time.monotonic() - began:.0f} s: loss {loss.item():.4f}")
        if done % config.validate_every == 0 or done == stage.steps:
            figures = validate(matcher_of(model, extractor, stage.long_side).extract, held_out)
            folder.log(done, {"validation": figures})
            report(f"{name} {done}: {summary(figures)}")
        if done % config.save_every == 0 or done == stage.steps:
            folder.save(done, time.monotonic() - began, model, optimizer)
    state = {f"encoder.{k}": v for k, v in folded(model.encoder).state_dict().items()}
    state |= {f"reasoner.{k}": v for k, v in model.reasoner.state_dict().items()}
    with atomic_output(folder.final) as temporary:
        save_file({name: value.half().cpu().contiguous() for name, value in state.items()}, temporary)
    return folder.final


def reasoner_config(config: CompactConfig) -> ReasonerConfig:
    """The reasoner's configuration, as the bundled ``model_config.yaml`` has it."""
    stage = config.reasoner
    return ReasonerConfig(
        config.extractor.descriptor_dim,
        CompactContext.feature_dim,
        features_dim=stage.features_dim,
        n_attention_layers=stage.n_attention_layers,
        num_heads=stage.num_heads,
        semantic_conditioning=stage.semantic_conditioning,
        deep_supervision=True,
        semantic_interpolation_mode="bilinear",
        fix_dino_size=stage.long_side,
    )


def reasoned_layers(model: ContextReasoner, images: Tensor, features: Features) -> list[tuple[Tensor, Tensor | None]]:
    """Outputs of every layer at the keypoints of all views, L2-normalised as matching will see them."""
    encoder = model.encoder
    sampled = sample_at_keypoints(
        encoder(images).float(),
        features.keypoints,
        features.image_size,
        patch_size=encoder.patch_size,
        scale=1.0,
        registration="exact",
        mode=model.reasoner.config.semantic_interpolation_mode,
    )
    return [
        (F.normalize(t.float(), dim=-1), None if s is None else F.normalize(s.float(), dim=-1))
        for t, s in model.reasoner.forward_layers(features.descriptors, sampled, features.valid)
    ]


def matching_loss(
    layers: list[tuple[Tensor, Tensor | None]], features: Features, pairs: ViewPairs, temperature: float
) -> Tensor:
    """Dual softmax over the similarities that matching uses, at a temperature; mean over layers."""
    keypoints0, keypoints1 = features.keypoints.cpu().chunk(2)
    valid0, valid1 = (None, None) if features.valid is None else features.valid.chunk(2)
    with torch.no_grad():
        warped = pairs.truth.forward(keypoints0)
        known = warped.valid if valid0 is None else warped.valid & valid0.cpu()
        found = true_matches(warped.keypoints, known, keypoints1, None if valid1 is None else valid1.cpu())
        found = _one_to_one(found, pairs.truth.back(keypoints1), keypoints0)
    scale = 1 / math.sqrt(temperature)
    sides: tuple[list[tuple[Tensor, Tensor | None]], ...] = ([], [])
    for texture, semantic in layers:
        parts = (None, None) if semantic is None else semantic.chunk(2)
        for side, t, s in zip(sides, (texture * scale).chunk(2), parts, strict=True):
            side.append((t, s))
    positives = Positives(*(index.to(layers[0][0].device) for index in found))
    return dual_softmax_loss(sides[0], sides[1], positives, valid0=valid0, valid1=valid1).mean()


def matcher_of(model: ContextReasoner, extractor: Compact, long_side: int) -> SemanticMatcher:
    """A matcher of the parts as they are now, for validation."""
    encoder = folded(model.encoder)
    return SemanticMatcher(extractor, encoder, model.reasoner, semantic_size=long_side, variant="compact")


def _one_to_one(found: Positives, back: Warped, keypoints0: Tensor) -> Positives:
    """Those true matches that are nearest both ways: two keypoints that share a match would ask for a tie."""
    pair, index0, index1 = found
    if not len(pair):
        return found
    distance = torch.cdist(back.keypoints.nan_to_num(1e6), keypoints0)
    nearest0 = distance.argmin(dim=2)
    mutual = nearest0[pair, index1] == index0
    return Positives(pair[mutual], index0[mutual], index1[mutual])


def _start_at_plain_matching(reasoner: Reasoner) -> None:
    """Begin where descriptors match as they are: blocks add nothing, and all semantic features are nearly alike."""
    with torch.no_grad():
        weight = reasoner.extractor_reprojection.weight
        nn.init.orthogonal_(weight, gain=1.0)
        reasoner.extractor_reprojection.bias.zero_()
        reasoner.dino_reprojection.weight.mul_(0.3)
        nn.init.normal_(reasoner.dino_reprojection.bias, std=1 / math.sqrt(len(weight)))
        for branch in (reasoner.texture_attentions, reasoner.semantic_attentions):
            for block in branch:
                last = block.mlp[-1]  # type: ignore[union-attr,index]
                last.weight.mul_(0.02)  # type: ignore[union-attr]
                last.bias.zero_()  # type: ignore[union-attr]
