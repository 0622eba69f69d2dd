"""The parts of an experiment's model, from its configuration and what its data turn out to be."""

from __future__ import annotations

import torch

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.reasoning import ModelConfig, Reasoner, ReasonerConfig, load_reasoner
from semantic_matcher_core.semantics import SemanticEncoder, create_semantic_encoder
from training.features.parts import build_extractor
from training.reasoner.config import ExperimentConfig
from training.reasoner.sources import PairSource, ScenePairs


def frozen_parts(
    config: ExperimentConfig, pairs: PairSource, extractor: Extractor | None, encoder: SemanticEncoder | None
) -> tuple[Extractor | None, SemanticEncoder | None, tuple[int, int]]:
    """Return extractor and encoder where features are computed on the fly, and the dimensions of both features.

    Args:
        config: of the experiment.
        pairs: whose features may be cached.
        extractor, encoder: to be used instead of those the configuration names.

    Raises:
        UnknownNameError, WeightsNotFoundError: what the configuration names cannot be built.
        DataError: a cache is damaged.
    """
    model = config.model
    cached = pairs.feature_dims() if isinstance(pairs, ScenePairs) else (None, None)
    if cached[0] is None and extractor is None:
        extractor = build_extractor(
            model.extractor, model.max_keypoints, model.extractor_options, weights=model.weights
        )
    if cached[1] is None and encoder is None:
        encoder = create_semantic_encoder(model.semantic_encoder, weights=model.weights, device="cpu")
    local_dim = cached[0] if cached[0] is not None else extractor.descriptor_dim  # type: ignore[union-attr]
    semantic_dim = cached[1] if cached[1] is not None else encoder.feature_dim  # type: ignore[union-attr]
    return extractor, encoder, (local_dim, semantic_dim)


def model_config(config: ExperimentConfig, dims: tuple[int, int]) -> ModelConfig:
    """Return what ``model_config.yaml`` of the trained weights says."""
    model = config.model
    return ModelConfig(
        dino_weights=model.semantic_encoder,
        extractor_name=model.extractor,
        reasoner=ReasonerConfig(
            *dims,
            features_dim=model.features_dim,
            n_attention_layers=model.n_attention_layers,
            num_heads=model.num_heads,
            semantic_conditioning=model.semantic_conditioning,
            deep_supervision=model.deep_supervision,
            semantic_interpolation_mode=model.semantic_interpolation_mode,
            fix_dino_size=model.fix_dino_size,
        ),
        extractor_options={"max_num_keypoints": model.max_keypoints, **model.extractor_options},
        registration="exact",
    )


def new_reasoner(config: ExperimentConfig, model: ModelConfig) -> Reasoner:
    """Return a reasoner with the weights that training starts from: random ones that follow from the seed, or given
    ones.

    Raises:
        ConfigError, CheckpointError: the given weights do not fit or cannot be read.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        reasoner = Reasoner(model.reasoner)
    if config.model.initial is not None:
        loaded, said = load_reasoner(config.model.initial)
        if said.reasoner != model.reasoner:
            raise ConfigError(
                f"model.initial {config.model.initial} holds {said.reasoner}, but the experiment is of {model.reasoner}"
            )
        reasoner.load_state_dict(loaded.state_dict())
    return reasoner.train()
