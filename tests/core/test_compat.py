"""The published calling conventions of descriptor reasoning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semantic_matcher_core.compat import Reasoning, ReasoningBase, load_reasoning_from_checkpoint
from semantic_matcher_core.errors import (
    CheckpointError,
    ConfigError,
    DeviceError,
    ImageError,
    ShapeError,
    WeightsNotFoundError,
)
from semantic_matcher_core.extractors.sift import Sift
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.reasoning import ModelConfig, Reasoner, ReasonerConfig, save_checkpoint
from semantic_matcher_core.semantics.compact_context import CompactContext
from semantic_matcher_core.semantics.dinov2 import DinoV2

Render = Callable[..., np.ndarray]


def make_config(conditioning: bool = True) -> ModelConfig:
    return ModelConfig(
        dino_weights="dinov2_vits14",
        extractor_name="sift",
        reasoner=ReasonerConfig(
            128,
            384,
            features_dim=32,
            n_attention_layers=2,
            num_heads=2,
            semantic_conditioning=conditioning,
            fix_dino_size=140,
        ),
        extractor_options={"max_num_keypoints": 120, "force_num_keypoints": True, "pretrained": True},
    )


@pytest.fixture(scope="module")
def encoder() -> DinoV2:
    torch.manual_seed(0)
    return DinoV2("dinov2_vits14").eval()


def make_model(tmp_path: Path, conditioning: bool = True) -> ReasoningBase:
    torch.manual_seed(1)
    config = make_config(conditioning)
    reasoner = Reasoner(config.reasoner)
    with torch.no_grad():  # so that the semantic features make a difference
        reasoner.dino_reprojection.weight.mul_(4)
    save_checkpoint(tmp_path / "folder", reasoner, config)
    return load_reasoning_from_checkpoint(str(tmp_path / "folder") + "/")["model"]


def as_tensor(*images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def mutual_matches(similarity: Tensor) -> list[tuple[int, int]]:
    forward, backward = similarity.argmax(dim=1), similarity.argmax(dim=0)
    return [(i, int(j)) for i, j in enumerate(forward) if backward[j] == i]


@pytest.mark.parametrize("variant", ["i", "ii"])
def test_golden_reasoner_alone(shared: Path, variant: str) -> None:
    golden = np.load(shared / "golden" / f"reasoning_{variant}.npz")
    loaded = load_reasoning_from_checkpoint(str(shared / "golden" / f"reasoning_ckpt_{variant}"))
    assert set(loaded) == {"model", "config", "weights_path"}
    assert loaded["weights_path"].endswith("checkpoint_0_0.pt")
    assert loaded["config"].extractor_name == {"i": "xfeat", "ii": "aliked-n"}[variant]
    model = loaded["model"]
    assert not model.training
    pred: dict[str, Any] = {}
    with torch.inference_mode():
        for side in "01":
            out = model(
                {
                    "keypoints": torch.from_numpy(golden[f"keypoints{side}"]),
                    "descriptors": torch.from_numpy(golden[f"descriptors{side}"]),
                    "semantic_features": torch.from_numpy(golden[f"semantic_features_in{side}"]).float(),
                }
            )
            # Both branches, whatever conditioning says: the published model gives both.
            for name in ("reasoning_features", "semantic_features"):
                np.testing.assert_allclose(out[name], golden[f"out_{name}{side}"], atol=1e-5)
                if side == "0":
                    np.testing.assert_allclose(out[f"all_{name}"], golden[f"out_all_{name}0"], atol=1e-5)
            pred.update({f"{name}{side}": value for name, value in out.items()})
    matches = model.match(None, pred)
    assert len(matches["matches0"]) == len(matches["matches1"]) == 1
    np.testing.assert_array_equal(matches["matches0"][0], golden["match_kpts0"])
    np.testing.assert_array_equal(matches["matches1"][0], golden["match_kpts1"])


@pytest.mark.parametrize("conditioning", [True, False])
@pytest.mark.parametrize("size", [(97, 133), (150, 90)])
@torch.inference_mode()
def test_match_follows_the_published_steps(
    tmp_path: Path, encoder: DinoV2, textured: Render, size: tuple[int, int], conditioning: bool
) -> None:
    model = make_model(tmp_path, conditioning)
    scene = textured(size[0] + 10, size[1] + 10, seed=1)
    views = [as_tensor(scene[: size[0], : size[1]]), as_tensor(scene[5 : 5 + size[0], 8 : 8 + size[1]])]
    result = Reasoning(model, semantic_encoder=encoder).match({"image0": views[0], "image1": views[1]})

    # The same by hand, step by step as published.
    similarity: Any = 1
    sides = []
    for image in views:
        features = Sift(120)(image)
        h, w = size
        resized_size = (140, int(w * 140 / h)) if h > w else (int(h * 140 / w), 140)
        resized = F.interpolate(image, resized_size, mode="bilinear", align_corners=False)
        patches = F.interpolate(resized, [n // 14 * 14 for n in resized_size])
        semantic_map = encoder(patches)
        cells = torch.tensor([semantic_map.shape[3], semantic_map.shape[2]])
        grid = features.keypoints * (resized_size[0] / h) / (cells * 14) * 2 - 1
        sampled = F.grid_sample(semantic_map, grid[:, None], mode="bicubic", align_corners=False)[:, :, 0]
        semantic = F.normalize(sampled, dim=1).transpose(1, 2)
        sides.append((features.keypoints, *model.reasoner(features.descriptors, semantic, semantic_branch=True)))
    for branch in (1, 2) if conditioning else (1,):
        a, b = (F.normalize(side[branch], dim=-1)[0] for side in sides)
        similarity = similarity * (a @ b.T)
    expected = mutual_matches(similarity)
    assert len(expected) > 20
    rows0, rows1 = map(list, zip(*expected, strict=True))
    assert torch.equal(result["matches0"][0], sides[0][0][0, rows0])
    assert torch.equal(result["matches1"][0], sides[1][0][0, rows1])
    for side, (keypoints, texture, meaning) in zip("01", sides, strict=True):
        pred = result["pred"]
        assert torch.equal(pred[f"keypoints{side}"], keypoints)
        torch.testing.assert_close(pred[f"reasoning_features{side}"], texture, atol=1e-5, rtol=0)
        torch.testing.assert_close(pred[f"semantic_features{side}"], meaning, atol=1e-5, rtol=0)


def test_batches_give_a_list_entry_per_pair(tmp_path: Path, encoder: DinoV2, textured: Render) -> None:
    reasoning = Reasoning(make_model(tmp_path), semantic_encoder=encoder)
    flat = np.full((90, 120, 3), 80, np.uint8)  # no keypoints
    sparse = flat.copy()
    sparse[:50, :50] = textured(50, 50, seed=7)
    first = as_tensor(textured(90, 120, seed=2), sparse, flat)
    second = as_tensor(textured(90, 120, seed=2)[:, ::-1].copy(), textured(90, 120, seed=3), sparse)
    result = reasoning.match({"image0": first, "image1": second})
    assert len(result["matches0"]) == len(result["matches1"]) == 3
    for b in range(3):
        single = reasoning.match({"image0": first[b : b + 1], "image1": second[b : b + 1]})
        for side in ("matches0", "matches1"):
            assert torch.equal(result[side][b], single[side][0])
            assert result[side][b].shape[1] == 2
    assert len(result["matches0"][0]) > 10
    assert result["matches0"][2].shape == (0, 2)
    # What is computed once can be given again.
    again = reasoning.match({}, result["pred"])
    assert all(torch.equal(a, b) for a, b in zip(again["matches0"], result["matches0"], strict=True))


def test_detect_and_compute_stacks_both_descriptors(tmp_path: Path, encoder: DinoV2, textured: Render) -> None:
    reasoning = Reasoning(make_model(tmp_path, conditioning=False), semantic_encoder=encoder)
    image = textured(90, 120, seed=2)
    keypoints, descriptors = reasoning.detectAndCompute(as_tensor(image, image))
    n = keypoints.shape[1]
    assert n > 20
    assert keypoints.shape == (2, n, 2)
    assert descriptors.shape == (2, n, 32, 2)
    forward = reasoning({"image": as_tensor(image, image)})
    assert torch.equal(descriptors[..., 0], forward["reasoning_features"])
    assert torch.equal(descriptors[..., 1], forward["semantic_features"])
    torch.testing.assert_close(reasoning.detectAndCompute(image)[1], descriptors[:1], atol=1e-5, rtol=0)


def test_a_file_of_the_folder_can_be_chosen(tmp_path: Path) -> None:
    make_model(tmp_path)
    other = Reasoner(make_config().reasoner)
    save_checkpoint(tmp_path / "folder", other, make_config(), epoch=1)
    newest = load_reasoning_from_checkpoint(tmp_path / "folder")
    assert newest["weights_path"].endswith("checkpoint_1_0.pt")
    chosen = load_reasoning_from_checkpoint(tmp_path / "folder", "checkpoint_0_0.pt")
    assert chosen["weights_path"].endswith("checkpoint_0_0.pt")
    key = "dino_reprojection.weight"
    assert torch.equal(newest["model"].reasoner.state_dict()[key], other.state_dict()[key])
    assert not torch.equal(chosen["model"].reasoner.state_dict()[key], other.state_dict()[key])
    with pytest.raises(CheckpointError, match=r"checkpoint_7_7\.pt"):
        load_reasoning_from_checkpoint(tmp_path / "folder", "checkpoint_7_7.pt")


def test_the_extractor_is_the_checkpoints(tmp_path: Path, encoder: DinoV2) -> None:
    reasoning = Reasoning(make_model(tmp_path), "cpu", semantic_encoder=encoder)
    assert reasoning.conf == make_config()
    assert isinstance(reasoning.matcher.extractor, Sift)
    assert reasoning.matcher.extractor.max_keypoints == 120
    assert reasoning.matcher.registration == "published"
    assert not reasoning.training
    assert reasoning.to("cpu") is reasoning


def test_missing_weights_are_an_error_with_the_command(
    tmp_path: Path, encoder: DinoV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SEMANTIC_MATCHER_WEIGHTS", raising=False)
    model = make_model(tmp_path)
    with pytest.raises(WeightsNotFoundError, match=r"weights fetch dinov2_vits14"):
        Reasoning(model)
    model.conf = replace(model.conf, extractor_name="xfeat")
    with pytest.raises(WeightsNotFoundError, match=r"weights fetch xfeat"):
        Reasoning(model, semantic_encoder=encoder)


def test_misuse_is_named(tmp_path: Path, encoder: DinoV2) -> None:
    model = make_model(tmp_path)
    with pytest.raises(ConfigError, match=r"\['model'\], got dict"):
        Reasoning({"model": model})  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="gpu0"):
        Reasoning(model, "gpu0", semantic_encoder=encoder)
    with pytest.raises(ShapeError, match="made for 384"):
        Reasoning(model, extractor=Sift(), semantic_encoder=DinoV2("dinov2_vitb14"))
    reasoning = Reasoning(model, semantic_encoder=encoder)
    with pytest.raises(ImageError, match=r"\[0, 1\]"):
        reasoning.match({"image0": torch.full((1, 3, 20, 20), 255.0), "image1": torch.zeros(1, 3, 20, 20)})


def test_the_published_class_told_to_train_learns_nothing(textured: Render) -> None:
    torch.manual_seed(0)
    config = ReasonerConfig(64, CompactContext.feature_dim, features_dim=32, n_attention_layers=1)
    conf = ModelConfig("compact_context", "xfeat", config)
    extractor = XFeat(60, detection_threshold=0.0)
    reasoning = Reasoning(
        ReasoningBase(Reasoner(config), conf), extractor=extractor, semantic_encoder=CompactContext().eval()
    )
    images = [torch.from_numpy(textured(64, 96, seed=s)).permute(2, 0, 1)[None] / 255 for s in (1, 1)]
    before = {key: value.clone() for key, value in extractor.state_dict().items()}
    expected = reasoning.match({"image0": images[0], "image1": images[1]})
    reasoning.train()
    found = reasoning.match({"image0": images[0], "image1": images[1]})
    assert len(expected["matches0"][0]) > 5
    assert torch.equal(found["matches0"][0], expected["matches0"][0])
    assert all(torch.equal(value, before[key]) for key, value in extractor.state_dict().items())
