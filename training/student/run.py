"""A run of training as its folder keeps it: the network, its average, figures, a checkpoint, and the final weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from semantic_matcher_core.errors import CheckpointError
from semantic_matcher_core.extractors.compact_network import CompactNetwork
from semantic_matcher_core.io.atomic import atomic_output, make_folder
from training.state import read_state
from training.student.config import RunConfig
from training.student.progress import check_finite, words


class Run:
    """Network, its average, optimizer and folder; it goes on from the checkpoint in the folder, where there is one.

    Args:
        config: of the run.
        network: that learns, on its device.
        optimizer: of what it learns.
        losses: names of what :meth:`learn` is given.
        decisive: settings that the checkpoint depends on. Where the pictures lie, how many steps there are and what
            the next ones learn may change: a checkpoint goes on with another recipe.

    Raises:
        CheckpointError: the checkpoint is of other decisive settings.
    """

    def __init__(
        self,
        config: RunConfig,
        network: CompactNetwork,
        optimizer: torch.optim.Optimizer,
        losses: Sequence[str],
        decisive: Mapping[str, Any],
    ) -> None:
        folder = config.run_folder
        make_folder(folder)
        self.final, self._checkpoint, self._figures = (
            folder / name for name in ("final.safetensors", "checkpoint.pt", "figures.jsonl")
        )
        self.name, self.network, self.optimizer = config.name, network, optimizer
        self.average = copy.deepcopy(network)
        self.step, self.share = 0, 0.0
        self._losses, self._values = losses, list[Tensor]()
        self._decisive = json.dumps(decisive, sort_keys=True)
        self._learnt = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._weight = config.average
        if self._checkpoint.is_file():
            self._go_on()
        both = zip(self.average.state_dict().values(), network.state_dict().values(), strict=True)
        self._kept, self._new = zip(*(pair for pair in both if pair[0].is_floating_point()), strict=True)

    def learn(self, total: Tensor, losses: Sequence[Tensor], rates: Sequence[float]) -> None:
        """Take one optimisation step, and the network into its average.

        Args:
            total: what is made smaller.
            losses: scalars, for the figures.
            rates: of the optimizer's groups.
        """
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self._learnt, 1.0)
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            weight = min(self._weight, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self._kept, self._new, 1 - weight)
        self._values.append(torch.stack([*losses]).detach())

    def log_means(self) -> str:
        """Append the mean losses since the last time, and say them.

        Raises:
            DataError: one is not finite.
        """
        means = dict(zip(self._losses, torch.stack(self._values).mean(dim=0).tolist(), strict=True))
        self._values.clear()
        check_finite(means, self.name, self.step)
        self.log({"share": round(self.share, 4), **means})
        return words(means)

    def log(self, values: Mapping[str, Any]) -> None:
        """Append a line of figures."""
        with open(self._figures, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.step, **values}) + "\n")

    def save(self) -> None:
        """Write the checkpoint."""
        content = {
            "settings": self._decisive,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "share": self.share,
        }
        with atomic_output(self._checkpoint) as temporary:
            torch.save(content, temporary)

    def finish(self, network: CompactNetwork) -> Path:
        """Write the weights of the averaged network, as it is used."""
        tensors = {name: value.half().cpu().contiguous() for name, value in network.state_dict().items()}
        with atomic_output(self.final) as temporary:
            save_file(tensors, temporary)
        return self.final

    @property
    def finished(self) -> str:
        """In words, that the run is over already; "" where it is not."""
        if not self.final.is_file():
            return ""
        return f"{self.name} is finished, at step {self.step}: nothing is learnt; give a run another name to train anew"

    def _go_on(self) -> None:
        content = read_state(self._checkpoint, ("settings", "network", "average", "optimizer", "step", "share"))
        before, now = json.loads(content["settings"]), json.loads(self._decisive)
        if before != now:
            keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
            raise CheckpointError(
                f"{self._checkpoint} was trained with other settings ({', '.join(keys)}); give the run another name, "
                "or remove it"
            )
        self.network.load_state_dict(content["network"])
        self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.share = content["step"], content["share"]
