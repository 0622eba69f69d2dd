"""Which pairs of a run's images the exports hold, beside those that the run itself matched."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semantic_matcher_core.errors import ConfigError, ImageError, check_choice
from semantic_matcher_core.io.images import read_bytes

PAIR_CHOICES = ("matched", "exhaustive", "window", "list")
# With all pairs of this many images the exports take minutes, not hours.
MANY_IMAGES = 100


@dataclass(frozen=True)
class PairChoice:
    """A choice of pairs.

    Attributes:
        kind: ``matched``, those of the run alone; ``exhaustive``, all; ``window``, each image with the ``window`` ones
            before it; ``list``, those listed.
        window: images before each one.
        listed: pairs of names.

    Raises:
        ConfigError: an unknown kind, or a window below 1.
    """

    kind: str = "matched"
    window: int = 20
    listed: frozenset[tuple[str, str]] = frozenset()

    def __post_init__(self) -> None:
        check_choice("choice of pairs", self.kind, PAIR_CHOICES)
        if self.window < 1:
            raise ConfigError(f"a window of pairs must be a whole number from 1 up, got {self.window}")

    @classmethod
    def for_colmap(cls, images: int | None, window: int = 20) -> PairChoice:
        """Return what a reconstruction wants: all pairs of up to 100 images, a window of more, or of unknown many."""
        return cls("exhaustive" if images is not None and images <= MANY_IMAGES else "window", window)

    def settings(self) -> dict[str, Any]:
        """Return what tells this choice from others (JSON)."""
        return {"kind": self.kind, "window": self.window, "listed": sorted(map(list, self.listed))}

    def wants(self, name0: str, name1: str) -> bool:
        """Return whether a pair is wanted of which the second image is within reach of the first."""
        if self.kind == "list":
            return (name0, name1) in self.listed or (name1, name0) in self.listed
        return self.kind in ("exhaustive", "window")

    def memory(self) -> deque[Any]:
        """Return what holds the images that a new one may be paired with."""
        return deque(maxlen={"matched": 0, "window": self.window}.get(self.kind))

    def names(self) -> Iterator[str]:
        """Yield names that are listed."""
        for pair in self.listed:
            yield from pair


def read_pairs(path: Path) -> frozenset[tuple[str, str]]:
    """Return pairs of names in a text file, one pair a line, as hloc and COLMAP have it; a tab may stand between names.

    Raises:
        ConfigError: there is no such file, or a line is not two names.
    """
    try:
        lines = read_bytes(path, "list of pairs").decode("utf-8").splitlines()
    except ImageError as error:
        raise ConfigError(str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read list of pairs {path}: {error}") from error
    pairs = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        names = [part.strip() for part in line.split("\t")] if "\t" in line else line.split()
        if len(names) != 2 or names[0] == names[1]:
            raise ConfigError(f"line {number} of {path} is no pair of two names: {line.strip()[:80]!r}")
        pairs.add((names[0], names[1]))
    if not pairs:
        raise ConfigError(f"{path} lists no pair")
    return frozenset(pairs)
