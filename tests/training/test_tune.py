"""The last stage of the extractor, small: views are followed, losses are what they say, it learns and goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from semantic_matcher_core.errors import CheckpointError, ConfigError
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.extractors.compact_network import CompactNetwork
from semantic_matcher_core.extractors.dkd import windows_at
from semantic_matcher_core.io.images import write_image
from semantic_matcher_core.weights.loading import read_state_dict
from tests.conftest import REPOSITORY, make_textured_image
from training.errors import DataError
from training.strict_mapping import load_dataclass
from training.student.beginning import network_in_use
from training.student.config import DataConfig, LightConfig, TuneConfig
from training.student.tune import Seen, correct_matches, matched_rightly, seen, tune, tuning_losses
from training.student.views import ViewMaker
from training.tune_compact import tune as command

_CPU = torch.device("cpu")


def config_of(photos: Path, folder: Path, **changes: object) -> TuneConfig:
    data = DataConfig(
        str(photos), holdout=4, side=190, view=96, shares=(0.8, 0.2, 0.0), scale=(0.6, 1.0), tilt=15.0, difficulty=0.3,
        chunk=4, pool=16, uses=4.0, turn=0.0,
    )  # fmt: skip
    config = TuneConfig(data, folder=str(folder), steps=40, keypoints=128, lr=1e-3, light=LightConfig(0.5, 0.3))
    return replace(config, **changes)  # type: ignore[arg-type]


def views_of(config: TuneConfig, shares: tuple[float, float, float]) -> ViewMaker:
    data = replace(config.data, shares=shares)
    return ViewMaker.of_files(data, _CPU, torch.Generator().manual_seed(2), print)


@pytest.fixture(scope="module")
def pairs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    config = config_of(photos, tmp_path_factory.mktemp("runs"))
    network = network_in_use("bundled")
    made = [seen(network, network, v, None, config) for v in views_of(config, (1.0, 0.0, 0.0)).make(5)]
    return Seen.joined(made)


def test_keypoints_are_the_extractors_own_and_partners_are_where_they_moved(pairs: Seen, photos: Path) -> None:
    assert len(pairs) == 5 and pairs.keypoints.shape == (5, 2, 128, 2)
    partner = pairs.partner
    row, index = (partner >= 0).nonzero(as_tuple=True)
    assert len(row) > 100
    there = pairs.keypoints[row, 1, partner[row, index]]
    assert ((there - pairs.moved[row, 0, index]).norm(dim=-1) < 2).all()
    # And back: what the second view says of the partner is the first.
    again = pairs.moved[row, 1, partner[row, index]]
    assert ((again - pairs.keypoints[row, 0, index]).norm(dim=-1) < 4).float().mean() > 0.95

    config = config_of(photos, photos / "unused")
    views = views_of(config, (1.0, 0.0, 0.0)).make(2)[0]
    network = network_in_use("bundled")
    made = seen(network, network, views, None, config)
    extractor = create_extractor("compact", 128, device="cpu")
    with torch.inference_mode():
        found = extractor(views.images[0].float() / 255)
    torch.testing.assert_close(made.keypoints[0][:, : found.keypoints.shape[1]], found.keypoints, atol=1e-3, rtol=0)


def test_windows_are_the_values_round_a_pixel() -> None:
    values = torch.arange(2 * 7 * 9.0).view(2, 7, 9)
    pixels = torch.tensor([[[4, 3], [0, 0]], [[6, 2], [8, 6]]])
    found = windows_at(values, pixels, 2)
    torch.testing.assert_close(found[0, 0].view(5, 5), values[0, 1:6, 2:7])
    torch.testing.assert_close(found[1, 0].view(5, 5), values[1, 0:5, 4:9])
    assert found[0, 1].view(5, 5)[0, 0] == values[0, 0, 0] and found[1, 1].view(5, 5)[-1, -1] == values[1, -1, -1]


def test_right_matches_are_mutual_and_in_place(pairs: Seen) -> None:
    perfect = torch.full((5, 128, 128), -1.0)
    row, index = (pairs.partner >= 0).nonzero(as_tuple=True)
    perfect[row, index, pairs.partner[row, index]] = 1.0
    right = matched_rightly(perfect, pairs)
    assert right[:, 0][pairs.partner >= 0].all()
    assert right[:, 1].sum() == right[:, 0].sum()
    assert not (right & ~pairs.known).any(dim=1).any() or not (right[:, 0] & ~pairs.known[:, 0]).any()
    # What is most similar to something far away is not right, however mutual.
    wrong = perfect.roll(1, dims=0)
    assert matched_rightly(wrong, pairs).float().mean() < 0.1 * right.float().mean()


def test_losses_are_least_for_what_is_wanted(pairs: Seen) -> None:
    torch.manual_seed(0)
    network = network_in_use("bundled")
    found = tuning_losses(network, pairs, 0.05)
    assert found.shape.item() == pytest.approx(0, abs=1e-4)  # nothing learnt yet; halves are kept
    with torch.no_grad():
        network.head[2].weight.add_(torch.randn_like(network.head[2].weight) * 0.1)
        network.score[1].bias.add_(1.0)
    worse = tuning_losses(network, pairs, 0.05)
    assert worse.match > found.match and worse.right < found.right
    assert worse.shape.item() == pytest.approx(0.1, rel=0.05)  # the level moved by one
    worse.match.backward()
    assert network.head[0].weight.grad is not None and network.offsets.weight.grad is not None


def test_it_learns_goes_on_and_is_used(photos: Path, tmp_path: Path) -> None:
    state = read_state_dict(Path(create_weights(tmp_path)))
    config = config_of(photos, tmp_path / "runs", start_from=str(tmp_path / "spoilt.safetensors"))
    said: list[str] = []
    # Stopped in the middle, the same command goes on.
    tune(replace(config, steps=20), device=_CPU, report=said.append)
    (tmp_path / "runs/tuned/final.safetensors").unlink()
    final = tune(config, device=_CPU, report=said.append)
    assert "tuned 40" in said[-1] and "held out" in said[1]

    def figure(line: str) -> float:
        return float(line.split("right ")[1].split()[0])

    assert figure(said[-1]) > 1.15 * figure(said[1])
    tuned = read_state_dict(final)
    frozen = {name.split(".")[0] for name in tuned if torch.equal(tuned[name], state[name].half())}
    assert frozen == {"stride2", "stride4"}
    # As a command: what is done already is copied.
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(asdict(config)))))
    folder = tmp_path / "weights"
    command(tmp_path / "tune.yaml", None, None, "cpu", folder)
    assert (folder / "compact_extractor.safetensors").read_bytes() == final.read_bytes()
    used = create_extractor("compact", 64, weights=folder, device="cpu")
    with torch.inference_mode():
        assert torch.isfinite(used(torch.rand(1, 3, 96, 96)).descriptors).all()
    with pytest.raises(CheckpointError, match="other settings \\(seed\\)"):
        (tmp_path / "runs/tuned/final.safetensors").unlink()
        tune(replace(config, seed=9), device=_CPU, report=said.append)


def create_weights(folder: Path) -> str:
    """The bundled extractor with a descriptor head that was spoilt a little."""
    network = network_in_use("bundled")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in (network.head[0], network.head[2]):
            layer.weight.add_(torch.randn(layer.weight.shape, generator=generator) * 2.5 * layer.weight.std())
    path = folder / "spoilt.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return str(path)


def test_what_cannot_be_tuned_is_said(photos: Path, tmp_path: Path) -> None:
    given = load_dataclass(TuneConfig, REPOSITORY / "training/configs/compact-tune.yaml", ["steps=7"])
    assert (given.steps, given.start_from, given.data.view) == (7, "bundled", 448)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no weights of the compact extractor"):
        network_in_use(str(tmp_path / "other.safetensors"))
    with pytest.raises(ConfigError, match="keypoints must be a whole number from 2 up, got 1"):
        load_dataclass(TuneConfig, REPOSITORY / "training/configs/compact-tune.yaml", ["keypoints=1"])
    empty = tmp_path / "one"
    empty.mkdir()
    write_image(empty / "a.png", make_textured_image(150, 190, 1))
    with pytest.raises(DataError, match="too few to train on"):
        tune(config_of(empty, tmp_path / "runs"), device=_CPU, report=lambda line: None)


def test_held_out_matches_are_counted_as_matching_would(pairs: Seen) -> None:
    network = network_in_use("bundled")
    everything = correct_matches(network, [pairs], 256)
    half = correct_matches(network, [pairs], 128)
    right = matched_rightly(tuned_similarity(network, pairs), pairs)[:, 0].sum().item() / 5
    assert everything["right"] == pytest.approx(right, abs=0.2)
    assert 0 < half["right"] < everything["right"] and half["share"] > 0.3


@torch.no_grad()
def tuned_similarity(network: CompactNetwork, pairs: Seen) -> torch.Tensor:
    _, fine, coarse = pairs.maps(network)
    described = network.describe(fine, coarse, pairs.keypoints.flatten(0, 1)).unflatten(0, (-1, 2))
    hidden = ~(pairs.valid[:, 0, :, None] & pairs.valid[:, 1, None])
    return (described[:, 0] @ described[:, 1].mT).masked_fill(hidden, -10.0)
