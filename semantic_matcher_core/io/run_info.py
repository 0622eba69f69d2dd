"""The description of a run that a file of results carries: how it was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from semantic_matcher_core.errors import BagError
from semantic_matcher_core.io.bags import BagReader

RUN_INFO_TOPIC = "/semantic_matcher/run"


def read_run_info(path: Path) -> dict[str, Any] | None:
    """Read how a file was made, or ``None`` where it does not say (a recording of the nodes).

    Raises:
        BagError: the file is no bag, or damaged.
    """
    with BagReader(path) as bag:
        return run_info_of(bag)


def run_info_of(bag: BagReader) -> dict[str, Any] | None:
    """Read the same from a file that is open."""
    for message in bag.messages([RUN_INFO_TOPIC]):
        try:
            return json.loads(message.message.data)
        except (AttributeError, ValueError) as error:
            raise BagError(f"{bag.path} has something else than a run's description on {RUN_INFO_TOPIC}") from error
    return None
