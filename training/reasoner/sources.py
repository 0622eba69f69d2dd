"""Training pairs by (epoch, index): of scene files with depth and pose, or of photos and random warps."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from semantic_matcher_core.semantics import sample_at_keypoints
from training.correspondence import DepthCorrespondence
from training.data.scene_file import SceneFile
from training.data.warped import WarpedPairs
from training.errors import DataError
from training.features.cache import LOCAL_GROUPS, SEMANTIC_GROUPS, FeatureCache, cache_path
from training.reasoner.batch import Pair, View
from training.reasoner.config import DataConfig, ModelSection
from training.reasoner.sampler import Place

_log = logging.getLogger(__name__)
# Scenes whose files each process keeps open; all of ScanNet would exceed the usual limit on open files.
_OPEN_SCENES = 64


class PairSource(Dataset[Pair]):
    """Pairs by (epoch, index); the same place always gives the same pair, whichever process asks."""

    @abstractmethod
    def __len__(self) -> int:
        """Return pairs in an epoch."""

    @abstractmethod
    def __getitem__(self, place: Place) -> Pair:
        """Return a pair, with images only where something is to be computed of them."""

    @abstractmethod
    def images(self, place: Place) -> tuple[Tensor, Tensor]:
        """Return both ``3 x H x W`` images of a pair, in [0, 1]."""


class ScenePairs(PairSource):
    """Pairs of scene files, with cached features where the configuration names them.

    Args:
        files: scene files of one split.
        data: of the experiment; features are looked for below its root.
        split: name of the split.
        model: of the experiment.

    Raises:
        DataError: a scene or its features are damaged or do not fit each other (with ``on_damage: fail``); or no scene
            is left.
    """

    def __init__(self, files: Sequence[Path], data: DataConfig, split: str, model: ModelSection) -> None:
        self._model = model
        self._scenes: list[tuple[SceneFile, FeatureCache | None, FeatureCache | None]] = []
        self._pairs: list[tuple[int, str]] = []
        self._opened: OrderedDict[int, None] = OrderedDict()
        self.damaged: list[str] = []
        for file in files:
            try:
                scene = _scene(file, data, split, model)
            except DataError as error:
                if data.on_damage == "fail":
                    raise
                self.damaged.append(str(error))
                _log.warning("left out: %s", error)
                continue
            self._pairs += [(len(self._scenes), pair) for pair in scene[0].pair_keys]
            self._scenes.append(scene)
        if not self._pairs:
            raise DataError(f"split {split!r} of {data.root} has no usable pair ({len(files)} scene files)")

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, place: Place) -> Pair:
        number, name = self._pairs[place[1]]
        scene, local, semantic = self._open(number)
        item = scene.pair(name, images=local is None or semantic is None)
        truth = DepthCorrespondence(*(item[key][None] for key in ("depth0", "depth1", "T_0to1", "T_1to0", "K0", "K1")))
        height, width = item["depth0"].shape
        if item["depth1"].shape != (height, width):
            raise DataError(f"{scene.path}: the images of pair {name!r} differ in size")
        views = [View(image=item.get(f"image{side}")) for side in (0, 1)]
        for side, key in enumerate((item["image0_key"], item["image1_key"])):
            if local is not None:
                views[side] = self._with_features(views[side], local, semantic, key, (height, width))
        return Pair(f"{scene.path.stem}/{name}", place, views[0], views[1], truth, (height, width))

    def images(self, place: Place) -> tuple[Tensor, Tensor]:
        number, name = self._pairs[place[1]]
        scene = self._open(number)[0]
        first, second = name.split(":")
        return scene.image(first), scene.image(second)

    def feature_dims(self) -> tuple[int | None, int | None]:
        """Return dimensions of cached descriptors and semantic features, ``None`` for what is not cached."""
        scene, local, semantic = self._scenes[0]
        key = scene.image_keys[0]
        return (
            None if local is None else local.local(key)[1].shape[1],
            None if semantic is None else semantic.semantic_map(key).shape[0],
        )

    def _with_features(
        self, view: View, local: FeatureCache, semantic: FeatureCache | None, key: str, size: tuple[int, int]
    ) -> View:
        keypoints, descriptors = local.local(key)
        # Rows come by descending score, as everywhere: what is left out is the weakest.
        keypoints, descriptors = (t[: self._model.max_keypoints] for t in (keypoints, descriptors))
        view = replace(view, keypoints=keypoints, descriptors=descriptors)
        if semantic is None:
            return view
        sampled = sample_at_keypoints(
            semantic.semantic_map(key)[None],
            keypoints[None],
            size,
            # Exact registration needs neither.
            patch_size=1,
            scale=1.0,
            registration="exact",
            mode=self._model.semantic_interpolation_mode,
        )
        return replace(view, semantic=sampled[0])

    def _open(self, number: int) -> tuple[SceneFile, FeatureCache | None, FeatureCache | None]:
        self._opened[number] = None
        self._opened.move_to_end(number)
        if len(self._opened) > _OPEN_SCENES:
            for file in self._scenes[self._opened.popitem(last=False)[0]]:
                if file is not None:
                    file.close()
        return self._scenes[number]


class PhotoPairs(PairSource):
    """Pairs made of single images; see ``training.data.warped``."""

    def __init__(self, pairs: WarpedPairs) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, place: Place) -> Pair:
        view0, view1, truth = self._made(place)
        name = f"epoch {place[0]} pair {place[1]}"
        return Pair(name, place, View(image=view0), View(image=view1), truth, (view0.shape[-2], view0.shape[-1]))

    def images(self, place: Place) -> tuple[Tensor, Tensor]:
        view0, view1, _ = self._made(place)
        return view0, view1

    def _made(self, place: Place) -> tuple[Tensor, Tensor, Any]:
        self._pairs.epoch = place[0]
        return self._pairs[place[1]]


def _scene(
    file: Path, data: DataConfig, split: str, model: ModelSection
) -> tuple[SceneFile, FeatureCache | None, FeatureCache | None]:
    scene = SceneFile(file)
    local = semantic = None
    if data.extractor_cache:
        path = cache_path(data.root, data.extractor_cache, split, file.stem)
        local = FeatureCache(path, LOCAL_GROUPS, scene.image_keys, {"made_by": model.extractor})
    if data.semantic_cache:
        path = cache_path(data.root, data.semantic_cache, split, file.stem)
        expected: dict[str, Any] = {"made_by": model.semantic_encoder}
        if model.fix_dino_size > 0:
            expected["long_side"] = model.fix_dino_size
        semantic = FeatureCache(path, SEMANTIC_GROUPS[:1], scene.image_keys, expected)
    if local is not None:
        _check_shapes(scene, local, semantic)
    return scene, local, semantic


def _check_shapes(scene: SceneFile, local: FeatureCache, semantic: FeatureCache | None) -> None:
    key = scene.image_keys[0]
    local.local(key)
    local.close()
    if semantic is not None:
        semantic.semantic_map(key)
        semantic.close()


def evenly(places: Iterable[Place], most: int) -> list[Place]:
    """Return at most ``most`` of some places, evenly spread."""
    every = list(places)
    if len(every) <= most:
        return every
    return [every[i * len(every) // most] for i in range(most)]
