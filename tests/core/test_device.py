"""Devices and precisions: what is asked for is given, or refused by name."""

from __future__ import annotations

import pytest
import torch

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.device import is_slow, resolve_device, resolve_precision
from semantic_matcher_core.errors import ConfigError, DeviceError


@pytest.mark.parametrize(("available", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_cuda_where_there_is_one(monkeypatch, available, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert resolve_device().type == resolve_device("auto").type == expected


def test_devices_pass_through():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda")])
def test_absent_cuda_is_an_error(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"torch sees 0 CUDA device\(s\); use device 'cpu' or 'auto'"):
        resolve_device(device)


def test_index_beyond_the_last_cuda_device_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="'cuda:2' requested, but torch sees 2"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "mps", "meta", "xpu:0"])
def test_unknown_device_is_named(device):
    with pytest.raises(DeviceError, match=f"unknown device '{device}'") as found:
        resolve_device(device)
    assert isinstance(found.value, ConfigError), "wrong usage, as other unknown names"


def test_precisions():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert resolve_precision("fp32", cpu) is torch.float32
    assert resolve_precision("bf16", cpu) is torch.bfloat16
    assert resolve_precision("fp16", cuda) is torch.float16
    with pytest.raises(DeviceError, match="needs a GPU"):
        resolve_precision("fp16", cpu)
    with pytest.raises(ConfigError, match="unknown precision 'float'; use one of fp32, fp16, bf16"):
        resolve_precision("float", cpu)


@pytest.mark.parametrize(
    ("capabilities", "slow"),
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "avx512_bf16": True}, False),
        ({"architecture": "x86_64", "amx_bf16": True}, False),
        ({"architecture": "aarch64"}, False),
        ({}, False),
    ],
)
def test_bf16_without_instructions_for_it_is_known_to_be_slow(monkeypatch, capabilities, slow):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert is_slow(torch.bfloat16, torch.device("cpu")) is slow
    assert not is_slow(torch.float32, torch.device("cpu")) and not is_slow(torch.bfloat16, torch.device("cuda"))


def test_slow_bf16_is_said(monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64"}, raising=False)
    SemanticMatcher.from_pretrained("compact", device="cpu", precision="bf16")
    assert "precision 'bf16' is slower than 'fp32' here" in caplog.text
    caplog.clear()
    SemanticMatcher.from_pretrained("compact", device="cpu")
    assert not caplog.records
