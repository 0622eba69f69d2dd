"""The published calling conventions, for code that moves over."""

from semantic_matcher_core.compat.dalf import DALF
from semantic_matcher_core.compat.lightglue import LightGlue
from semantic_matcher_core.compat.reasoning import Reasoning, ReasoningBase, load_reasoning_from_checkpoint

__all__ = ["DALF", "LightGlue", "Reasoning", "ReasoningBase", "load_reasoning_from_checkpoint"]
