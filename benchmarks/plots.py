"""How the time of a new frame grows, beside how the floor grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.models import Case

_FRAME = "new frame of a stream"


def draw_growth(results: list[dict[str, Any]], base: Case, folder: Path) -> None:
    """Write ``time_over_keypoints.svg`` and ``time_over_size.svg``: one colour a precision, floors dashed."""
    folder.mkdir(parents=True, exist_ok=True)
    one_image = [r for r in results if r["case"]["batch"] == base.batch]
    keypoints = [r for r in one_image if tuple(r["case"]["size"]) == base.size]
    sizes = [r for r in one_image if r["case"]["keypoints"] == base.keypoints]
    _draw(folder / "time_over_keypoints.svg", keypoints, lambda case: case["keypoints"], "keypoints", base)
    _draw(
        folder / "time_over_size.svg",
        sizes,
        lambda case: case["size"][0] * case["size"][1] / 1e6,
        "megapixels of the image",
        base,
    )


def _draw(path: Path, results: list[dict[str, Any]], place: Any, label: str, base: Case) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "semantic_matcher"
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = pyplot.subplots(figsize=(5.2, 3.4), layout="constrained")
    for index, precision in enumerate(dict.fromkeys(r["case"]["precision"] for r in results)):
        mine = sorted(
            ((place(r["case"]), r) for r in results if r["case"]["precision"] == precision), key=lambda item: item[0]
        )
        x = [at for at, _ in mine]
        colour = f"C{index}"
        axes.plot(x, [r["timings"][_FRAME]["ours"].median_ms for _, r in mine], "o-", color=colour, label=precision)
        axes.plot(x, [r["floors_ms"][_FRAME] for _, r in mine], "--", color=colour, label=f"{precision}, floor")
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="new frame of a stream, ms")
    ticks = sorted({place(r["case"]) for r in results})
    axes.set_xticks(ticks, [str(tick) if isinstance(tick, int) else f"{tick:.2f}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    # A decade may hold one power of ten only.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
