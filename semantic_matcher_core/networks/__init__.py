"""From parts to three callables: what runs the networks of a matcher."""

from semantic_matcher_core.networks.networks import Networks
from semantic_matcher_core.networks.parts import Parts

__all__ = ["Networks", "Parts"]
