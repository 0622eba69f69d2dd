"""The Lightning module: what one step of training, and one batch of validation, does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.matching.features import match_features_densely
from semantic_matcher_core.reasoning import ModelConfig, Reasoner
from semantic_matcher_core.semantics import SemanticEncoder, sample_at_keypoints
from semantic_matcher_core.types import Features
from training.features.parts import DEFAULT_LONG_SIDE, resized_for
from training.projection import Warped
from training.reasoner.batch import Batch, View
from training.reasoner.config import ExperimentConfig
from training.reasoner.loss import WEIGHT, dual_softmax_loss
from training.reasoner.metrics import MatchCounts, count_matches, figures
from training.reasoner.model import frozen_parts, model_config, new_reasoner
from training.reasoner.repro import stop_with_repro
from training.reasoner.supervision import Positives, true_matches


@dataclass(frozen=True)
class Judged:
    """A matched batch: features of both views, matches of view 0, where its keypoints truly are, and the counts."""

    features0: Features
    features1: Features
    matches0: Tensor
    confidence: Tensor
    warped: Warped
    counts: MatchCounts


class ReasonerTraining(L.LightningModule):
    """Trains a reasoner on pairs with known correspondence.

    Extractor and semantic encoder are frozen, so they are neither parameters of this module nor in its checkpoints.

    The reasoner is built in :meth:`setup`, because its dimensions are those of the data.

    Args:
        config: of the experiment.
        extractor, semantic_encoder: to be used instead of those the configuration names, where batches have no
            features.

    Attributes:
        reasoner: what is trained.
        model_config: what ``model_config.yaml`` of its weights says.
        untrained, plain: validation figures before the first step, and of matching the local descriptors as they are;
            ``None`` until they were measured.
        latest: validation figures, the last ones.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        extractor: Extractor | None = None,
        semantic_encoder: SemanticEncoder | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.reasoner: Reasoner
        self.model_config: ModelConfig
        self._given = (extractor, semantic_encoder)
        self._frozen: dict[str, Any] = {}
        self.untrained: dict[str, float] | None = None
        self.plain: dict[str, float] | None = None
        self.latest: dict[str, float] = {}
        self._batch: Batch | None = None
        self._sums: Tensor | None = None

    def setup(self, stage: str) -> None:
        if self._frozen:
            return
        pairs = self.trainer.datamodule.train  # type: ignore[attr-defined]
        extractor, encoder, dims = frozen_parts(self.config, pairs, *self._given)
        self.model_config = model_config(self.config, dims)
        self.reasoner = new_reasoner(self.config, self.model_config)
        # Parameters that no loss reaches would stall the averaging of gradients between processes.
        self.reasoner.joint_features.requires_grad_(False)
        self.reasoner.semantic_attentions.requires_grad_(self.reasoner.config.semantic_conditioning)
        self._frozen = {"extractor": extractor, "encoder": encoder}
        for part in (extractor, encoder):
            if part is not None:
                part.eval().requires_grad_(False).to(self.trainer.strategy.root_device)

    def configure_optimizers(self) -> Any:
        options = self.config.optimizer
        optimizer = torch.optim.Adam(
            [p for p in self.reasoner.parameters() if p.requires_grad], lr=options.lr, weight_decay=options.weight_decay
        )
        if options.final_lr is None or options.decay_steps is None:
            return optimizer
        ratio, steps = options.final_lr / options.lr, options.decay_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: ratio ** min(1.0, step / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        self._batch = batch
        view0, view1 = self.complete(batch.view0, batch.size), self.complete(batch.view1, batch.size)
        losses, _, positives = self._losses(batch, view0, view1)
        loss = WEIGHT * losses.mean()
        if not torch.isfinite(loss):
            self._stop("loss", replace(batch, view0=view0, view1=view1))
        self.log("train/loss", loss, sync_dist=True, batch_size=len(batch), prog_bar=True)
        for layer, value in enumerate(losses):
            self.log(f"train/loss_layer{layer}", WEIGHT * value, sync_dist=True, batch_size=len(batch))
        true_matches_per_pair = float(len(positives.pair)) / len(batch)
        self.log("train/true_matches", true_matches_per_pair, sync_dist=True, batch_size=len(batch))
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # With fp16 the gradient scaler meets infinite gradients as a matter of course, and skips them.
        if self.config.run.precision == "16-mixed":
            return
        norms = torch._foreach_norm([p.grad for p in self.reasoner.parameters() if p.grad is not None])
        norm = torch.stack(list(norms)).norm()
        self.log("train/gradient_norm", norm)
        if not torch.isfinite(norm):
            assert self._batch is not None
            self._stop("gradient", self._batch)

    def on_validation_epoch_start(self) -> None:
        self._sums = torch.zeros(3, 5, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        assert self._sums is not None
        view0, view1 = self.complete(batch.view0, batch.size), self.complete(batch.view1, batch.size)
        losses, warped, positives = self._losses(batch, view0, view1)
        judged = self.judge(view0, view1, batch, warped, positives)
        self._sums[0] += torch.stack(judged.counts)
        self._sums[2, 0] += WEIGHT * losses.mean() * len(batch)
        if self.plain is None:
            self._sums[1] += torch.stack(self.judge(view0, view1, batch, warped, positives, reason=False).counts)

    def on_validation_epoch_end(self) -> None:
        sums = self.trainer.strategy.reduce(self._sums, reduce_op="sum")
        self.latest = figures(sums[0])
        values = {**self.latest, "loss": float(sums[2, 0] / sums[0, 0].clamp(min=1))}
        if self.plain is None:
            self.plain, self.untrained = figures(sums[1]), dict(self.latest)
            values |= {f"plain_{name}": value for name, value in self.plain.items()}
        for name, value in values.items():
            # The same in all processes; their mean is it.
            self.log(f"validation/{name}", value, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["baseline"] = {"plain": self.plain, "untrained": self.untrained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.plain, self.untrained = checkpoint["baseline"]["plain"], checkpoint["baseline"]["untrained"]

    @torch.no_grad()
    def complete(self, view: View, size: tuple[int, int]) -> View:
        """Return a view with local and semantic features, computed where it has none."""
        if view.keypoints is None:
            assert view.image is not None
            features = self._frozen["extractor"](view.image)
            view = replace(
                view, keypoints=features.keypoints, descriptors=features.descriptors.float(), valid=features.valid
            )
        if view.semantic is None:
            assert view.image is not None and view.keypoints is not None
            config, encoder = self.reasoner.config, self._frozen["encoder"]
            long_side = config.fix_dino_size if config.fix_dino_size > 0 else DEFAULT_LONG_SIDE
            feature_map = encoder(resized_for(encoder, view.image, long_side))
            sampled = sample_at_keypoints(
                feature_map.float(),
                view.keypoints,
                size,
                patch_size=encoder.patch_size,
                scale=1.0,
                registration="exact",
                mode=config.semantic_interpolation_mode,
            )
            view = replace(view, semantic=sampled)
        return view

    @torch.no_grad()
    def judge(
        self, view0: View, view1: View, batch: Batch, warped: Warped, positives: Positives, *, reason: bool = True
    ) -> Judged:
        """Match two completed views and hold the matches against the truth.

        Args:
            reason: with the reasoner; else by the local descriptors as they are.
        """
        features0, features1 = (self._features(view, batch.size, reason) for view in (view0, view1))
        dense = match_features_densely(features0, features1)
        counts = count_matches(dense.matches0, warped, features1.keypoints, positives)
        return Judged(features0, features1, dense.matches0, dense.similarity0, warped, counts)

    def truth(self, batch: Batch, view0: View, view1: View) -> tuple[Warped, Positives]:
        """Return where the keypoints of view 0 are in view 1, and the true matches."""
        assert view0.keypoints is not None and view1.keypoints is not None
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            warped = batch.truth.forward(view0.keypoints.float())
            if view0.valid is not None:
                warped = Warped(warped.keypoints, warped.valid & view0.valid)
            return warped, true_matches(warped.keypoints, warped.valid, view1.keypoints.float(), view1.valid)

    def _losses(self, batch: Batch, view0: View, view1: View) -> tuple[Tensor, Warped, Positives]:
        warped, positives = self.truth(batch, view0, view1)
        layers = []
        for view in (view0, view1):
            assert view.descriptors is not None and view.semantic is not None
            outputs = self.reasoner.forward_layers(view.descriptors, view.semantic, view.valid)
            if not self.reasoner.config.deep_supervision:
                outputs = outputs[-1:]
            layers.append([(t.float(), None if s is None else s.float()) for t, s in outputs])
        # Unnormalised products of two similarities leave the range of half precision.
        with torch.autocast(self.device.type, enabled=False):
            losses = dual_softmax_loss(layers[0], layers[1], positives, valid0=view0.valid, valid1=view1.valid)
        return losses, warped, positives

    def _features(self, view: View, size: tuple[int, int], reason: bool) -> Features:
        assert view.keypoints is not None and view.descriptors is not None
        plain = Features(
            view.keypoints,
            torch.zeros(view.keypoints.shape[:2], device=view.keypoints.device),
            view.descriptors,
            image_size=size,
            valid=view.valid,
        )
        if not reason:
            return plain
        texture, semantic = self.reasoner(view.descriptors, view.semantic, view.valid)
        return replace(
            plain,
            reasoned=F.normalize(texture.float(), dim=-1),
            semantic=None if semantic is None else F.normalize(semantic.float(), dim=-1),
        )

    def _stop(self, what: str, batch: Batch) -> None:
        stop_with_repro(
            self.config.folder,
            what,
            self.global_step,
            self.global_rank,
            batch,
            self.reasoner.state_dict(),
            self.config.to_mapping(),
        )
