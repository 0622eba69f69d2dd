"""The page itself, in Gradio: files, choices, pictures. All work is done by :mod:`.work`."""

from __future__ import annotations

import contextlib
import html
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semantic_matcher_core.app.work import GEOMETRIES, MAX_VARIANTS, VIEWS, Choice, Desk, picture_of
from semantic_matcher_core.errors import ConfigError, MissingPackageError, SemanticMatcherError
from semantic_matcher_core.io.bags import BAG_SUFFIXES
from semantic_matcher_core.io.images import IMAGE_SUFFIXES
from semantic_matcher_core.io.video import VIDEO_SUFFIXES

_INTRODUCTION = """# semantic_matcher
Drop two images, or a video or bag, and press *Match*. Blue: inliers. Vermilion, with a cross: outliers.
Dark blue to yellow: similarity, yellow is most. Nothing leaves this machine."""


@contextlib.contextmanager
def serving(
    variants: list[str], *, device: str = "auto", host: str = "127.0.0.1", port: int = 7860, max_upload_mb: int = 64
) -> Iterator[str]:
    """Serve the page while the block runs; gives its address.

    Uploads go to a folder of their own, which is removed at the end; no other file is read.

    Args:
        variants: offered, the first chosen.
        device: where matchers run.
        host: what to listen on; the default is reachable from this machine alone.
        port: 0 for any free one.
        max_upload_mb: larger files are refused by the server.

    Raises:
        MissingPackageError: Gradio is not installed.
        ConfigError: the port is taken.
    """
    # Before the import, which reads them: no statistics are sent anywhere.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory(prefix="semantic-matcher-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            import gradio
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise MissingPackageError("the app needs gradio, not installed here: pip install gradio") from error
        page = _page(gradio, Desk(device), variants, Path(folder))
        fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
        try:
            _, address, _ = page.queue(default_concurrency_limit=1, max_size=32).launch(
                server_name=host,
                server_port=port or _free_port(host),
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=f"{max_upload_mb}mb",
                footer_links=[],
                run_history=False,
                ssr_mode=False,
                # Fonts of the system: the default theme's are loaded from the network.
                theme=gradio.themes.Base(**fonts),
            )
        except OSError as error:
            raise ConfigError(f"cannot serve on {host}:{port}: {error}; choose another --port") from error
        try:
            yield address
        finally:
            page.close(verbose=False)


def _free_port(host: str) -> int:
    import socket

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _page(gradio: Any, desk: Desk, variants: list[str], folder: Path) -> Any:
    with gradio.Blocks(title="semantic_matcher", analytics_enabled=False) as page:
        gradio.Markdown(_INTRODUCTION)
        with gradio.Row():
            names = sorted({*IMAGE_SUFFIXES, *BAG_SUFFIXES, *VIDEO_SUFFIXES})
            files = gradio.File(
                file_count="multiple", file_types=names, label="Two images, or one video or bag", elem_id="files"
            )
            with gradio.Column():
                chosen = gradio.CheckboxGroup(
                    variants, value=variants[:1], label=f"Variants, up to {MAX_VARIANTS}", elem_id="variants"
                )
                view = gradio.Radio(list(VIEWS), value="lines", label="View", elem_id="view")
                geometry = gradio.Radio(
                    list(GEOMETRIES), value="fundamental", label="Geometric check", elem_id="geometry"
                )
            with gradio.Column():
                least = gradio.Slider(0, 1, 0, step=0.01, label="Similarity at least", elem_id="least")
                threshold = gradio.Slider(0.5, 10, 2, step=0.5, label="Inliers within, pixels")
                keypoints = gradio.Slider(128, 4096, 1024, step=128, label="Keypoints of an image, at most")
        button = gradio.Button("Match", variant="primary", elem_id="match")
        status = gradio.Markdown(elem_id="status")
        place = gradio.State(None)
        # No button that would send a picture elsewhere.
        plain = {"visible": False, "interactive": False, "show_label": False, "buttons": ["download", "fullscreen"]}
        rows = [
            (gradio.Markdown(visible=False, elem_id=f"text{i}"), gradio.Image(**plain, elem_id=f"picture{i}"))
            for i in range(MAX_VARIANTS)
        ]
        first = gradio.Image(
            label="First image: click a point to see what it resembles",
            visible=False,
            interactive=False,
            height=320,
            buttons=["fullscreen"],
            elem_id="first",
        )
        report = gradio.HTML(visible=False, elem_id="report")
        outputs = [status, first, report, *(part for row in rows for part in row)]

        def work(
            paths: list[str] | None,
            names: list[str],
            view: str,
            geometry: str,
            least: float,
            threshold: float,
            keypoints: float,
            point: tuple[float, float] | None,
        ) -> list[Any]:
            choice = Choice(view, geometry, float(threshold), float(least), int(keypoints), point=point)
            try:
                return _answer(gradio, desk, [Path(p) for p in paths or ()], names, choice, folder)
            except SemanticMatcherError as error:
                return _shown(gradio, str(error))

        inputs = [files, chosen, view, geometry, least, threshold, keypoints, place]
        button.click(work, inputs, outputs, show_progress="minimal", api_name="match")
        for control in (least, threshold):
            control.release(work, inputs, outputs, show_progress="minimal", api_visibility="private")
        view.input(work, inputs, outputs, show_progress="minimal", api_visibility="private")

        def pick(event: gradio.SelectData) -> tuple[tuple[float, float], str]:
            return (float(event.index[0]), float(event.index[1])), "point"

        # Gradio reads the annotation, which is a string here.
        pick.__annotations__["event"] = gradio.SelectData
        picked = first.select(pick, None, [place, view], api_visibility="private")
        picked.then(work, inputs, outputs, show_progress="minimal", api_visibility="private")
    return page


def _answer(gradio: Any, desk: Desk, paths: list[Path], variants: list[str], choice: Choice, folder: Path) -> list[Any]:
    if len(paths) == 1 and paths[0].suffix.lower() not in IMAGE_SUFFIXES:
        if len(variants) != 1:
            raise ConfigError("choose one variant for a video or bag")
        with tempfile.TemporaryDirectory(dir=folder) as results:
            page, text = desk.report(paths[0], variants[0], choice, Path(results))
            document = html.escape(page.read_text(encoding="utf-8"), quote=True)
        # A page of its own: its policy holds, and it reaches nothing of this one.
        frame = f'<iframe title="report" sandbox="allow-scripts" srcdoc="{document}" style="{_FRAME}"></iframe>'
        return _shown(gradio, text, report=frame)
    if len(paths) != 2:
        raise ConfigError(f"give two images, or one video or bag; {len(paths)} files are here")
    outcomes = desk.match(paths[0], paths[1], variants, choice)
    pictures = [(outcome.text, outcome.picture) for outcome in outcomes]
    return _shown(gradio, "", first=picture_of(paths[0]), pictures=pictures)


_FRAME = "width:100%;height:1400px;border:0"


def _shown(
    gradio: Any, text: str, *, first: Any = None, report: str = "", pictures: list[tuple[str, Any]] | None = None
) -> list[Any]:
    """Return what every output becomes."""
    pictures = pictures or []
    values = [
        gradio.update(value=text),
        gradio.update(value=first, visible=first is not None),
        gradio.update(value=report, visible=bool(report)),
    ]
    for i in range(MAX_VARIANTS):
        words, picture = pictures[i] if i < len(pictures) else ("", None)
        values.append(gradio.update(value=words, visible=bool(words)))
        values.append(gradio.update(value=picture, visible=picture is not None))
    return values
