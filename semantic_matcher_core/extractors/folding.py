"""Batch norms folded into the convolutions before them, at inference."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.optimisations import is_enabled


class FoldedSequential(nn.Sequential):
    """A sequence that runs a convolution, the batch norm after it and its ReLU as one pass over memory.

    A norm that is not training is a fixed scale and shift of each channel, and those go into the convolution's weights.
    The names in the state dict, and the results up to rounding (1e-6 relative), are those of ``nn.Sequential``; so are
    gradients. Norms in training mode run as they are.

    Args:
        channels_last: how the folded weights lie in memory, and then the maps as well.
    """

    def __init__(self, *layers: nn.Module, channels_last: bool = False) -> None:
        super().__init__(*layers)
        self.channels_last = channels_last

    def forward(self, x: Tensor, fold: bool = True) -> Tensor:
        """Compute as ``nn.Sequential`` does; ``fold=False`` to the last bit."""
        return self._run(x, list(self), fold)

    def without_last(self, x: Tensor) -> Tensor:
        """Return the sequence up to its last layer."""
        return self._run(x, list(self)[:-1], True)

    def _run(self, x: Tensor, layers: list[nn.Module], fold: bool) -> Tensor:
        folds = fold and is_enabled("folded_norms")
        position = 0
        while position < len(layers):
            layer = layers[position]
            norm = layers[position + 1] if position + 1 < len(layers) else None
            if folds and isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and not norm.training:
                x = _normalised_convolution(x, layer, norm, self.channels_last)
                position += 2
                if position < len(layers) and isinstance(layers[position], nn.ReLU):
                    x = F.relu_(x)
                    position += 1
            else:
                x = layer(x)
                position += 1
        return x


def _normalised_convolution(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, channels_last: bool) -> Tensor:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    shift = -norm.running_mean * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    weight = conv.weight * scale[:, None, None, None]
    if channels_last:
        # So that maps become what the weights say even where there is one channel, whose strides say nothing.
        weight = weight.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)
