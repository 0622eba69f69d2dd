"""``python -m training.scannet download|extract|covisibility|build-h5``."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from semantic_matcher_core.errors import ConfigError, SemanticMatcherError
from semantic_matcher_core.io.atomic import make_folder
from semantic_matcher_core.process_pool import process_pool
from training.cli import console, run_app, say
from training.errors import DataError

app = typer.Typer(
    help="Prepare ScanNet for training: download, extract, covisibility, build-h5, in this order.",
    no_args_is_help=True,
    add_completion=False,
)


class OnDamage(str, Enum):
    """What to do with a scene that cannot be used."""

    skip = "skip"
    fail = "fail"


class Storage(str, Enum):
    """How scene files store images and depth."""

    published = "published"
    compact = "compact"
    small = "small"


DataPath = Annotated[Path, typer.Option(help="Folder that holds (or will hold) scans/<scene>.")]
Workers = Annotated[int, typer.Option(min=1, help="Scenes worked on at once.")]
Damage = Annotated[OnDamage, typer.Option(help="A damaged scene is named and skipped, or ends the command.")]
Scenes = Annotated[Path | None, typer.Option(help="File with one scene name a line; all scenes without it.")]
_CORES = os.cpu_count() or 1


@app.command()
def download(
    data_path: DataPath,
    accept_terms: Annotated[bool, typer.Option(help="You have signed ScanNet's terms of use.")] = False,
    scene: Annotated[list[str] | None, typer.Option(help="Only this scene; may be repeated.")] = None,
    scenes: Scenes = None,
    base_url: Annotated[str | None, typer.Option(help="Another server with the same layout.")] = None,
) -> None:
    """Download recordings (.sens). All of ScanNet is 1.2 TB; an interrupted download goes on where it stopped."""
    from training.scannet import download as kit

    kit.require_terms(accept_terms)
    url = f"{(base_url or kit.BASE_URL).rstrip('/')}/"
    names = scene or _names_in(scenes) or kit.list_scenes(url)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        for position, name in enumerate(names, 1):
            task = bars.add_task(f"{name} ({position}/{len(names)})", total=None)
            kit.download_scene(
                name,
                data_path,
                base_url=url,
                progress=lambda done, total, task=task: bars.update(task, completed=done, total=total),  # type: ignore[misc]
            )
    say(f"{len(names)} recordings in {data_path / 'scans'}")


@app.command()
def extract(
    data_path: DataPath,
    every: Annotated[int, typer.Option(min=1, help="Take every N-th frame.")] = 15,
    workers: Workers = _CORES,
    on_damage: Damage = OnDamage.skip,
) -> None:
    """Extract frames, depth, poses and intrinsics from every .sens file; finished scenes are left as they are."""
    from training.scannet.extract import extract_scene, is_extracted

    recordings = sorted(data_path.glob("scans/*/*.sens"))
    todo = [path for path in recordings if not is_extracted(path.parent)]
    job = partial(extract_scene, every=every)
    _for_each(todo, job, workers, on_damage, len(recordings) - len(todo), "frames", "download", [])


@app.command()
def covisibility(
    data_path: DataPath,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    workers: Workers = _CORES,
    on_damage: Damage = OnDamage.skip,
) -> None:
    """Measure how much of each frame every later frame of its scene sees (covisibility.txt)."""
    from semantic_matcher_core.device import resolve_device
    from training.scannet.covisibility import FILE_NAME, write_covisibility
    from training.scannet.extract import is_extracted

    chosen = str(resolve_device(device))
    extracted = sorted(folder for folder in data_path.glob("scans/*") if is_extracted(folder))
    todo = [folder for folder in extracted if not (folder / FILE_NAME).is_file()]
    # One process has the GPU; several would only take turns on it.
    count = workers if chosen == "cpu" else 1
    job = partial(write_covisibility, device=chosen)
    raw = sorted({path.parent for path in data_path.glob("scans/*/*.sens")} - set(extracted))
    lacking = [folder.name for folder in raw]
    _for_each(todo, job, count, on_damage, len(extracted) - len(todo), "pairs", "extract", lacking)


@app.command()
def build_h5(
    data_path: DataPath,
    output: Annotated[Path, typer.Option(help="Folder for <split>/<scene>.h5.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "train",
    scenes: Scenes = None,
    least: Annotated[float, typer.Option(help="Covisibility above this.")] = 0.4,
    most: Annotated[float, typer.Option(help="Covisibility below this.")] = 0.8,
    storage: Annotated[
        Storage,
        typer.Option(help="published: float32; compact: uint8 and float16, a third; small: JPEG, a tenth or less."),
    ] = Storage.published,
    workers: Workers = _CORES,
    on_damage: Damage = OnDamage.skip,
) -> None:
    """Write one HDF5 file a scene in the published layout; finished files are left as they are."""
    from training.scannet.covisibility import FILE_NAME

    if least >= most:
        raise ConfigError(f"--least {least:g} must be below --most {most:g}")
    make_folder(output / split)
    wanted = _names_in(scenes)
    if wanted is None:
        wanted = sorted(path.name for path in data_path.glob("scans/*"))
    ready = [folder for name in wanted if (folder := data_path / "scans" / name).joinpath(FILE_NAME).is_file()]
    lacking = sorted(set(wanted) - {folder.name for folder in ready})
    todo = [folder for folder in ready if not (output / split / f"{folder.name}.h5").is_file()]
    job = partial(_build_one, output=output / split, least=least, most=most, storage=storage.value)
    _for_each(todo, job, workers, on_damage, len(ready) - len(todo), "pairs", "covisibility", lacking)


def _build_one(folder: Path, *, output: Path, least: float, most: float, storage: str) -> int:
    from training.scannet.build_h5 import build_scene

    return build_scene(folder, output / f"{folder.name}.h5", least=least, most=most, storage=storage)


def _names_in(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    from training.scannet.download import check_scene_names

    try:
        return check_scene_names(path.read_text(encoding="ascii").split(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _for_each(
    paths: list[Path],
    job: Callable[[Path], int],
    workers: int,
    on_damage: OnDamage,
    done: int,
    what: str,
    before: str,
    lacking: list[str],
) -> None:
    """Run a job for every scene in processes; damaged scenes are named, and end the command with exit code 1.

    Scenes for which the step ``before`` is not finished are named as well.
    """
    if lacking:
        names = ", ".join(lacking[:5]) + (" …" if len(lacking) > 5 else "")
        say(f"{len(lacking)} scenes left out, for which {before} is not finished: {names}")
    if not paths:
        say(
            f"nothing to do: {done} scenes are finished"
            if done
            else f"no scene is ready: run {before} first, or check --data-path"
        )
        raise typer.Exit(0 if done else 1)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    total, damaged = 0, []
    with Progress(*columns, console=console) as bars, process_pool(min(workers, len(paths)), _alone_on_a_core) as pool:
        task = bars.add_task("scenes", total=len(paths))
        futures = {pool.submit(job, path): path for path in paths}
        for future in as_completed(futures):
            try:
                total += future.result()
            except SemanticMatcherError as error:
                if on_damage is OnDamage.fail:
                    raise
                damaged.append(futures[future])
                say(f"skipped: {error}")
            except BrokenProcessPool as error:
                raise DataError(
                    "a process was killed (out of memory?); the same command goes on where it stopped, and fewer "
                    "--workers take less memory"
                ) from error
            bars.advance(task)
    say(f"{len(paths) - len(damaged)} scenes, {total} {what}; {done} were finished before")
    if damaged:
        say(f"{len(damaged)} damaged: {', '.join(str(path) for path in damaged)}")
        raise typer.Exit(1)


def _alone_on_a_core() -> None:
    """Limit this process to one thread: scenes run side by side, and threads of each besides would only compete."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
