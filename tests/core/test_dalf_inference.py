"""What makes DALF fast at inference changes nothing: folding, strips, and interpolation by banded matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.extractors.dalf.backbone import UNet
from semantic_matcher_core.extractors.dalf.patch_network import CircularPad, PatchNetwork
from semantic_matcher_core.extractors.dalf.strips import bicubic_matrix, in_strips, upsampled_in_strips
from semantic_matcher_core.extractors.folding import FoldedSequential


def settle_norms(module: nn.Module) -> None:
    """Statistics and, where there are any, weights as training would leave them."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.3, 3)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 2)
                nn.init.normal_(norm.bias)


@pytest.fixture
def layers() -> FoldedSequential:
    torch.manual_seed(0)
    made = FoldedSequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8, affine=False),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1, bias=True),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 1),
    )
    settle_norms(made)
    return made.eval()


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_folding_changes_nothing_but_rounding(layers: FoldedSequential) -> None:
    x = random(2, 3, 17, 23)
    plain = nn.Sequential(*layers)
    torch.testing.assert_close(layers(x), plain(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(layers(x, fold=False), plain(x))
    assert list(layers.state_dict()) == list(plain.state_dict())


def test_folding_keeps_gradients(layers: FoldedSequential) -> None:
    x = random(1, 3, 9, 9)
    gradients = []
    for sequence in (layers, nn.Sequential(*layers)):
        layers.zero_grad()
        sequence(x).square().mean().backward()
        gradients.append([p.grad.clone() for p in layers.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(layers.parameters()))
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def test_training_uses_the_statistics_of_the_batch(layers: FoldedSequential) -> None:
    x = random(4, 3, 9, 9) * 5
    layers.train()
    before = layers[1].running_mean.clone()
    out = layers(x)
    assert not torch.equal(before, layers[1].running_mean)
    assert not torch.allclose(out, layers.eval()(x), atol=1e-2)


@pytest.mark.parametrize("size", [(480, 33), (97, 40), (2, 2), (65, 5)])
def test_strips_are_the_whole(layers: FoldedSequential, size: tuple[int, int]) -> None:
    x = random(2, 3, *size)
    torch.testing.assert_close(in_strips(x, layers, halo=2), F.max_pool2d(layers(x), 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("size", "wanted"), [((236, 31), (480, 64)), ((12, 12), (33, 97)), ((5, 9), (5, 9)), ((2, 3), (1, 70))]
)
def test_upsampling_in_strips_is_torchs_bicubic(
    layers: FoldedSequential, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    x = random(2, 3, *size)
    whole = F.interpolate(x, size=wanted, mode="bicubic", align_corners=True)
    torch.testing.assert_close(upsampled_in_strips(x, wanted, nn.Identity(), halo=0), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(upsampled_in_strips(x, wanted, layers, halo=2), layers(whole), atol=1e-4, rtol=0)


def test_rows_of_the_bicubic_matrix_sum_to_one() -> None:
    for size, wanted in ((7, 30), (100, 51), (3, 1)):
        torch.testing.assert_close(bicubic_matrix(size, wanted).sum(dim=1), torch.ones(wanted), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 96, 130), (3, 101, 64), (1, 32, 32)])
def test_the_network_gives_what_its_layers_give(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    net = UNet().eval().requires_grad_(False)
    settle_norms(net)
    batch, height, width = size
    grey = torch.rand(batch, 1, height, width)
    for fast, plain in zip(net(grey), net(grey, fold=False), strict=True):
        assert fast.shape == plain.shape
        torch.testing.assert_close(fast, plain, atol=1e-4 * float(plain.abs().max()), rtol=0)


def test_padding_once_for_three_convolutions_is_padding_three_times() -> None:
    torch.manual_seed(0)
    net = PatchNetwork(64).eval().requires_grad_(False)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    patches = torch.rand(5, 1, 32, 32)
    once = net(patches)
    assert once.std(dim=0).mean() > 0.05
    for pad in net.modules():
        if isinstance(pad, CircularPad):
            pad.rows = 1
    torch.testing.assert_close(once, net(patches), atol=1e-6, rtol=1e-5)
    # A turn of the patch by whole rows of the last map (32 / 8) is a shift that the average does not see.
    torch.testing.assert_close(net(patches.roll(4, dims=2)), once, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(net(patches.flip(2)), once, atol=0.05)


def test_in_training_each_convolution_is_padded_by_itself() -> None:
    net = PatchNetwork(64).train()
    sizes: list[int] = []
    for layer in net.features:
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            layer.register_forward_hook(lambda _module, given, _out: sizes.append(given[0].shape[2]))
    net(torch.rand(4, 1, 32, 32))
    assert sizes == [34, 34, 34, 18, 18, 10]
