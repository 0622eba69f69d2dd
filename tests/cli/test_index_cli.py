"""``semantic-matcher index``: build, update, query."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from semantic_matcher_core.cli import main
from semantic_matcher_core.io.images import write_image
from tests.core.bent_surfaces import known_bend, render

SIZE = (200, 260)
SIFT = ["--variant", "plain:sift", "--device", "cpu", "--max-keypoints", "400"]


@pytest.fixture
def folder(tmp_path: Path, textured: Callable[..., np.ndarray]) -> Path:
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.jpg", "more/c.png")):
        write_image(tmp_path / "photos" / name, textured(*SIZE, seed=seed))
    write_image(tmp_path / "query.png", render(textured(*SIZE, seed=1), known_bend(SIZE, 8.0)))
    write_image(tmp_path / "plain.png", np.full((*SIZE, 3), 120, np.uint8))
    return tmp_path


def build(folder: Path, *extra: str) -> int:
    return main(
        ["index", "build", str(folder / "photos"), "-o", str(folder / "index.h5"), *SIFT, "--clusters", "8", *extra]
    )


def test_build_and_query(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(folder, "--recursive") == 0
    assert f"wrote {folder / 'index.h5'}: 3 images (plain:sift on cpu)" in capsys.readouterr().out
    query = ["index", "query", str(folder / "index.h5"), str(folder / "query.png"), "--device", "cpu", "-k", "400"]
    assert main(query) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[1].startswith("b.jpg") and int(lines[1].split()[1]) > 50
    assert main([*query, "--json", "--top", "2", "--verify", "1"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert [hit["verified"] for hit in hits] == [True, False] and hits[0]["name"] == "b.jpg"
    assert hits[1]["inliers"] is None
    assert main([*query, "--variant", "plain:xfeat"]) == 2
    assert "built with variant plain:sift, not plain:xfeat" in capsys.readouterr().err


def test_update_reuses(folder: Path, capsys: pytest.CaptureFixture[str], textured: Callable[..., np.ndarray]) -> None:
    assert build(folder, "--update") == 0
    assert "2 images, 0 of them as before" in capsys.readouterr().out
    write_image(folder / "photos" / "d.png", textured(*SIZE, seed=8))
    assert build(folder, "--update") == 0
    assert "3 images, 2 of them as before" in capsys.readouterr().out


def test_unreadable_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "photos" / "broken.png").write_bytes(b"nothing")
    assert build(folder) == 1
    assert "broken.png" in capsys.readouterr().err and not (folder / "index.h5").exists()
    assert build(folder, "--skip-unreadable") == 0
    captured = capsys.readouterr()
    assert "2 images, skipped 1 unreadable" in captured.out and "skipped: " in captured.err


def test_refusals(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        assert main(["index", *arguments]) in (1, 2)
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    index, query = str(folder / "index.h5"), str(folder / "query.png")
    assert "must end in .h5" in refused("build", str(folder / "photos"), "-o", str(folder / "index.npz"))
    assert "no such image file or folder" in refused("build", str(folder / "none"), "-o", index)
    assert "no such features file" in refused("query", index, query)
    assert "no such image file" in refused("query", index, str(folder / "none.png"))
    assert build(folder) == 0
    capsys.readouterr()
    assert "keypoints in the query" in refused("query", index, str(folder / "plain.png"), "--device", "cpu")
    assert "--top" in refused("query", index, query, "--top", "0")
