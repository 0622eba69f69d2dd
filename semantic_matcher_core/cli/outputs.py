"""Files that a command is asked to write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def check_output_option(
    option: str, path: Path | None, suffixes: Sequence[str], inputs: Iterable[Path | None] = ()
) -> None:
    """Refuse, before the work, a file that cannot be written, would replace one of ``inputs``, or has another suffix.

    Raises:
        ConfigError: another suffix than these.
        OutputError: see :func:`~semantic_matcher_core.io.atomic.check_output`.
    """
    from semantic_matcher_core.errors import ConfigError
    from semantic_matcher_core.io.atomic import check_output

    if path is not None:
        if path.suffix.lower() not in suffixes:
            raise ConfigError(f"{option} {path} must end in {' or '.join(suffixes)}")
        check_output(path, inputs)
