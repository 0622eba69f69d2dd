"""``semantic-matcher app``: a local page to try matching in a browser."""

from __future__ import annotations

from typing import Annotated

import typer


def app_command(
    variants: Annotated[
        list[str] | None,
        typer.Option("--variant", "-v", help="A variant to offer; repeatable. (default: those that need no download)"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="What to listen on; the default is reached from this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free one.")] = 7860,
    max_upload_mb: Annotated[int, typer.Option("--max-upload-mb", min=1, help="Larger files are refused.")] = 64,
    device: Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda or cuda:1 …")] = "auto",
) -> None:
    """Serve a page to match two images, a video or a bag in a browser, variants side by side.

    It needs gradio: pip install gradio. Nothing leaves this machine; uploads are deleted when
    it ends (Ctrl-C).

    Example:

      semantic-matcher app --variant compact --variant plain:sift
    """
    from semantic_matcher_core.variants import resolve_variant

    offered = variants or ["compact", "plain:compact", "plain:sift"]
    for name in offered:
        resolve_variant(name, None, None)
    if host not in ("127.0.0.1", "::1", "localhost"):
        typer.echo(f"everyone who reaches {host}:{port} can use this page and this machine's processor", err=True)
    import threading

    from semantic_matcher_core.app.page import serving

    with serving(offered, device=device, host=host, port=port, max_upload_mb=max_upload_mb) as address:
        typer.echo(f"open {address} (Ctrl-C ends it)")
        threading.Event().wait()
