"""Small scenes with made-up features: every keypoint of a pair has its partner, and a descriptor much like it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from training.data.scene_file import SceneFileWriter
from training.features.cache import LOCAL_GROUPS, SEMANTIC_GROUPS, FeatureCacheWriter, cache_path
from training.reasoner.config import ExperimentConfig
from training.strict_mapping import from_mapping

SIDE = 64
EXTRACTOR_CACHE, SEMANTIC_CACHE = "sift-scannet-n24", "semantic"


def write_scenes(
    root: Path, *, train: int = 2, validation: int = 1, pairs: int = 5, semantic_dim: int = 8, made_by: str = "tiny"
) -> None:
    """Scenes of a flat wall seen by a camera that steps aside, with cached features of both kinds."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", train), ("val", validation)):
        for number in range(count):
            write_scene(root, split, f"scene{number:04d}", pairs, semantic_dim, made_by, generator)


def write_scene(
    root: Path, split: str, name: str, pairs: int, semantic_dim: int, made_by: str, generator: torch.Generator
) -> None:
    camera = torch.tensor([[60.0, 0, 31.5], [0, 60.0, 31.5], [0, 0, 1]])
    local_path, semantic_path = (cache_path(root, m, split, name) for m in (EXTRACTOR_CACHE, SEMANTIC_CACHE))
    for path in (local_path, semantic_path, root / split / "x"):
        path.parent.mkdir(parents=True, exist_ok=True)
    local = FeatureCacheWriter(local_path, LOCAL_GROUPS, {"made_by": "sift", "max_keypoints": 24}, half=False)
    semantic = FeatureCacheWriter(semantic_path, SEMANTIC_GROUPS, {"made_by": made_by, "long_side": 64}, half=True)
    with SceneFileWriter(root / split / f"{name}.h5", storage="compact") as scene:
        for pair in range(pairs):
            # Counts differ, so that batches are padded.
            count = 24 - pair % 3
            keypoints = torch.randint(6, SIDE - 12, (count, 2), generator=generator).float()
            descriptors = F.normalize(torch.randn(count, 128, generator=generator), dim=-1)
            shift_px = 3.0
            for side in (0, 1):
                pose = torch.eye(4)
                pose[0, 3] = side * shift_px * 2.0 / 60.0
                key = f"{name}_{pair}_{side}"
                picture = torch.rand(3, SIDE, SIDE, generator=generator)
                scene.add_image(key, picture, torch.full((SIDE, SIDE), 2.0), pose, camera)
                noise = torch.randn(count, 128, generator=generator) * 0.08
                moved = keypoints - torch.tensor([shift_px * side, 0.0])
                local.add(
                    key, {"keypoints": moved.numpy(), "descriptors": F.normalize(descriptors + noise, dim=-1).numpy()}
                )
                maps = torch.randn(semantic_dim, 4, 4, generator=generator)
                semantic.add(key, {"features": maps.numpy(), "global_descriptor": maps.mean((1, 2)).numpy()})
            forward, back = torch.eye(4)[:3].clone(), torch.eye(4)[:3].clone()
            forward[0, 3], back[0, 3] = -shift_px * 2.0 / 60.0, shift_px * 2.0 / 60.0
            scene.add_pair(f"{name}_{pair}_0", f"{name}_{pair}_1", forward, back, 0.6)
    local.commit()
    semantic.commit()


def tiny_experiment(root: Path, name: str, **sections: dict[str, Any]) -> ExperimentConfig:
    """A few steps on :func:`write_scenes`; sections are merged into it."""
    content: dict[str, Any] = {
        "name": name,
        "output": str(root / "runs"),
        "data": {
            "source": "scenes",
            "root": str(root),
            "extractor_cache": EXTRACTOR_CACHE,
            "semantic_cache": SEMANTIC_CACHE,
            "workers": 0,
        },
        "model": {
            "extractor": "sift",
            "max_keypoints": 24,
            "semantic_encoder": "tiny",
            "features_dim": 16,
            "n_attention_layers": 2,
        },
        "optimizer": {"lr": 0.002},
        "run": {
            "accelerator": "cpu",
            "devices": 1,
            "steps": 12,
            "batch_size": 2,
            "log_every": 1,
            "plot_every": 0,
            "validate_every": 4,
            "save_every": 2,
            "progress": False,
        },
    }
    for section, values in sections.items():
        content[section] = {**content[section], **values}
    return from_mapping(ExperimentConfig, content)
