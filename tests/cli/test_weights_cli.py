"""`semantic-matcher weights …` and `semantic-matcher variants`, as a user runs them."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from semantic_matcher_core.cli import main
from semantic_matcher_core.weights import get_entry, list_entries
from tests.core.test_variants import NAMES
from tests.core.tiny_parts import Published

BUNDLED = {"compact", "compact-extractor", "compact_context"}


Run = tuple[int, str, str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    # The program's log handler keeps the stderr it first saw, which here would be another test's.
    monkeypatch.setattr(logging.getLogger("semantic_matcher_core"), "handlers", [])

    def call(*arguments: str) -> Run:
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def test_list_shows_every_entry(home: Path, run: Callable[..., Run]) -> None:
    code, out, _ = run("weights", "list")
    assert code == 0
    for entry in list_entries():
        line = next(line for line in out.splitlines() if line.split()[:1] == [entry.name])
        assert entry.kind in line
        assert entry.licence in line
        assert entry.bundled or line.rstrip().endswith("-"), "nothing else is here"


def test_list_filters_and_gives_json(home: Path, run: Callable[..., Run]) -> None:
    code, out, _ = run("weights", "list", "--kind", "variant", "--json")
    assert code == 0
    rows = json.loads(out)
    assert [row["name"] for row in rows] == ["compact", *NAMES]
    assert rows[0]["path"] and not rows[0]["url"], "it comes with the package"
    assert all(row["path"] is None and row["url"].startswith("https://") for row in rows[1:])
    code, _, err = run("weights", "list", "--kind", "nets")
    assert code == 2
    assert "unknown kind 'nets'; known: extractor, matcher, semantic_encoder, variant" in err


def test_fetch_brings_all_that_a_variant_needs(home: Path, published: Published, run: Callable[..., Run]) -> None:
    code, out, err = run("weights", "fetch", "xfeat", "xfeat-3_layers")
    assert code == 0, err
    assert [line.split(":")[0] for line in out.splitlines()] == [
        "xfeat-extractor",
        "dinov2_vits14",
        "xfeat",
        "xfeat-3_layers",
    ]
    assert out.splitlines()[-1] == f"xfeat-3_layers: {home / 'weights' / 'xfeat-3_layers'}"
    requests = len(published.server.requests)
    assert requests == 4
    published.server.stop()
    code, again, _ = run("weights", "fetch", "xfeat", "xfeat-3_layers", "--offline")
    assert (code, again) == (0, out)
    assert len(published.server.requests) == requests

    code, out, _ = run("weights", "path", "xfeat")
    assert (code, out) == (0, f"{home / 'weights' / 'xfeat'}\n")
    code, out, _ = run("weights", "list", "--json")
    here = {row["name"] for row in json.loads(out) if row["path"]} - BUNDLED
    assert here == {"xfeat-extractor", "dinov2_vits14", "xfeat", "xfeat-3_layers"}
    code, out, _ = run("variants", "--json")
    assert {v["name"] for v in json.loads(out) if v["available"]} == {"compact", "xfeat", "xfeat-3_layers"}


def test_path_of_what_is_not_here_says_how_to_get_it(home: Path, run: Callable[..., Run]) -> None:
    code, out, err = run("weights", "path", "alike-n")
    assert (code, out) == (1, "")
    assert "semantic-matcher weights fetch alike-n" in err
    assert len(err.splitlines()) == 1
    code, _, err = run("weights", "path", "alike-x")
    assert code == 2
    assert "alike-n" in err


def test_offline_forbids_the_network(
    home: Path, published: Published, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run("weights", "fetch", "xfeat", "--offline")
    assert code == 1
    assert "offline mode forbids" in err
    monkeypatch.setenv("SEMANTIC_MATCHER_OFFLINE", "1")
    assert run("weights", "fetch", "xfeat")[0] == 1
    assert published.server.requests == []


def test_a_licence_is_asked_for_before_the_first_byte(
    home: Path, published: Published, run: Callable[..., Run]
) -> None:
    code, _, err = run("weights", "fetch", "superpoint")
    assert code == 1
    assert "non-commercial" in err
    assert "semantic-matcher weights fetch superpoint-extractor --accept-license" in err
    assert published.server.requests == []
    code, out, err = run("weights", "fetch", "superpoint", "--accept-license")
    assert code == 0
    assert "superpoint:" in out
    assert "non-commercial" in err, "the terms are shown again with the weights"
    (home / "weights" / "superpoint_v1.pth").unlink()
    assert run("weights", "fetch", "superpoint")[0] == 0, "remembered"


def test_verify_tells_good_from_changed(home: Path, published: Published, run: Callable[..., Run]) -> None:
    code, out, _ = run("weights", "verify")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines() if " ok " in line} == BUNDLED
    code, out, _ = run("weights", "verify", "xfeat")
    assert code == 1
    assert "not here" in out
    run("weights", "fetch", "xfeat")
    code, out, _ = run("weights", "verify", "--json")
    assert code == 0
    assert {row["name"]: row["status"] for row in json.loads(out)} == dict.fromkeys(
        ["compact", "compact-extractor", "compact_context", "xfeat-extractor", "dinov2_vits14", "xfeat"], "ok"
    )
    with (home / "weights" / "xfeat.pt").open("ab") as file:
        file.write(b"!")
    code, out, _ = run("weights", "verify")
    assert code == 1
    status = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "mismatch" in status["xfeat-extractor"]
    assert " ok " in status["xfeat"]


def test_a_replaced_file_is_refused_until_it_is_trusted(
    home: Path, published: Published, run: Callable[..., Run]
) -> None:
    assert run("weights", "fetch", "xfeat")[0] == 0
    shutil.rmtree(home / "weights" / "xfeat")
    published.serve_zip("xfeat", published.server.files["/xfeat-3_layers.zip"].content)
    code, _, err = run("weights", "fetch", "xfeat")
    assert code == 1
    assert "--trust-new-hash" in err
    assert not (home / "weights" / "xfeat").exists()
    requests = len(published.server.requests)
    assert run("weights", "fetch", "xfeat", "--trust-new-hash")[0] == 0
    assert len(published.server.requests) == requests + 1, "only what was named is fetched again"


def test_a_refused_download_is_one_line(home: Path, published: Published, run: Callable[..., Run]) -> None:
    published.server.files["/xfeat.pt"].statuses = [404]
    code, _, err = run("weights", "fetch", "xfeat-extractor")
    assert code == 1
    assert err.splitlines()[-1].startswith("error: http://127.0.0.1")
    assert "404" in err


def test_variants_are_a_table(home: Path, run: Callable[..., Run]) -> None:
    code, out, _ = run("variants")
    assert code == 0
    for name in NAMES:
        entry = get_entry(name)
        line = next(line.split() for line in out.splitlines() if line.split()[:1] == [name])
        assert line[1:4] == [entry.descriptor, entry.dino, str(entry.layers)]
        assert line[-2:] == [f"{entry.size_mb:.1f}", "no"]


def test_variants_filter(home: Path, run: Callable[..., Run]) -> None:
    code, out, _ = run("variants", "--descriptor", "xfeat", "--dino", "g", "--json")
    assert code == 0
    assert [v["name"] for v in json.loads(out)] == ["xfeat-12_layers-dino_G", "xfeat-dino-G"]
    code, _, err = run("variants", "--descriptor", "aliked", "--dino", "B")
    assert code == 2
    assert "aliked (dinov2_vits14)" in err


def test_a_plain_variant_is_a_name_too(home: Path, run: Callable[..., Run]) -> None:
    assert run("weights", "fetch", "plain:sift")[:2] == (0, "plain:sift needs no weights\n")
    assert run("weights", "fetch", "plain:compact")[1].startswith("compact-extractor: ")
    code, _, error = run("weights", "fetch", "plain:alike-t", "--offline")
    assert code == 1 and "alike-t" in error
    assert "did you mean 'xfeat'?" in run("weights", "fetch", "plain:xfaet")[2]
