"""Download of ScanNet recordings, for those who accepted its terms of use; verified TLS, resumed where cut off."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from semantic_matcher_core.errors import LicenseNotAcceptedError
from semantic_matcher_core.weights.download import Progress, discard, download
from training.errors import DataError

BASE_URL = "https://kaldir.vc.in.tum.de/scannet/"
TERMS_URL = BASE_URL + "ScanNet_TOS.pdf"
# The recordings themselves are only in the first release's folder; the second one's scenes are the same recordings.
_RECORDINGS, _SCENE_LIST = "v1/scans", "v2/scans.txt"
_SCENE_NAME = re.compile(r"scene\d{4}_\d{2}")


def require_terms(accepted: bool) -> None:
    """Go on only where the terms of use were accepted.

    Raises:
        LicenseNotAcceptedError: they were not.
    """
    if not accepted:
        raise LicenseNotAcceptedError(
            f"ScanNet may be downloaded only by those who agreed to its terms of use ({TERMS_URL}): sign them, then "
            "repeat the command with --accept-terms"
        )


def list_scenes(base_url: str = BASE_URL) -> list[str]:
    """Return names of all scenes, from the server's list.

    Raises:
        DownloadError: it did not arrive.
        DataError: what it answers is no list of scenes.
    """
    url = base_url + _SCENE_LIST
    with tempfile.TemporaryDirectory() as folder:
        names = download(url, Path(folder, "scans.txt")).read_text(encoding="ascii", errors="replace").split()
    return check_scene_names(names, url)


def check_scene_names(names: Iterable[str], origin: str) -> list[str]:
    """Return the names, if all are scenes; they become folder names, so nothing else may pass.

    Raises:
        DataError: one is not.
    """
    names = list(names)
    wrong = [name for name in names if not _SCENE_NAME.fullmatch(name)]
    if wrong or not names:
        raise DataError(
            f"{origin} is no list of scenes: {wrong[0]!r} is not like scene0000_00" if wrong else f"{origin} is empty"
        )
    return names


def download_scene(
    scene: str, data_path: str | Path, *, base_url: str = BASE_URL, progress: Progress | None = None
) -> Path:
    """Bring ``scans/<scene>/<scene>.sens``; a complete file is kept, a partial one continued.

    Raises:
        DownloadError: it did not arrive.
    """
    (scene,) = check_scene_names([scene], "the scene asked for")
    target = Path(data_path) / "scans" / scene / f"{scene}.sens"
    if target.is_file():
        return target
    part = target.with_name(target.name + ".part")
    download(f"{base_url}{_RECORDINGS}/{scene}/{scene}.sens", part, progress=progress)
    part.replace(target)
    discard(part)
    return target
