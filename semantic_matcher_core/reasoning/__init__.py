"""The reasoner: local descriptors attend to semantic features; and its published checkpoint layout."""

from semantic_matcher_core.reasoning.checkpoint import find_checkpoint_file, load_reasoner, save_checkpoint
from semantic_matcher_core.reasoning.config import ModelConfig, ReasonerConfig
from semantic_matcher_core.reasoning.reasoner import Reasoner

__all__ = ["ModelConfig", "Reasoner", "ReasonerConfig", "find_checkpoint_file", "load_reasoner", "save_checkpoint"]
