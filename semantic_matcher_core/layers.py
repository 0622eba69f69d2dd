"""Layers that the bundled networks share."""

from __future__ import annotations

import copy
import itertools
import math
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.optimisations import is_enabled

_Network = TypeVar("_Network", bound=nn.Module)
First = TypeVar("First")
Second = TypeVar("Second")
_streams = threading.local()
_QUERIES, _BLOCKS, _MOST_WEIGHTS = 128, 66, 1 << 25


def attention(q: Tensor, k: Tensor, v: Tensor, attended: Tensor | None = None, *, fused: bool = True) -> Tensor:
    """Compute scaled dot-product attention (Vaswani et al., 2017).

    Args:
        q: ``B x heads x N x D``.
        k, v: ``B x heads x M x D``.
        attended: bool, broadcast to ``B x heads x N x M``: false where a query may not look.
        fused: in one kernel, without the ``N x M`` weights in memory, where that is faster; otherwise written out.

    Returns:
        ``B x heads x N x D``.
    """
    if fused and not _leaves_a_gpu_idle(q, k):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attended)
    # Scaled before the product: half precision ends at 65504.
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
    if attended is not None:
        scores = scores.masked_fill(~attended, -torch.inf)
    return scores.softmax(dim=-1) @ v


def _leaves_a_gpu_idle(q: Tensor, k: Tensor) -> bool:
    """Return whether the fused kernel has too few blocks of queries for a GPU, and the weights are small enough to
    hold.

    It works on a block of about 128 queries of one head at a time. One head of 2048 queries keeps 16 of an H200's 132
    multiprocessors busy and takes 99 us; three plain kernels share the work among all of them.
    """
    if q.device.type != "cuda":
        return False
    heads = q.shape[0] * q.shape[1]
    return heads * -(-q.shape[2] // _QUERIES) < _BLOCKS and heads * q.shape[2] * k.shape[2] <= _MOST_WEIGHTS


def conv_stack(*channels: int, stride: int = 2, batch_norm: bool = False, blocks: int = 1) -> nn.Sequential:
    """Return 3 x 3 convolutions, each with ReLU, the first with a stride.

    Args:
        channels: of the input, and of each convolution's output.
        stride: of the first.
        batch_norm: between convolution and ReLU, for training; see :func:`folded`.
        blocks: the first is of stride 1, and takes images to ``F.pixel_unshuffle`` with this factor.
    """
    steps = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
        norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
        bias = not batch_norm
        conv = (
            _BlockConv2d(inputs, outputs, blocks, bias=bias)
            if blocks > 1 and i == 0
            else nn.Conv2d(inputs, outputs, 3, 1 if i else stride, 1, bias=bias)
        )
        steps.append(nn.Sequential(conv, *norm, nn.ReLU(inplace=True)))
    return nn.Sequential(*steps)


class _BlockConv2d(nn.Conv2d):
    """A 3 x 3 convolution of what ``F.pixel_unshuffle`` makes of images.

    On a CPU one of the images themselves, with a kernel as many times as wide: unshuffling moves single numbers about,
    and takes as long as the convolution.
    """

    def __init__(self, inputs: int, outputs: int, side: int, *, bias: bool) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        side = self.side
        if images.device.type != "cpu":
            return super().forward(F.pixel_unshuffle(images, side))
        kernel = self.weight.unflatten(1, (-1, side, side)).permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)
        return F.conv2d(images, kernel, self.bias, stride=side, padding=side)


def folded(network: _Network) -> _Network:
    """Return a copy in evaluation mode whose convolutions have taken in the batch normalisation after them."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d):
            conv = module[0]
            assert isinstance(conv, nn.Conv2d)
            module[0] = fuse_conv_bn_eval(conv, module[1])
            del module[1]
    return network


def finite_rows(rows: Tensor) -> Tensor:
    """Return whether all of each row is finite: ``B x N`` bool of ``B x N x D``."""
    # In a sum, what is not finite stays so; and that less itself is not a number. isfinite() is more kernels.
    total = rows.sum(dim=-1)
    return total - total == 0


def side_by_side(
    first: Callable[[], First], second: Callable[[], Second], device: torch.device, tensors: Callable[[Second], Any]
) -> tuple[First, Second]:
    """Do both of two things that do not depend on each other; on a GPU, at inference, on two streams.

    Args:
        tensors: those that the second one's result holds.
    """
    alone = torch.is_grad_enabled() or torch.compiler.is_compiling()
    if device.type != "cuda" or alone or not is_enabled("streams"):
        return first(), second()
    current, side = torch.cuda.current_stream(device), _side_stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        theirs = second()
    ours = first()
    current.wait_stream(side)
    for tensor in tensors(theirs):
        # Its memory was taken on the side stream; it must not be given away while this one reads it.
        tensor.record_stream(current)
    return ours, theirs


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return a thread's own stream: another must not join what it records, and each stream holds a workspace."""
    made: dict[Any, Any] = _streams.__dict__
    if device not in made:
        made[device] = torch.cuda.Stream(device)
    stream: torch.cuda.Stream = made[device]
    return stream


def grid_sample(maps: Tensor, grid: Tensor, mode: str, padding_mode: str = "zeros") -> Tensor:
    """Return ``B x N x C`` of ``B x C x h x w`` maps at ``B x N x 2`` points, as
    ``F.grid_sample(align_corners=False)``.

    On a GPU that has one thread for all channels of a point, and leaves most of the card idle; so each channel is a map
    of its own there.
    """
    options: dict[str, Any] = {"mode": mode, "padding_mode": padding_mode, "align_corners": False}
    if maps.device.type != "cuda" or not grid.numel():
        return F.grid_sample(maps, grid[:, None], **options)[:, :, 0].transpose(1, 2)
    batch, channels = maps.shape[:2]
    each = grid[:, None, None].expand(-1, channels, -1, -1, -1).flatten(0, 1)
    return F.grid_sample(maps.flatten(0, 1)[:, None], each, **options).view(batch, channels, -1).transpose(1, 2)


def memory_format(channels_last: bool) -> torch.memory_format:
    """Return torch's name for how convolutions' weights and maps lie, which a network keeps as a bool: torch's objects
    do not go into the pickles that ``torch.save`` makes.
    """
    return torch.channels_last if channels_last else torch.contiguous_format


def standardised(images: Tensor) -> Tensor:
    """Return ``B x 3 x H x W`` with zero mean and unit variance in each image: exposure and contrast drop out."""
    # In three passes: torch.std_mean takes six times as long on a CPU.
    centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
    size = math.sqrt(max(1, images.shape[1:].numel()))
    deviation = torch.linalg.vector_norm(centred, dim=(1, 2, 3), keepdim=True) / size
    return centred / (deviation + 1e-3) if centred.requires_grad else centred.div_(deviation + 1e-3)
