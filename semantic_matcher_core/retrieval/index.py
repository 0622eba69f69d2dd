"""An index of images: what is stored, and how it is searched.

The file is a features file (see ``io.features_file``: local features of every image, to verify candidates with), to
which a group ``@retrieval`` is attached: ``names``, ``vectors`` (N x K D, see ``retrieval.codebook``), ``centres``
(K x D), ``file_size`` and ``modified_ns`` of the image files, and the attributes ``version`` and ``max_side``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semantic_matcher_core.errors import ConfigError, RegistrationError
from semantic_matcher_core.io.features_file import FeaturesFileError, FeaturesReader
from semantic_matcher_core.pipeline import SemanticMatcher
from semantic_matcher_core.registration.config import RegistrationConfig
from semantic_matcher_core.registration.pair import smooth_matches
from semantic_matcher_core.registration.template import as_rgb, extract_features
from semantic_matcher_core.retrieval.codebook import Codebook
from semantic_matcher_core.types import Features

GROUP = "retrieval"
VERSION = 1


@dataclass(frozen=True, eq=False)
class Hit:
    """One image of the index.

    Attributes:
        name: of the image, its path below the indexed folder.
        similarity: of its VLAD vector with the query's, in [-1, 1].
        inliers: matches with the query that agree with one smooth deformation; ``None`` where that was not looked at,
            0 where too few agree.
        matches: mutual matches with the query, or ``None``.
    """

    name: str
    similarity: float
    inliers: int | None = None
    matches: int | None = None

    @property
    def verified(self) -> bool:
        """Whether enough matches agree with one deformation."""
        return bool(self.inliers)


class RetrievalIndex:
    """An index file, open for searching; to be used in a ``with`` block.

    Raises:
        FeaturesFileError: there is no such file, it is no index, or it is of a newer version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._reader = FeaturesReader(path)

    def __enter__(self) -> RetrievalIndex:
        self._reader.__enter__()
        try:
            arrays, attributes = self._reader.attached(GROUP)
            version = int(attributes["version"])
            if version != VERSION:
                raise FeaturesFileError(
                    f"index {self.path} has version {version}, this program reads {VERSION}; build it again"
                )
            self.names: list[str] = arrays["names"]
            self.vectors = np.asarray(arrays["vectors"], np.float32)
            self.codebook = Codebook(np.asarray(arrays["centres"], np.float32))
            self.max_side = int(attributes["max_side"])
            stamps = zip(arrays["file_size"].tolist(), arrays["modified_ns"].tolist(), strict=True)
            self.stamps: dict[str, tuple[int, int]] = dict(zip(self.names, stamps, strict=True))
            if len(self.vectors) != len(self.names) or self.vectors.shape[1] != self.codebook.centres.size:
                raise ValueError(f"{len(self.names)} names, vectors {self.vectors.shape}")
        except FeaturesFileError as error:
            self._reader.__exit__(None, None, None)
            if f"no {GROUP}" in str(error):
                raise FeaturesFileError(
                    f"{self.path} is no index of images; make one with: semantic-matcher index build"
                ) from error
            raise
        except (KeyError, TypeError, ValueError, OSError) as error:
            self._reader.__exit__(None, None, None)
            raise FeaturesFileError(f"index {self.path} is damaged: {error}") from error
        return self

    def __exit__(self, *error: Any) -> None:
        self._reader.__exit__(*error)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    @property
    def variant(self) -> str:
        """What matched when the index was built; queries need the same."""
        return self._reader.variant

    def features(self, name: str) -> Features:
        """Return local features of an image of the index, on the CPU."""
        return self._reader.read(name)

    def query(
        self,
        matcher: SemanticMatcher,
        image: np.ndarray,
        *,
        top: int = 10,
        verify: int = 20,
        config: RegistrationConfig | None = None,
    ) -> list[Hit]:
        """Return the images that show what ``image`` shows, best first.

        The most similar ones by VLAD are matched with the query and checked against one smooth deformation. Those with
        enough inliers come first, by number of inliers; then the others, by similarity.

        Args:
            matcher: of the variant that the index was built with.
            image: ``H x W x 3`` uint8 RGB.
            top: number of hits wanted.
            verify: candidates to check; 0 ranks by similarity alone.
            config: of the check; ``max_side`` is the index's.

        Raises:
            ConfigError: the matcher is of another variant, or numbers are out of range.
            ImageError: the image cannot be used.
            RegistrationError: the image has too little texture to be looked for.
        """
        if matcher.variant != self.variant:
            raise ConfigError(
                f"index {self.path} was built with variant {self.variant!r}, the matcher is {matcher.variant!r}"
            )
        if top < 1 or verify < 0:
            raise ConfigError(f"top must be 1 or more and verify 0 or more, got {top} and {verify}")
        config = config or RegistrationConfig()
        image = as_rgb(image)
        query = extract_features(matcher, image, self.max_side)
        found = query.keypoints.shape[1]
        if found < config.min_inliers:
            raise RegistrationError(
                f"only {found} keypoints in the query, at least {config.min_inliers} are needed; use a sharp picture "
                "of something with texture"
            )
        similarity = self.vectors @ self.codebook.aggregate(local_descriptors(query))
        order = np.argsort(-similarity, kind="stable")
        checked = [self._verified(matcher, query, self.names[i], float(similarity[i]), config) for i in order[:verify]]
        hits = sorted(checked, key=lambda hit: (-(hit.inliers or 0), -hit.similarity))
        hits += [Hit(self.names[i], float(similarity[i])) for i in order[verify:]]
        return hits[:top]

    def _verified(
        self, matcher: SemanticMatcher, query: Features, name: str, similarity: float, config: RegistrationConfig
    ) -> Hit:
        features = self.features(name).to(matcher.device)
        matches = smooth_matches(matcher, query, features, config)
        assert matches.inlier is not None
        inliers = int(matches.inlier.sum())
        return Hit(name, similarity, inliers if inliers >= config.min_inliers else 0, len(matches))


def local_descriptors(features: Features) -> np.ndarray:
    """Return ``N x D`` float32: what is matched of an image, the reasoner's texture branch where there is one."""
    vectors = features.descriptors if features.reasoned is None else features.reasoned
    return vectors[0].float().cpu().numpy()
