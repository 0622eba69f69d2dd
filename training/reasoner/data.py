"""The Lightning data module: makes what has to be made first, and hands out batches."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.io.atomic import make_folder
from semantic_matcher_core.io.images import list_images, read_image
from semantic_matcher_core.semantics import SemanticEncoder, create_semantic_encoder
from training.data.rendered import noise_textures, write_rendered_scene
from training.data.scene_file import scene_files
from training.data.warped import WarpConfig, WarpedPairs
from training.errors import DataError
from training.features.export import LocalFeatures, SemanticFeatures, export_scenes
from training.features.parts import build_extractor
from training.reasoner.batch import Batch, collate
from training.reasoner.config import ExperimentConfig, RenderedConfig
from training.reasoner.sampler import Place, StepSampler
from training.reasoner.sources import PairSource, PhotoPairs, ScenePairs, evenly

_log = logging.getLogger(__name__)
_TEXTURE_SIDE = 256
_TILED_TEXTURES = 12


class PairData(L.LightningDataModule):
    """Training and validation pairs of an experiment.

    Args:
        config: of the experiment.
        extractor, semantic_encoder: to be used instead of those the configuration names, when caches are made.

    Attributes:
        train, validation: the pairs, once :meth:`setup` ran.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        extractor: Extractor | None = None,
        semantic_encoder: SemanticEncoder | None = None,
    ) -> None:
        super().__init__()
        # Data sets lie where all machines see them, and two that write the same file would spoil it.
        self.prepare_data_per_node = False
        self.config = config
        self._prepared = False
        self._parts = (extractor, semantic_encoder)
        self.train: PairSource | None = None
        self.validation: PairSource | None = None

    def prepare_data(self) -> None:
        """Render rooms and export features, where asked for and not there yet; one process of all does."""
        if self._prepared:
            return
        self._prepared = True
        data = self.config.data
        if data.source == "rendered":
            for split, rooms, first in (
                (data.train_split, data.rendered.rooms, 0),
                (data.validation_split, data.rendered.validation_rooms, data.rendered.rooms),
            ):
                render_rooms(Path(data.root, split), data.rendered, rooms, first, self.config.seed)
        if data.make_caches and data.extractor_cache:
            self._make_caches()

    def setup(self, stage: str | None = None) -> None:
        """Open data sets.

        Raises:
            DataError: they are missing, damaged or do not fit.
        """
        if self.train is not None:
            return
        data, model = self.config.data, self.config.model
        if data.source == "photos":
            self.train, self.validation = _photo_pairs(self.config)
            return
        self.train, self.validation = (
            ScenePairs(scene_files(data.root, split), data, split, model)
            for split in (data.train_split, data.validation_split)
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the stream of all steps that are left, from the trainer's present step on."""
        run, trainer = self.config.run, self.trainer
        assert self.train is not None and trainer is not None
        sampler = StepSampler(
            len(self.train),
            run.batch_size,
            run.steps * run.accumulation,
            seed=self.config.seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            start=trainer.global_step * run.accumulation,
        )
        return self._loader(self.train, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return this process's share of the validation pairs, each of them once."""
        assert self.validation is not None and self.trainer is not None
        places = evenly(((0, i) for i in range(len(self.validation))), self.config.data.validation_pairs)
        if len(places) < self.trainer.world_size:
            raise DataError(
                f"{len(places)} validation pairs are too few for {self.trainer.world_size} processes, each of which "
                "needs one"
            )
        mine = places[self.trainer.global_rank :: self.trainer.world_size]
        size = self.config.run.batch_size
        return self._loader(self.validation, [mine[i : i + size] for i in range(0, len(mine), size)])

    def _loader(self, source: PairSource, batches: StepSampler | list[list[Place]]) -> DataLoader[Batch]:
        workers = self.config.data.workers
        return DataLoader(
            source,  # type: ignore[arg-type]
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            # Forking after CUDA or OpenMP have started threads can hang.
            multiprocessing_context="spawn" if workers else None,
            persistent_workers=workers > 0,
        )

    def _make_caches(self) -> None:
        data, model = self.config.data, self.config.model
        device = "cuda" if torch.cuda.is_available() and self.config.run.accelerator != "cpu" else "cpu"
        given_extractor, given_encoder = self._parts
        extractor = given_extractor or build_extractor(
            model.extractor, model.max_keypoints, model.extractor_options, weights=model.weights, device=device
        )
        methods: list[tuple[str, LocalFeatures | SemanticFeatures]] = [
            (data.extractor_cache or "", LocalFeatures(extractor.to(device), model.extractor))
        ]
        if data.semantic_cache:
            encoder = given_encoder or create_semantic_encoder(
                model.semantic_encoder, weights=model.weights, device=device
            )
            methods.append((data.semantic_cache, SemanticFeatures(encoder.to(device), max(0, model.fix_dino_size))))
        for folder, method in methods:
            for split in (data.train_split, data.validation_split):
                report = export_scenes(
                    scene_files(data.root, split),
                    Path(data.root, "features", folder, split),
                    method,
                    device=device,
                    skip_damaged=data.on_damage == "skip",
                )
                for reason in report.damaged:
                    _log.warning("no features: %s", reason)


def render_rooms(folder: Path, config: RenderedConfig, rooms: int, first: int, seed: int) -> None:
    """Render scene files of rooms, numbered from ``first``; those that are there are left as they are."""
    make_folder(folder)
    missing = [i for i in range(first, first + rooms) if not (folder / f"room{i:04d}.h5").is_file()]
    if not missing:
        return
    textures = _textures(config, seed)
    for number in missing:
        write_rendered_scene(
            folder / f"room{number:04d}.h5",
            textures,
            pairs=config.pairs_per_room,
            size=config.view_size,
            seed=seed * 100_003 + number,
        )


def _textures(config: RenderedConfig, seed: int) -> Tensor:
    if config.textures is not None:
        return torch.cat([_square(path) for path in list_images(config.textures)])
    generator = torch.Generator().manual_seed(seed)
    if not config.tiles:
        return noise_textures(config.patterns, generator, _TEXTURE_SIDE)
    return torch.stack([_tiled(config, generator) for _ in range(_TILED_TEXTURES)])


def _tiled(config: RenderedConfig, generator: torch.Generator) -> Tensor:
    """Return a mosaic of copies of one grey pattern, each in another colour of the same brightness."""
    side = _TEXTURE_SIDE // config.tiles
    which = int(torch.randint(config.patterns, (1,), generator=generator))
    cells = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(which))
    pattern = F.interpolate(cells, (side, side), mode="bicubic", align_corners=True).clamp(0, 1)
    tints = torch.rand(1, 3, config.tiles, config.tiles, generator=generator) + 0.1
    tints = tints / (tints * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True) * 0.5
    mosaic = pattern.repeat(1, 1, config.tiles, config.tiles) * tints.repeat_interleave(side, 2).repeat_interleave(
        side, 3
    )
    return F.interpolate(mosaic, (_TEXTURE_SIDE, _TEXTURE_SIDE), mode="bilinear")[0].clamp(0, 1)


def _square(path: Path) -> Tensor:
    pixels = torch.from_numpy(read_image(path)).permute(2, 0, 1)[None].float() / 255
    side = min(pixels.shape[-2:])
    return F.interpolate(pixels[..., :side, :side], (_TEXTURE_SIDE, _TEXTURE_SIDE), mode="bilinear", antialias=True)


def _photo_pairs(config: ExperimentConfig) -> tuple[PhotoPairs, PhotoPairs]:
    photos, root = config.data.photos, config.data.root
    images = list_images(root)
    if photos.validation_root is not None:
        held_out = list_images(photos.validation_root)
    else:
        held_out = images[:: photos.holdout]
        images = [image for i, image in enumerate(images) if i % photos.holdout]
    if not images:
        raise DataError(f"{root} has too few images to hold out every {photos.holdout}th; set photos.validation_root")
    warp = WarpConfig(photos.view_size, photos.difficulty, photos.bend_probability, photos.photometric)
    length = min(config.data.validation_pairs, max(len(held_out), 1))
    return (
        PhotoPairs(WarpedPairs(images, warp, seed=config.seed, length=photos.pairs_per_epoch)),
        PhotoPairs(WarpedPairs(held_out, warp, seed=config.seed + 1, length=length)),
    )
