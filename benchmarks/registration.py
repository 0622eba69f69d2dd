"""What the template tracker does with the matches of a frame, beside splines through all: time, and how near the truth.

``python -m benchmarks.registration --help`` has the options.

Matches of a sheet of 640 x 480 that is bent by a known spline, with noise and false ones among them, go through the
non-rigid check, the smoothing spline and its lattice. The straightforward way takes the singular vectors of every
triple for the check and puts splines through all matches gathered, one system of their number a round. Times are what
one thread computes; errors are distances from the known bend over the hull of the right matches.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.reference_nonrigid import gathered_by_full_splines, plain_nonrigid_inliers
from benchmarks.timing import machine_description, time_interleaved
from semantic_matcher_core.geometry.smoothing_spline import fit_smoothing
from semantic_matcher_core.geometry.thin_plate import ThinPlateSpline
from semantic_matcher_core.matching.nonrigid import nonrigid_inliers
from semantic_matcher_core.registration import RegistrationConfig
from semantic_matcher_core.registration.lattice import lattice_of_spline, lattice_points

SIZE = (480, 640)
CONFIG = RegistrationConfig()


@dataclass(frozen=True)
class Sheet:
    """``N x 2`` matched pixels of a bent sheet, ``N`` bool: which are right, and the bend."""

    points0: Tensor
    points1: Tensor
    truth: Tensor
    bend: ThinPlateSpline

    @classmethod
    def generate(cls, matches: int, strength_px: float, noise_px: float = 0.7, false: float = 0.1) -> Sheet:
        """Return a sheet of which 6 x 6 points are moved by up to ``strength_px``, with a share of false matches."""
        generator = torch.Generator().manual_seed(matches)
        extent = torch.tensor([SIZE[1], SIZE[0]]).double()
        control = torch.cartesian_prod(torch.linspace(0, 1, 6), torch.linspace(0, 1, 6)).double() * extent
        moved = control + (torch.rand(control.shape, generator=generator) * 2 - 1) * strength_px
        bend = ThinPlateSpline.fit(control, moved)
        points0 = torch.rand(matches, 2, generator=generator) * extent
        points1 = bend(points0) + torch.randn(matches, 2, generator=generator) * noise_px
        truth = torch.arange(matches) >= false * matches
        points1[~truth] = (torch.rand(matches, 2, generator=generator) * extent)[~truth]
        return cls(points0, points1, truth, bend)

    def errors(self, lattice: np.ndarray) -> np.ndarray:
        """Return distances of a map from the bend, in pixels, where the matches enclose the lattice's points."""
        points = lattice_points(SIZE, CONFIG.step_px).reshape(-1, 2)
        hull = cv2.convexHull(self.points0[self.truth].float().numpy())
        known = np.array([cv2.pointPolygonTest(hull, (float(x), float(y)), False) >= 0 for x, y in points])
        exact = self.bend(torch.from_numpy(points).double()).numpy()
        return np.asarray(np.linalg.norm(lattice.reshape(-1, 2) - exact, axis=1)[known])


def ours(sheet: Sheet) -> dict[str, Callable[[], object]]:
    """Return the steps, each on what the one before gives."""
    found = nonrigid_inliers(sheet.points0, sheet.points1)
    spline, _ = fit_smoothing(sheet.points0[found], sheet.points1[found], CONFIG.regularisation)
    return {
        "check": lambda: nonrigid_inliers(sheet.points0, sheet.points1),
        "spline": lambda: fit_smoothing(sheet.points0[found], sheet.points1[found], CONFIG.regularisation),
        "lattice": lambda: lattice_of_spline(spline, SIZE, CONFIG.step_px),
    }


def straightforward(sheet: Sheet) -> dict[str, Callable[[], object]]:
    """Return the same steps with splines through all matches."""

    def check() -> Tensor:
        plane = plain_nonrigid_inliers(sheet.points0, sheet.points1, CONFIG.threshold)
        return gathered_by_full_splines(sheet.points0, sheet.points1, plane, CONFIG.threshold / 2)

    def fit() -> ThinPlateSpline:
        spline = ThinPlateSpline.fit(sheet.points0[found], sheet.points1[found], CONFIG.regularisation)
        spline(sheet.points0[found])  # for the residual
        return spline

    found = check()
    spline = fit()
    return {"check": check, "spline": fit, "lattice": lambda: lattice_of_spline(spline, SIZE, CONFIG.step_px)}


def row(sheet: Sheet, repeats: int) -> str:
    """Return the table's line of one sheet."""
    ways = {"ours": ours(sheet), "straightforward": straightforward(sheet)}
    total = dict.fromkeys(ways, 0.0)
    cells = []
    for step in ways["ours"]:
        calls = {name: way[step] for name, way in ways.items()}
        times = time_interleaved(calls, repeats=repeats, warmup=1, device=torch.device("cpu"), clock=time.thread_time)
        for name, timing in times.items():
            total[name] += timing.median_ms
        cells.append(f"{times['ours'].median_ms:.0f} of {times['straightforward'].median_ms:.0f}")
    errors = []
    for way in ways.values():
        lattice = way["lattice"]()
        assert isinstance(lattice, np.ndarray)
        errors.append("{:.3f} ({:.2f})".format(*np.percentile(sheet.errors(lattice), [50, 95])))
    ratio = total["straightforward"] / total["ours"]
    cells += [f"{total['ours']:.0f} of {total['straightforward']:.0f}", f"{ratio:.1f}×", *errors]
    return f"| {len(sheet.points0)} | " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.registration", description=__doc__)
    parser.add_argument("--matches", type=int, nargs="+", default=[400, 800, 1800], help="a tenth of them false")
    parser.add_argument("--strength", type=float, nargs="+", default=[12.0, 25.0], help="of the bend, in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(
        f"{machine_description(torch.device('cpu'))}; ours of the straightforward way, ms; error in px: median (95 %)\n"
    )
    print("| bend, px | matches | check | spline | lattice | together | ratio | error, ours | straightforward |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for strength in args.strength:
        for matches in args.matches:
            print(f"| {strength:g} {row(Sheet.generate(matches, strength), args.repeats)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
