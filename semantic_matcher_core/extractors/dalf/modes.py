"""The six published training modes: which descriptor each one ends with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from semantic_matcher_core.errors import CheckpointError


@dataclass(frozen=True)
class Mode:
    """What a mode's descriptor is made of.

    Attributes:
        backbone_dim: channels of the backbone's descriptor map.
        patch_dim: channels of the patch network.
        uses_backbone, uses_patches: which of the two the descriptor holds (patches first).
        fused: whether the fusion gate weighs the concatenation.
    """

    backbone_dim: int = 64
    patch_dim: int = 64
    uses_backbone: bool = True
    uses_patches: bool = True
    fused: bool = False

    @property
    def descriptor_dim(self) -> int:
        return self.backbone_dim * self.uses_backbone + self.patch_dim * self.uses_patches


MODES: dict[str, Mode] = {
    "ts-fl": Mode(fused=True),
    "ts1": Mode(uses_patches=False),
    "ts2": Mode(),
    "end2end-backbone": Mode(backbone_dim=128, uses_patches=False),
    "end2end-tps": Mode(patch_dim=128, uses_backbone=False),
    "end2end-full": Mode(),
}


def mode_of_state_dict(state: Mapping[str, Tensor]) -> str:
    """Return the mode a published state dict was trained in, read from its contents.

    A fusion gate means ``ts-fl``; 128 patch channels ``end2end-tps``; 128 backbone channels ``end2end-backbone``. The
    other three have the same tensors: in ``ts1`` the patch branch never ran, so its batch counters are zero; ``ts2``
    and ``end2end-full`` compute the same and are both reported as ``ts2``.

    Raises:
        CheckpointError: a tensor that every DALF state dict has is missing.
    """
    try:
        patch_dim = state["hardnet.features.36.weight"].shape[0]
        backbone_dim = state["net.features.3.weight"].shape[0]
        patch_batches = int(state["tps_net.fcn.1.num_batches_tracked"])
    except KeyError as error:
        raise CheckpointError(f"not a DALF state dict: it has no tensor {error.args[0]!r}") from error
    if "fusion_layer.0.weight" in state:
        return "ts-fl"
    if patch_dim == 128:
        return "end2end-tps"
    if backbone_dim == 128:
        return "end2end-backbone"
    return "ts2" if patch_batches else "ts1"
