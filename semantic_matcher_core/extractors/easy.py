"""Extractors of the ``easy-local-features`` package (github.com/felipecadar/easy-local-features-baselines).

The published reasoners' code takes DELF and RELF from there. The package is no dependency: it brings TensorFlow,
torchvision and more. It fetches its weights itself when an extractor is built; each method has a licence of its own.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.errors import ConfigError, unknown_name
from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.extractors.selection import is_wanted
from semantic_matcher_core.types import Features

PREFIX = "easy:"
_PACKAGE = "easy_local_features"
_INSTALL = "pip install easy-local-features"
# Known without running the method; others are run once on a test picture.
_DIMENSIONS = {"delf": 40, "relf": 1024}
# Methods for which pixel i is at i + 0.5, as far as their source tells; for the others it is at i.
_HALF_PIXEL = ("dedode", "relf", "superpoint")


class EasyLocalFeature(Extractor):
    """A method of ``easy-local-features``, one image after the other.

    Convention:
        - Methods without a detector describe the keypoints of another extractor of this library.
        - Scores are the method's own; where it gives none, all are 1 and rows keep the method's order.
        - What sizes of image work is up to the method.
        - A mask is applied to what the method returns, so a method with a limit of its own may give fewer keypoints
          than the mask has room for.

    Args:
        max_keypoints: keep at most this many keypoints of each image; also the method's ``top_k``.
        method: its name in the package, e.g. ``relf``.
        conf: the method's configuration, see ``easy-local-features --describe <method>``.
        detector: extractor of this library whose keypoints a descriptor-only method describes, weights at hand.
        descriptor_dim: where neither this library nor a run on a test picture can tell.
        half_pixel: whether the method has pixel i at i + 0.5; ``None`` for what is known of it.

    Raises:
        ConfigError: the package, or one that the method needs, is not installed, or the method is a matcher of pairs or
            a detector alone.
        UnknownNameError: the package has no such method.
    """

    def __init__(
        self,
        max_keypoints: int = 2048,
        *,
        method: str,
        conf: dict[str, Any] | None = None,
        detector: str = "superpoint",
        descriptor_dim: int | None = None,
        half_pixel: bool | None = None,
    ) -> None:
        super().__init__(max_keypoints)
        self.name = PREFIX + method
        self.offset = 0.5 if (method in _HALF_PIXEL if half_pixel is None else half_pixel) else 0.0
        self.method = _method_class(method)({"top_k": max_keypoints, **(conf or {})})
        kind = getattr(self.method, "method_type", "detect_describe")
        if kind not in ("detect_describe", "descriptor_only"):
            raise ConfigError(f"{self.name!r} is a {kind.replace('_', ' ')}, which gives no descriptors of one image")
        self.detector: Extractor | None = None
        if not self.method.has_detector:
            from semantic_matcher_core.extractors.registry import create_extractor

            self.detector = create_extractor(detector, max_keypoints, device="cpu")
        # Says where the method is: it is no module, so torch does not move it.
        self.register_buffer("placement", torch.empty(0), persistent=False)
        self.method.to("cpu")
        self.descriptor_dim = descriptor_dim or _DIMENSIONS.get(method) or self._measured_dimension()

    @property
    def device(self) -> torch.device:
        """Where the method runs."""
        return self.get_buffer("placement").device

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Features:
        return Features.stack([self._one(images[i], None if masks is None else masks[i]) for i in range(len(images))])

    def _one(self, image: Tensor, mask: Tensor | None) -> Features:
        keypoints, scores, descriptors = self._run(image[None])
        keypoints = keypoints - self.offset
        if mask is not None:
            wanted = is_wanted(keypoints[None], mask[None])[0]
            keypoints, scores, descriptors = keypoints[wanted], scores[wanted], descriptors[wanted]
        best = scores.argsort(descending=True, stable=True)[: self.max_keypoints]
        return Features(
            keypoints=keypoints[best][None],
            scores=scores[best][None],
            descriptors=F.normalize(descriptors[best], dim=-1)[None],
            image_size=(image.shape[-2], image.shape[-1]),
        )

    def _run(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``N x 2`` keypoints as the method has them, ``N`` scores and ``N x D`` descriptors of ``1 x 3 x H
        x W``.
        """
        if self.detector is None:
            found = self.method.detectAndCompute(image, return_dict=True)
            keypoints, descriptors = self._rows(found["keypoints"], 2), self._rows(found["descriptors"])
            scores = found.get("scores", found.get("keypoint_scores"))
            if scores is None:
                return keypoints, torch.ones(len(keypoints), device=image.device), descriptors
            return keypoints, self._rows(scores, 1).flatten(), descriptors
        detected = self.detector(image)[0]
        given = detected.keypoints[0] + self.offset
        if len(given) == 0:  # few methods take none
            return given, detected.scores[0], given.new_zeros((0, self.descriptor_dim))
        described = self.method.compute(image, given[None])
        if not isinstance(described, tuple):
            return given, detected.scores[0], self._rows(described)
        # The method may drop, repeat or move keypoints; each keeps the score of the one it came from.
        keypoints = self._rows(described[0], 2)
        origin = torch.cdist(keypoints, given).argmin(dim=1)
        return keypoints, detected.scores[0][origin], self._rows(described[1])

    def _rows(self, values: Any, columns: int | None = None) -> Tensor:
        """Convert what methods return, with or without a batch dimension or empty, to float rows on the device."""
        rows = torch.as_tensor(values, dtype=torch.float32, device=self.device)
        if rows.numel() == 0:
            return rows.new_zeros((0, columns or self.descriptor_dim or 1))
        return rows.reshape(-1, columns or rows.shape[-1])

    def _measured_dimension(self) -> int:
        # Squares of random grey: corners for any detector, the same every time.
        cells = torch.rand((1, 1, 16, 16), generator=torch.Generator().manual_seed(0))
        picture = F.interpolate(cells, (256, 256), mode="nearest").expand(-1, 3, -1, -1)
        with torch.inference_mode():
            descriptors = self._run(picture)[2]
        if len(descriptors) == 0:
            raise ConfigError(f"{self.name!r} finds nothing in the test picture; give its descriptor_dim")
        return descriptors.shape[-1]

    def _apply(self, fn: Any, recurse: bool = True) -> EasyLocalFeature:
        super()._apply(fn, recurse)
        self.method.to(self.device)
        return self


def _method_class(method: str) -> Any:
    try:
        package = importlib.import_module(_PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != _PACKAGE:
            raise _needs(method, error.name) from error
        raise ConfigError(
            f"extractor {PREFIX + method!r} needs the package easy-local-features ({_INSTALL}): {error}"
        ) from error
    try:
        return package.importByName(method)
    except ImportError as error:
        raise ConfigError(f"extractor {PREFIX + method!r} needs a package that is not installed: {error}") from error
    except ValueError as error:
        missing = _missing_module(error)
        if missing is not None:
            raise _needs(method, missing) from error
        raise unknown_name("method of easy-local-features", method, package.available_methods) from error


def _needs(method: str, module: str | None) -> ConfigError:
    return ConfigError(
        f"extractor {PREFIX + method!r} needs the Python module {module!r}, which easy-local-features imports "
        "and which is not installed here"
    )


def _missing_module(error: BaseException) -> str | None:
    """Return what a method's file could not import: the package then says, as for names it does not know, "could
    not find".
    """
    cause = error.__context__
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and cause.name and cause.name.partition(".")[0] != _PACKAGE:
            return cause.name
        cause = cause.__context__
    return None
