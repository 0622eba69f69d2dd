"""Checkpoints of a stage, from which it goes on exactly, and its log of figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semantic_matcher_core.errors import CheckpointError
from semantic_matcher_core.io.atomic import atomic_output
from training.errors import DataError

_LONGEST_GRADIENT = 5.0


def load_initial(network: nn.Module, folder: Path) -> None:
    """Give a network the weights of a stage's last checkpoint, batch normalisation not folded.

    Raises:
        CheckpointError: there is none, or it is of another network.
    """
    path = folder / "checkpoint.pt"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, and this stage starts from it; train that stage (again) first")
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["network"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} is of another network than this stage's: {error}") from error


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor, name: str, step: int) -> None:
    """One step of the optimiser, with gradients no longer than 5.

    Raises:
        DataError: loss or gradient are not finite; the networks are left as they were.
    """
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], _LONGEST_GRADIENT)
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        raise DataError(
            f"at step {step} of the {name} the loss is {loss.item():.4g} and its gradient's length {norm.item():.4g}; "
            "the last checkpoint is from before. Go on with another seed or a lower rate, in a run of another name "
            "with start_from"
        )
    optimizer.step()


class StageFolder:
    """The files of one stage: ``checkpoint.pt``, ``figures.jsonl`` and, at its end, ``final.safetensors``.

    Args:
        folder: made where it is not there.
        settings: what decides the result; a checkpoint of other settings is refused.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))

    @property
    def final(self) -> Path:
        """Weights of the finished stage."""
        return self.folder / "final.safetensors"

    def save(self, step: int, seconds: float, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write the checkpoint, whole or not at all."""
        content = {
            "step": step,
            "seconds": seconds,
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "settings": json.dumps(self.settings),
        }
        with atomic_output(self.folder / "checkpoint.pt") as temporary:
            torch.save(content, temporary)

    def restore(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
        """Steps done and seconds spent so far; (0, 0) where there is no checkpoint.

        Raises:
            CheckpointError: it is of other settings.
        """
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return 0, 0.0
        content = torch.load(path, map_location="cpu", weights_only=True)
        before = json.loads(content["settings"])
        if before != self.settings:
            keys = sorted(k for k in before.keys() | self.settings.keys() if before.get(k) != self.settings.get(k))
            raise CheckpointError(
                f"{path} was trained with other settings ({', '.join(keys)}); give the run another name, or remove it"
            )
        network.load_state_dict(content["network"])
        optimizer.load_state_dict(content["optimizer"])
        return content["step"], content["seconds"]

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Append a line of figures."""
        with open(self.folder / "figures.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
