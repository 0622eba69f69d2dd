"""The published variants, and which one a user's words mean. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from semantic_matcher_core.errors import UnknownNameError, unknown_name
from semantic_matcher_core.weights.catalogue import Entry, get_entry, list_entries
from semantic_matcher_core.weights.places import locate

PLAIN = "plain:"
# Without the bundled reasoner: descriptors alone match better on most pairs, three times as fast (see the model card).
DEFAULT_VARIANT = "plain:compact"
# Where only one of descriptor and encoder is said.
DEFAULT_DESCRIPTOR = "xfeat"
DEFAULT_DINO = "dinov2_vits14"
# Of several variants with the same descriptor and encoder, the one of the paper's main results.
_DEFAULT_LAYERS = 5


@dataclass(frozen=True)
class Variant:
    """A published variant.

    Attributes:
        name: for ``SemanticMatcher.from_pretrained``.
        descriptor: the extractor whose descriptors it was trained on.
        dino: its semantic encoder.
        layers: attention layers of the reasoner.
        licence: of the checkpoint and, where it differs, of the weights it needs besides.
        size_mb: of the published zip, in MB (10^6 bytes).
        available: all of it is on this machine.
    """

    name: str
    descriptor: str
    dino: str
    layers: int | None
    licence: str
    size_mb: float | None
    available: bool


def list_variants(hint: str | Path | None = None) -> list[Variant]:
    """Return the variants of the catalogue.

    Args:
        hint: a folder to search for weights before the usual places.
    """
    folder = None if hint is None else Path(hint).expanduser()
    return [_variant(entry, folder) for entry in list_entries("variant")]


def filter_variants(descriptor: str | None = None, dino: str | None = None) -> list[Variant]:
    """Return the variants with a descriptor (or its family) and a semantic encoder, written as for
    :func:`resolve_variant`.

    Raises:
        UnknownNameError: none has both; the message names those that exist.
    """
    encoder = _encoder_name(dino) if dino else None
    entries = [e for e in list_entries("variant") if not descriptor or _is_of_family(e, descriptor)]
    matching = [e for e in entries if encoder is None or e.dino == encoder]
    if not matching:
        raise UnknownNameError(_no_such_pair(descriptor or "", encoder or "any", entries))
    return [_variant(entry, None) for entry in matching]


def resolve_variant(variant: str | None = None, descriptor: str | None = None, dino: str | None = None) -> str:
    """Return the one name that command line, parameters and launch arguments mean.

    Args:
        variant: taken as it is where given: a catalogue name, ``plain:<extractor>``, or a checkpoint's folder or zip.
        descriptor: an extractor's name, or its family's (``aliked`` for ``aliked-n16``).
        dino: a semantic encoder's name (``dinov2_vitb14``, ``vitb14`` or ``B``), or ``none`` for descriptors alone.
            With only one of the two, the other is ``xfeat`` or ``dinov2_vits14``; with neither, or ``compact`` alone,
            the variant is ``plain:compact``.

    Returns:
        A name for ``SemanticMatcher.from_pretrained``. Empty strings count as not given.

    Raises:
        UnknownNameError: there is no such variant, or none with both; the message names those that exist.
    """
    if variant:
        if is_known(variant):
            return variant
        raise unknown_variant(variant)
    if not dino and (not descriptor or PLAIN + descriptor.lower() == DEFAULT_VARIANT):
        return DEFAULT_VARIANT
    wanted = descriptor or DEFAULT_DESCRIPTOR
    if (dino or "").lower() == "none":
        exact = (e.descriptor for e in list_entries("variant") if _is_of_family(e, wanted))
        return f"{PLAIN}{next(exact, wanted)}"
    candidates = [e for e in list_entries("variant") if _is_of_family(e, wanted)]
    encoder = _encoder_name(dino) if dino else _usual_encoder(candidates)
    matching = [e for e in candidates if e.dino == encoder]
    if not matching:
        raise UnknownNameError(_no_such_pair(wanted, encoder, candidates))
    # The name itself first, then the published default depth.
    return min(matching, key=lambda e: (e.descriptor != wanted, e.layers != _DEFAULT_LAYERS)).name


def is_known(variant: str) -> bool:
    """Return True for a catalogue name, ``plain:…``, and an existing checkpoint folder or zip."""
    if variant.startswith(PLAIN) and len(variant) > len(PLAIN):
        return True
    if any(entry.name == variant for entry in list_entries("variant")):
        return True
    return is_path(variant) or Path(variant).expanduser().is_dir()


def unknown_variant(name: str) -> UnknownNameError:
    """Return the error for a name that is no variant; it lists those that exist."""
    published = [entry.name for entry in list_entries("variant")]
    from semantic_matcher_core.extractors.registry import BUILT_IN

    plain = {extractor: f"{PLAIN}{extractor}" for extractor in BUILT_IN}
    return unknown_name(
        "variant",
        name,
        published,
        "; or give plain:<extractor>, or the path of a checkpoint folder or zip",
        also=plain | {given: given for given in plain.values()},
    )


def is_path(text: str) -> bool:
    """Return True where the text can only mean a path: it has a separator or ends in ``.zip``."""
    separators = {os.sep, os.altsep or os.sep}
    return any(separator in text for separator in separators) or text.endswith(".zip")


def _variant(entry: Entry, hint: Path | None) -> Variant:
    needed = [entry, *(get_entry(name) for name in entry.requires)]
    licences = dict.fromkeys([entry.licence, *(e.licence for e in needed[1:] if e.must_accept)])
    return Variant(
        entry.name,
        entry.descriptor,
        entry.dino,
        entry.layers,
        " + ".join(licences),
        entry.megabytes,
        all(locate(e, hint) is not None for e in needed),
    )


def _usual_encoder(candidates: list[Entry]) -> str:
    """Return the default encoder, or the only one that a descriptor's variants have."""
    encoders = {entry.dino for entry in candidates}
    return encoders.pop() if len(encoders) == 1 else DEFAULT_DINO


def _encoder_name(text: str) -> str:
    known = [e.name for e in list_entries("semantic_encoder")]
    wanted = text.lower()
    for name in known:
        size = name.removeprefix("dinov2_").removeprefix("dinov3_")  # vitb14
        if wanted in (name, size, size.removeprefix("vit").removesuffix("14")):
            return name
    raise unknown_name("dino", text, known, ", or none for descriptors alone")


def _is_of_family(entry: Entry, wanted: str) -> bool:
    return wanted.lower() in (entry.descriptor.lower(), entry.descriptor.lower().partition("-")[0], entry.name.lower())


def _no_such_pair(wanted: str, encoder: str, candidates: list[Entry]) -> str:
    trained = [e for e in list_entries("variant") if e.dino == encoder]
    if not trained and encoder != "any":
        have = ", ".join(dict.fromkeys(e.dino for e in list_entries("variant")))
        return (
            f"no published variant has a reasoner for {encoder!r}; there are some for: {have}; train one, and give its "
            "checkpoint folder as variant"
        )
    if candidates:
        have = ", ".join(f"{e.name} ({e.dino})" for e in candidates)
        return f"no published variant has descriptor {wanted!r} with {encoder!r}; that descriptor has: {have}"
    have = ", ".join(dict.fromkeys(e.descriptor for e in list_entries("variant")))
    return (
        f"no published variant has descriptor {wanted!r}; there are variants of: {have}; "
        f"for {wanted!r} without semantics give dino 'none' (variant {PLAIN}{wanted})"
    )
