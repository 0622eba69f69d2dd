"""Errors of the training kit."""

from __future__ import annotations

from semantic_matcher_core.errors import SemanticMatcherError


class DataError(SemanticMatcherError, ValueError):
    """A data set, scene or file cannot be used; the message names it and what is wrong."""
