"""Tensors that are of the same pairs, chosen and joined together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor
from typing_extensions import Self


class Batched:
    """Base of dataclasses whose fields are tensors, the first dimension of each the pairs."""

    def tensors(self) -> list[Tensor]:
        """Return the fields in their order."""
        return [getattr(self, f.name) for f in fields(self)]  # type: ignore[arg-type]  # of a dataclass

    def __len__(self) -> int:
        return len(self.tensors()[0])

    def __getitem__(self, which: Tensor) -> Self:
        return type(self)(*(tensor[which] for tensor in self.tensors()))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the pairs of all parts, one part after the other."""
        return cls(*(torch.cat(column) for column in zip(*(part.tensors() for part in parts), strict=True)))
