"""``semantic-matcher variants``: the published variants, and which one a choice of words means."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer


def variants_command(
    descriptor: Annotated[str | None, typer.Option(help="Only variants of this descriptor, e.g. aliked.")] = None,
    dino: Annotated[str | None, typer.Option(help="Only variants with this DINOv2, e.g. dinov2_vitb14 or B.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the published variants: descriptor, DINOv2, layers, licence, size, and whether all of it is here.

    Any extractor also works without semantics, as plain:<extractor>, e.g. plain:sift.
    """
    from semantic_matcher_core.variants.names import filter_variants

    variants = filter_variants(descriptor, dino)
    if as_json:
        typer.echo(json.dumps([asdict(variant) for variant in variants], indent=2))
        return
    from semantic_matcher_core.cli.tables import print_table

    print_table(
        ("variant", "descriptor", "dino", "layers", "licence", "MB", "here"),
        [
            (
                v.name,
                v.descriptor,
                v.dino,
                "?" if v.layers is None else str(v.layers),
                v.licence,
                "?" if v.size_mb is None else f"{v.size_mb:.1f}",
                "yes" if v.available else "no",
            )
            for v in variants
        ],
        right=("layers", "MB"),
    )
    typer.echo("Fetch one with all that it needs: semantic-matcher weights fetch VARIANT")
