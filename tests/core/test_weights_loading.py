"""Reading state dicts without running code, and loading them strictly."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from semantic_matcher_core.errors import CheckpointError
from semantic_matcher_core.semantics.dinov2 import DinoV2
from semantic_matcher_core.weights import load_state_dict_strictly, read_state_dict
from semantic_matcher_core.weights.loading import Undrawn, load_strictly

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, -1.0])}


class _RunsCode:
    """Its pickle makes a folder when it is read by an unguarded unpickler."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def _equal(state: dict[str, Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[k], STATE[k]) for k in STATE)


def _save(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["weights.pt", "weights.pth"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "extractor", "model"])
def test_state_dicts_are_read(tmp_path: Path, legacy: bool, name: str, wrapper: str | None) -> None:
    content = STATE if wrapper is None else {wrapper: STATE, "epoch": 3}
    path = _save(tmp_path / name, content, _use_new_zipfile_serialization=not legacy)
    assert _equal(read_state_dict(path))


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.safetensors")
    assert _equal(read_state_dict(tmp_path / "weights.safetensors"))
    (tmp_path / "weights.safetensors").rename(tmp_path / "weights.safetensors.part")
    assert _equal(read_state_dict(tmp_path / "weights.safetensors.part", suffix=".safetensors"))


def test_training_checkpoints_give_their_parameters_alone(tmp_path: Path) -> None:
    optimizer = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2, 3)}},
        "param_groups": [{"lr": 1e-4}],
    }
    content = {"state_dict": STATE, "optimizer": optimizer, "epoch": 2, "iter": 7, "batch": 16}
    assert _equal(read_state_dict(_save(tmp_path / "checkpoint.pt", content)))


def test_parameters_named_like_a_wrapper_are_no_wrapper(tmp_path: Path) -> None:
    state = read_state_dict(_save(tmp_path / "a.pt", {"model": torch.ones(2), "state_dict": torch.ones(3)}))
    assert sorted(state) == ["model", "state_dict"]


@pytest.mark.parametrize("where", ["top", "in state_dict", "optimizer"])
@pytest.mark.parametrize("kind", ["torch zip", "torch legacy", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, where: str, kind: str) -> None:
    marker = tmp_path / "ran"
    bomb = _RunsCode(marker)
    content: Any = {
        "top": bomb,
        "in state_dict": {"state_dict": {**STATE, "evil": bomb}},
        "optimizer": {"state_dict": STATE, "optimizer": bomb},
    }[where]
    path = tmp_path / "weights.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content if where == "top" else bomb))
    else:
        _save(path, content, _use_new_zipfile_serialization=kind == "torch zip")
    with pytest.raises(CheckpointError, match=r"weights\.pt is not loaded: it holds more than tensors"):
        read_state_dict(path)
    assert not marker.exists()
    # The bomb is live: only the guarded reading kept it from going off.
    torch.load(path, weights_only=False) if kind != "pickle" else pickle.loads(path.read_bytes())
    assert marker.is_dir()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.99])
def test_truncated_files_are_one_error(tmp_path: Path, legacy: bool, share: float) -> None:
    path = _save(tmp_path / "weights.pt", {"a": torch.rand(300, 300)}, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"weights\.pt"):
        read_state_dict(path)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_truncated_safetensors_are_one_error(tmp_path: Path, share: float) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.rand(100, 100)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is no safetensors file, or is truncated"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "content",
    [
        [torch.ones(2)],
        torch.ones(2),
        {},
        {"state_dict": {}},
        {"weight": 3.0},
        {"state_dict": {"weight": torch.ones(2), "config": {"a": 1}}},
        {3: torch.ones(2)},
        "text",
        None,
    ],
    ids=["list", "tensor", "empty", "empty inside", "number", "nested", "number as name", "text", "none"],
)
def test_what_is_no_state_dict_is_one_error(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CheckpointError, match=r"a\.pt hold"):
        read_state_dict(_save(tmp_path / "a.pt", content))


def test_other_files_are_one_error(tmp_path: Path) -> None:
    page = tmp_path / "page.pt"
    page.write_text("<!DOCTYPE html><html>Not Found</html>")
    archive = tmp_path / "archive.pt"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "no weights")
    scripted = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), scripted)
    (tmp_path / "scripted.pt").write_bytes(scripted.getvalue())
    for path in (page, archive, tmp_path / "scripted.pt", tmp_path / "missing.pt", tmp_path):
        with pytest.raises(CheckpointError, match=path.name):
            read_state_dict(path)


def test_strict_loading_takes_what_fits(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    load_state_dict_strictly(module, _save(tmp_path / "a.pt", STATE))
    assert _equal(module.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, r"a\.pt does not fit Linear: 1 missing: bias"),
        ({"extra": torch.ones(1)}, r"1 unexpected: extra"),
        ({"weight": torch.ones(3, 2)}, r"1 of another shape: weight \(3x2, expected 2x3\)"),
        (
            {"weight": None, "a": torch.ones(1), "bias": torch.ones(3)},
            r"missing: weight; .*unexpected: a; .*shape: bias",
        ),
        ({f"k{i}": torch.ones(1) for i in range(9)}, r"9 unexpected: k0, k1, k2, k3 …"),
    ],
)
def test_strict_loading_names_what_differs_and_changes_nothing(tmp_path: Path, change: dict, message: str) -> None:
    module = nn.Linear(3, 2)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    state = {k: v for k, v in {**STATE, **change}.items() if v is not None}
    with pytest.raises(CheckpointError, match=message):
        load_state_dict_strictly(module, _save(tmp_path / "a.pt", state))
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    module = nn.Linear(2, 3)
    state = {"weight": torch.ones(3, 2), "bias": torch.tensor([1.0, value, 1.0])}
    with pytest.raises(CheckpointError, match=r"holds NaN or infinity in 1 of 2 tensors \(bias"):
        load_strictly(module, state, "weights.pt")
    assert bool(module.bias.isfinite().all())


def test_a_module_may_convert_published_names(tmp_path: Path) -> None:
    class Converting(nn.Linear):
        def convert_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"weight": state["w"], "bias": state["b"]}

    module = Converting(3, 2)
    load_state_dict_strictly(module, _save(tmp_path / "a.pt", {"w": STATE["weight"], "b": STATE["bias"]}))
    assert _equal(module.state_dict())
    with pytest.raises(CheckpointError, match=r"a\.pt does not fit Converting: lacks 'b'"):
        load_state_dict_strictly(module, _save(tmp_path / "a.pt", {"w": STATE["weight"]}))


def test_files_older_than_batch_counters_load(tmp_path: Path) -> None:
    module = nn.Sequential(nn.BatchNorm2d(4))
    state = {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    load_state_dict_strictly(module, _save(tmp_path / "a.pt", state))
    with pytest.raises(CheckpointError, match="running_mean"):
        load_state_dict_strictly(module, _save(tmp_path / "b.pt", {k: v for k, v in state.items() if "mean" not in k}))


def test_reading_does_not_hold_the_file(tmp_path: Path) -> None:
    """A checkpoint may be replaced (renamed over) while what was read from the old one is in use."""
    path = _save(tmp_path / "a.pt", STATE)
    state = read_state_dict(path)
    _save(tmp_path / "b.pt", {k: v + 1 for k, v in STATE.items()})
    (tmp_path / "b.pt").replace(path)
    assert _equal(state)


@pytest.mark.parametrize(
    "name", ["alike-n", "alike-t", "aliked-n16", "aliked-n32", "aliked-t16", "aliked-n16rot", "dalf", "xfeat-extractor"]
)
def test_published_files_read_without_code(shared: Path, name: str) -> None:
    from semantic_matcher_core.weights import find_weights

    state = read_state_dict(find_weights(name, shared / "weights"))
    assert len(state) > 50
    assert all(tensor.device.type == "cpu" for tensor in state.values())


def test_what_is_loaded_at_once_is_not_drawn() -> None:
    """Nor are the caller's random numbers used up."""
    expected = DinoV2("dinov2_vits14").state_dict()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with Undrawn():
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.BatchNorm1d(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert network[2].weight.tolist() == [1] * 5 and network[2].bias.tolist() == [0] * 5
    with Undrawn():
        encoder = DinoV2("dinov2_vits14")
    load_strictly(encoder, expected, "here")
    assert all(torch.equal(value, expected[name]) for name, value in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    nn.Linear(4, 5)
    assert not torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("bounds", [(-2.0, 2.0), (1.5, 2.0)], ids=["likely", "unlikely"])
def test_what_is_drawn_until_it_is_in_bounds_ends(bounds: tuple[float, float]) -> None:
    """Whatever lay in the memory before: `nn.init.trunc_normal_` draws again what is out of bounds."""
    with Undrawn():
        tensor = nn.init.trunc_normal_(torch.full((50,), 100.0), 0.0, 1.0, *bounds)
        assert tensor.min() >= bounds[0] and tensor.max() <= bounds[1]
        nn.init.xavier_uniform_(torch.empty(3, 3))
        nn.init.orthogonal_(torch.empty(3, 3))
