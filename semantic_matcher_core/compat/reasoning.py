"""The calling conventions of verlab/DescriptorReasoning_ACCV_2024, for code that moves over.

    from semantic_matcher_core.compat import Reasoning, load_reasoning_from_checkpoint

    loaded = load_reasoning_from_checkpoint("models/xfeat/")
    reasoning = Reasoning(loaded["model"])
    matches = reasoning.match({"image0": image0, "image1": image1})  # B x C x H x W in [0, 1]
    matches["matches0"][0], matches["matches1"][0]  # N x 2 (x, y) each

Same images, same weights: the same numbers, for what the published code gets right. What differs:

- Batches of any size work, and every extractor does (``aliked-n16``, ``alike-n`` … and those of third parties).
- The device given is the device used; nothing is printed.
- Weights that are not here are an error with the command that fetches them; nothing is downloaded unless
  ``fetch=True``. Checkpoints are read without running code in them.
- Keypoints are true pixel indices with every extractor (the published ALIKED gives ``index * W / (W - 1)``).
- ``loaded["config"]`` is a :class:`~semantic_matcher_core.reasoning.ModelConfig`. Timings and the semantic map are not
  among the outputs, ``load_extractor`` and ``load_dino`` not among the arguments.
- Where the images of a batch have different numbers of keypoints, rows are padded with zeros, and ``valid`` among the
  outputs tells which are real (it is ``None`` where all are).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from semantic_matcher_core import extraction
from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.inputs import as_image_batch
from semantic_matcher_core.loading import create_configured_extractor
from semantic_matcher_core.matching import MatcherConfig, match_features
from semantic_matcher_core.pipeline import SemanticMatcher
from semantic_matcher_core.reasoning.checkpoint import find_checkpoint_file, load_reasoner
from semantic_matcher_core.semantics import create_semantic_encoder
from semantic_matcher_core.types import Features

if TYPE_CHECKING:
    from semantic_matcher_core.extractors.base import Extractor
    from semantic_matcher_core.reasoning import ModelConfig, Reasoner
    from semantic_matcher_core.semantics import SemanticEncoder


def load_reasoning_from_checkpoint(checkpoint_path: str | Path, weights_path: str | None = None) -> dict[str, Any]:
    """Return a published checkpoint folder.

    Args:
        checkpoint_path: folder with ``model_config.yaml``.
        weights_path: name of a weights file in it; ``None`` for the newest.

    Returns:
        ``model`` (:class:`ReasoningBase`, on the CPU), ``config`` and ``weights_path``.

    Raises:
        CheckpointError: something is missing, damaged or unsafe, or weights and configuration do not fit.
    """
    folder = Path(checkpoint_path)
    path = find_checkpoint_file(folder) if weights_path is None else folder / weights_path
    reasoner, config = load_reasoner(folder, path)
    return {"model": ReasoningBase(reasoner, config), "config": config, "weights_path": str(path)}


class ReasoningBase(nn.Module):
    """The reasoner alone, on features that are already there.

    Attributes:
        conf: configuration of the whole model.
        reasoner: the network; its state dict has the published names.
    """

    def __init__(self, reasoner: Reasoner, conf: ModelConfig) -> None:
        super().__init__()
        self.reasoner = reasoner
        self.conf = conf
        self.eval()

    def forward(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Compute reasoned features, not normalised.

        Args:
            data: ``keypoints`` B x N x 2, ``descriptors`` B x N x De, ``semantic_features`` B x N x Ds; and ``valid``
                B x N bool where rows are padded.

        Returns:
            ``reasoning_features`` and ``semantic_features`` B x N x F, the same of all L layers as
            ``all_reasoning_features`` and ``all_semantic_features`` L x B x N x F, and what was given as ``keypoints``,
            ``extractor_features``, ``dino_features``, ``valid``.

        Raises:
            ShapeError: shapes do not fit each other or the reasoner.
        """
        descriptors, semantic, valid = data["descriptors"], data["semantic_features"], data.get("valid")
        layers = self.reasoner.forward_layers(descriptors, semantic, valid, semantic_branch=True)
        texture = torch.stack([layer for layer, _ in layers])
        meaning = torch.stack([layer for _, layer in layers if layer is not None])
        return {
            "keypoints": data["keypoints"],
            "reasoning_features": texture[-1],
            "semantic_features": meaning[-1],
            "all_reasoning_features": texture,
            "all_semantic_features": meaning,
            "extractor_features": descriptors,
            "dino_features": semantic,
            "valid": valid,
        }

    @torch.no_grad()
    def match(self, data: Any, pred: Mapping[str, Any]) -> dict[str, list[Tensor]]:
        """Find mutual nearest neighbours.

        Args:
            data: not used; published code passes the images here.
            pred: the outputs of :meth:`forward` for both images, with 0 and 1 at the end of their names.

        Returns:
            ``matches0`` and ``matches1``: for each pair of the batch, N x 2 keypoints.
        """
        sides = [self._features(pred, side) for side in "01"]
        matches = match_features(sides[0], sides[1], MatcherConfig())
        pairs = [matches.of_pair(b) for b in range(matches.batch_size)]
        return {"matches0": [m.keypoints0 for m in pairs], "matches1": [m.keypoints1 for m in pairs]}

    def _features(self, pred: Mapping[str, Any], side: str) -> Features:
        keypoints, texture = pred[f"keypoints{side}"], pred[f"reasoning_features{side}"]
        meaning = pred[f"semantic_features{side}"] if self.conf.reasoner.semantic_conditioning else None
        return Features(
            keypoints=keypoints,
            scores=keypoints.new_zeros(keypoints.shape[:2]),  # matching has no use for them
            descriptors=texture,
            image_size=(0, 0),  # nor for the size
            valid=pred.get(f"valid{side}"),
            reasoned=nn.functional.normalize(texture, dim=-1),
            semantic=None if meaning is None else nn.functional.normalize(meaning, dim=-1),
        )


class Reasoning(nn.Module):
    """From images to matches.

    Args:
        reasoning_model: ``load_reasoning_from_checkpoint(...)["model"]``.
        dev: where to run; ``None`` for where ``reasoning_model`` is. ``.to(device)`` moves it later.
        extractor, semantic_encoder: parts to use; ``None`` for those the checkpoint names, with published weights.
        weights: a folder to search for these weights before the usual places.
        fetch: download weights that are not here.

    Raises:
        WeightsNotFoundError: weights are not here; the message has the command that fetches them.
        UnknownNameError: the checkpoint names an extractor or encoder that does not exist here.
        ShapeError: a part does not fit the reasoner.
        DeviceError: there is no such device.
    """

    def __init__(
        self,
        reasoning_model: ReasoningBase,
        dev: str | torch.device | None = None,
        *,
        extractor: Extractor | None = None,
        semantic_encoder: SemanticEncoder | None = None,
        weights: str | Path | None = None,
        fetch: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(reasoning_model, ReasoningBase):
            raise ConfigError(
                f"expected load_reasoning_from_checkpoint(...)['model'], got {type(reasoning_model).__name__}"
            )
        device = next(reasoning_model.parameters()).device if dev is None else resolve_device(dev)
        self.conf = conf = reasoning_model.conf
        if extractor is None:
            extractor = create_configured_extractor(conf, weights=weights, fetch=fetch, device=device)
        if semantic_encoder is None:
            semantic_encoder = create_semantic_encoder(conf.dino_weights, weights=weights, fetch=fetch, device=device)
        self.reasoning_model = reasoning_model
        self.matcher = SemanticMatcher.from_parts(
            extractor, semantic_encoder, reasoning_model.reasoner, device=device, registration=conf.registration
        )
        self.eval()

    @torch.no_grad()
    def forward(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return keypoints and reasoned features of ``data["image"]``, B x C x H x W in [0, 1].

        Returns:
            What :meth:`ReasoningBase.forward` does.

        Raises:
            ImageError: the image cannot be used.
        """
        images = as_image_batch(data["image"], self.matcher.device)
        features = extraction.local_features(self.matcher.networks, self.matcher.settings, images)
        return self.reasoning_model(
            {
                "keypoints": features.keypoints,
                "descriptors": features.descriptors,
                "semantic_features": self.matcher.semantic_features(images, features),
                "valid": features.valid,
            }
        )

    def detectAndCompute(self, image: Any) -> tuple[Tensor, Tensor]:
        """Return keypoints and both descriptors of an image or a batch.

        Args:
            image: B x C x H x W tensor in [0, 1], or H x W x 3 uint8 array (RGB).

        Returns:
            Keypoints B x N x 2, and descriptors B x N x D x 2: texture and semantic, not normalised.
        """
        response = self.forward({"image": image})
        return response["keypoints"], torch.stack(
            (response["reasoning_features"], response["semantic_features"]), dim=-1
        )

    def match(self, data: Mapping[str, Any], pred: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return matches between ``data["image0"]`` and ``data["image1"]``, B x C x H x W in [0, 1]; sizes may differ.

        Args:
            data: the images.
            pred: outputs of :meth:`forward` for both, with 0 and 1 at the end of their names; ``None`` to compute them.

        Returns:
            ``matches0`` and ``matches1``: for each pair, N x 2 (x, y) keypoints, row by row a match; and ``pred``.
        """
        if not pred:
            pred = {
                f"{name}{side}": value
                for side in "01"
                for name, value in self.forward({"image": data[f"image{side}"]}).items()
            }
        return {**self.reasoning_model.match(data, pred), "pred": pred}
