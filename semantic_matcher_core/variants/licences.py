"""What the licences of a running model's weights forbid."""

from __future__ import annotations

from typing import Protocol

from semantic_matcher_core.weights import licence_note, list_entries


class Named(Protocol):
    """A part of a matcher."""

    name: str


class Model(Protocol):
    """What is asked of a matcher: what it and its parts are called."""

    variant: str

    @property
    def extractor(self) -> Named: ...

    @property
    def semantic_encoder(self) -> Named | None: ...


def licence_notes(matcher: Model) -> list[str]:
    """Return one sentence for each of a model's published weights whose licence its user must know of; for logs.

    Weights that are in no catalogue, such as your own checkpoints and third-party extractors, are not spoken of.
    """
    from semantic_matcher_core.extractors.registry import BUILT_IN

    extractor = BUILT_IN.get(matcher.extractor.name)
    weights = extractor.weights if extractor is not None else None
    names = [matcher.variant, *((weights,) if isinstance(weights, str) else (weights or {}).values())]
    if matcher.semantic_encoder is not None:
        names.append(matcher.semantic_encoder.name)
    known = {entry.name for entry in list_entries()}
    return [note for name in dict.fromkeys(names) if name in known and (note := licence_note(name))]
