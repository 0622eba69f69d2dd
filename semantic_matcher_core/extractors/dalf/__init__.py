"""DALF, deformation-aware local features (Potje et al., CVPR 2023, arXiv 2304.00583)."""

from semantic_matcher_core.extractors.dalf.extractor import Dalf
from semantic_matcher_core.extractors.dalf.modes import MODES, mode_of_state_dict

__all__ = ["MODES", "Dalf", "mode_of_state_dict"]
