"""Warnings that are said once, however often what they are about is read."""

from __future__ import annotations

import logging
from functools import lru_cache

_log = logging.getLogger(__name__)


@lru_cache(maxsize=256)
def say_once(text: str) -> None:
    """Log a warning, the first time that it is said."""
    _log.warning(text)
