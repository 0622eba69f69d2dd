"""Exceptions of the core library.

Every error a caller can cause derives from :class:`SemanticMatcherError`; its message names the value at fault,
what was expected and how to put it right. Shells (command line, ROS nodes) turn these into one line, and let
anything else surface as the defect it is.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping


class SemanticMatcherError(Exception):
    """Base of every error this library raises on purpose."""


class ImageError(SemanticMatcherError, ValueError):
    """An image (array, tensor, file or message) cannot be used: shape, type, size, encoding or content."""


class ShapeError(SemanticMatcherError, ValueError):
    """Tensors given together do not fit each other (batch size, keypoint count, dimension, or what made them)."""


class ConfigError(SemanticMatcherError, ValueError):
    """An option or configuration value is unknown, out of range, or contradicts another."""


class UnknownNameError(ConfigError):
    """A name (variant, extractor, semantic encoder, weights entry) is in no catalogue or registry."""


class DeviceError(SemanticMatcherError, RuntimeError):
    """The requested device or precision is not available here; nothing falls back silently."""


class UnknownDeviceError(ConfigError, DeviceError):
    """A device's name is none that is known here; to a command line it is wrong usage, as any unknown name is."""


class ForkError(SemanticMatcherError, RuntimeError):
    """A process was forked from one that had used torch; what it asks for would hang."""


class CheckpointError(SemanticMatcherError, ValueError):
    """A checkpoint (file, folder or zip) is damaged, unsafe, or does not fit the model it is loaded into."""


class WeightsNotFoundError(SemanticMatcherError, FileNotFoundError):
    """Weights are in none of the search folders nor in the cache; the message has the command that fetches them."""


class DownloadError(SemanticMatcherError, OSError):
    """A download failed, or is not allowed (offline); what had arrived is kept for resuming."""


class HashMismatchError(DownloadError):
    """A file's SHA-256 is not the one on record; the file is not used."""


class UnsafeArchiveError(CheckpointError):
    """An archive holds a member that would land outside its target folder, a link, or a device."""


class LicenseNotAcceptedError(SemanticMatcherError, PermissionError):
    """Weights under a licence that must be accepted first; the message names the flag."""


class PoseError(SemanticMatcherError, ValueError):
    """Matches give no pose: too few of them agree on one motion, or they do not determine it."""


class RegistrationError(SemanticMatcherError, ValueError):
    """An image cannot be registered: too little texture, or too few matches agree with one deformation."""


class BagError(SemanticMatcherError, ValueError):
    """A bag is damaged or truncated, or holds no such topic or message type; the message lists what it does hold."""


class MissingPackageError(SemanticMatcherError, ImportError):
    """What was asked for needs a package that is not installed; the message has the command that installs it."""


class OutputError(SemanticMatcherError, OSError):
    """A result cannot be written (folder missing, no permission, disk full); nothing is left under its final name."""


def of_the_machine(error: BaseException) -> str:
    """Return one sentence for what the machine does not allow, a file or memory; "" for any other error.

    For the end of a program: what knows more of the failure says so earlier.
    """
    if isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
        return f"out of memory ({error}); smaller images, fewer keypoints or a smaller variant take less"
    if isinstance(error, OSError) and error.filename is not None:
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        return f"{name}: {error.strerror}"
    return ""


# Of torch on the CPU, of CUDA, of OpenCV.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "Insufficient memory")


def check_choice(what: str, value: object, known: Iterable[str]) -> None:
    """Let a value pass that is one of a few.

    Raises:
        ConfigError: it is none of ``known``; the message names them, and the value as a ``what``.
    """
    if value not in (choices := tuple(known)):
        one_of = "one of " if len(choices) > 1 else ""
        raise ConfigError(f"unknown {what} {value!r}; use {one_of}{', '.join(choices)}")


def unknown_name(
    what: str, name: str, known: Iterable[str], more: str = "", also: Mapping[str, str] | None = None
) -> UnknownNameError:
    """Make the error for a name that nothing has: it names the nearest that exists, then all of them.

    Args:
        what: what the name should be of, e.g. ``"extractor"``.
        name: as it was given.
        known: the names that exist.
        more: what else may be given, after the known names.
        also: names that may have been meant and are too many to list, and what to give for them.
    """
    known = list(known)
    hint = did_you_mean(name, {**(also or {}), **{candidate: candidate for candidate in known}})
    return UnknownNameError(f"unknown {what} {name!r}; {hint + ' ' if hint else ''}known: {', '.join(known)}{more}")


def did_you_mean(name: str, known: Iterable[str] | Mapping[str, str], *, alike: float = 0.6) -> str:
    """Return ``did you mean '…'?``, of the nearest of some names; "" where none is near.

    Args:
        name: as it was given; case says nothing, XFeat is what papers write.
        known: the names that exist, or what to give for each.
        alike: from which share on a name is near, 0 to 1.
    """
    meant = known if isinstance(known, Mapping) else {candidate: candidate for candidate in known}
    lower = {given.lower(): right for given, right in meant.items()}
    near = difflib.get_close_matches(name.lower(), lower, 1, alike)
    return f"did you mean {lower[near[0]]!r}?" if near else ""
