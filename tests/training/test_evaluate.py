"""The evaluation commands on benchmarks in miniature that the tests make."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from semantic_matcher_core.geometry.thin_plate import fit_displacement
from tests.conftest import make_textured_image
from training.errors import DataError
from training.evaluate import app
from training.evaluation.homography import evaluate_homography_pair, homography_pairs, summarise_homography
from training.evaluation.methods import file_states, load_matcher, match_function, on_shrunk
from training.evaluation.nonrigid import nonrigid_pairs, true_pairs

HOMOGRAPHY = np.array([[0.95, 0.08, 6.0], [-0.06, 1.02, 9.0], [1e-4, -5e-5, 1.0]])


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    folder = tmp_path / "hpatches" / "v_test"
    folder.mkdir(parents=True)
    image = make_textured_image(240, 320)
    cv2.imwrite(str(folder / "1.ppm"), image)
    cv2.imwrite(str(folder / "2.ppm"), cv2.warpPerspective(image, HOMOGRAPHY, (320, 240)))
    np.savetxt(folder / "H_1_2", HOMOGRAPHY)
    return folder.parent


def perfect(image0: np.ndarray, image1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A method that knows the answer."""
    points = np.stack(np.meshgrid(np.arange(20.0, 300, 20), np.arange(20.0, 220, 20)), axis=-1).reshape(-1, 2)
    moved = np.c_[points, np.ones(len(points))] @ HOMOGRAPHY.T
    return points, moved[:, :2] / moved[:, 2:]


@pytest.mark.parametrize("full_budget", [False, True])
def test_a_method_may_say_how_nearest_neighbours_are_searched(full_budget: bool) -> None:
    searches = {"": "auto", "+guided": "always", "+unguided": "never"}
    for suffix, guided in searches.items():
        matcher = load_matcher(f"plain:sift{suffix}", full_budget=full_budget, device="cpu")
        assert matcher.extractor.name == "sift" and matcher.matching.guided == guided


def test_homography_figures_are_perfect_for_who_knows_and_worse_for_who_errs(patches: Path) -> None:
    (pair,) = homography_pairs(patches)
    best = summarise_homography([evaluate_homography_pair(pair, perfect)])
    assert best["MMA@1"] == 1.0
    assert best["corner AUC@1px"] > 0.99

    def shifted(image0: np.ndarray, image1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points0, points1 = perfect(image0, image1)
        return points0, points1 + np.array([2.4, 0.0])

    worse = summarise_homography([evaluate_homography_pair(pair, shifted)])
    assert (worse["MMA@2"], worse["MMA@3"]) == (0.0, 1.0)
    # Recall rises linearly to 1 at the only error, by the protocol's trapezoids: (2.4 / 2 + 0.6) / 3.
    assert worse["corner AUC@3px"] == pytest.approx(0.6, abs=0.02)
    nothing = summarise_homography([evaluate_homography_pair(pair, lambda a, b: (np.empty((0, 2)), np.empty((0, 2))))])
    assert nothing["MMA@10"] == nothing["corner AUC@5px"] == 0.0


def test_homography_command_writes_pairs_and_summary(patches: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    method = "tests.training.test_evaluate:perfect"
    result = CliRunner().invoke(
        app, ["homography", "plain:sift", method, "--data", str(patches), "--output", str(output), "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    summary = json.loads((output / "summary.json").read_text())
    assert summary[method]["MMA@1"] == 1.0
    assert summary["plain:sift"]["MMA@3"] > 0.8
    assert summary["plain:sift"]["matches"] > 100
    assert "| plain:sift |" in (output / "summary.md").read_text()
    assert len(list(csv.DictReader((output / "plain_sift.pairs.csv").open()))) == 1


def test_pose_command_scores_a_known_motion_and_remembers_its_matches(tmp_path: Path) -> None:
    import torch

    from training.data.rendered import nearby_pose, noise_textures, pinhole, random_pose, random_room, render

    generator = torch.Generator().manual_seed(1)
    textures, camera = noise_textures(6, generator), pinhole(240, 320)
    quads, first = random_room(6, generator), random_pose(generator)
    second = nearby_pose(first, generator, amount=0.5)
    for name, where in (("a", first), ("b", second)):
        pixels = (render(quads, textures, where, camera, (240, 320)).image.permute(1, 2, 0).numpy() * 255).astype(
            np.uint8
        )
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels[..., ::-1])
    transform = torch.linalg.inv(second) @ first
    numbers = [*camera.flatten().tolist(), *camera.flatten().tolist(), *transform[:3, :3].flatten().tolist()]
    numbers += transform[:3, 3].tolist()
    (tmp_path / "pairs.txt").write_text("a.png b.png " + " ".join(f"{n:.8f}" for n in numbers) + "\n")
    arguments = ["pose", "plain:sift", "--pairs", str(tmp_path / "pairs.txt"), "--data", str(tmp_path)]
    arguments += ["--output", str(tmp_path / "out"), "--workers", "1", "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["plain:sift"]["AUC@20"] > 0.7
    assert len((tmp_path / "out" / "plain_sift.thresholds.csv").read_text().splitlines()) == 13
    smaller = CliRunner().invoke(app, [*arguments, "--long-side", "240"])
    assert smaller.exit_code == 0, smaller.output
    fewer = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert fewer["plain:sift"]["AUC@20"] > 0.5  # points came back to the pixels that the cameras are of
    assert len(list((tmp_path / "out").glob("*.matches.npz"))) == 2
    (tmp_path / "a.png").unlink()  # the second run must not need the pictures
    assert CliRunner().invoke(app, arguments).exit_code == 0
    # Another list of pairs under the same name does.
    (tmp_path / "pairs.txt").write_text((tmp_path / "pairs.txt").read_text() + "\n")
    assert CliRunner().invoke(app, arguments).exit_code != 0


def bent_object(root: Path) -> None:
    """One object of the non-rigid benchmark: a picture and a bent view of it, with the spline back."""
    images, truth = root / "images" / "Kinect1" / "shirt", root / "tps" / "Kinect1" / "shirt"
    images.mkdir(parents=True)
    truth.mkdir(parents=True)
    master = make_textured_image(240, 320, seed=4)
    y, x = np.meshgrid(np.linspace(0, 1, 5), np.linspace(0, 1, 5), indexing="ij")
    control = np.stack([x, y], axis=-1).reshape(-1, 2)
    shifts = 0.02 * np.stack([np.sin(6 * control[:, 1]), np.cos(5 * control[:, 0])], axis=-1)
    import torch

    theta = fit_displacement(torch.from_numpy(control), torch.from_numpy(shifts)).numpy()
    np.save(truth / "cloud_1_theta.npy", theta[None])
    np.save(truth / "cloud_1_ctrlpts.npy", control)
    from semantic_matcher_core.geometry.thin_plate import displacement

    rows, columns = np.meshgrid(np.arange(240.0), np.arange(320.0), indexing="ij")
    unit = torch.from_numpy(np.stack([columns / 320, rows / 240], axis=-1).reshape(1, -1, 2))
    moved = (unit + displacement(torch.from_numpy(theta)[None], torch.from_numpy(control), unit))[0].numpy()
    at = (moved * [320, 240]).reshape(240, 320, 2).astype(np.float32)
    cv2.imwrite(str(images / "cloud_master-rgb.png"), master)
    cv2.imwrite(str(images / "cloud_1-rgb.png"), cv2.remap(master, at[..., 0], at[..., 1], cv2.INTER_LINEAR))
    for name in ("cloud_master", "cloud_1"):
        cv2.imwrite(str(truth / f"{name}_objmask.png"), np.full((240, 320), 255, np.uint8))
    cv2.imwrite(str(truth / "cloud_1_SSIM.png"), np.full((240, 320), 200, np.uint8))


def test_nonrigid_command_scores_a_known_bend(tmp_path: Path) -> None:
    bent_object(tmp_path)
    arguments = [
        "--images",
        str(tmp_path / "images"),
        "--tps",
        str(tmp_path / "tps"),
        "--output",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(app, ["nonrigid", "sift", *arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    (row,) = csv.DictReader((tmp_path / "out" / "sift.pairs.csv").open())
    assert int(row["true pairs"]) > 200
    assert float(row["MMA"]) > 0.8
    assert float(row["MS"]) == pytest.approx(int(row["inliers"]) / min(int(row["keypoints0"]), int(row["keypoints1"])))
    # The truth decides: with the spline left out, few keypoints correspond.
    truth = tmp_path / "tps" / "Kinect1" / "shirt" / "cloud_1_theta.npy"
    np.save(truth, np.zeros_like(np.load(truth)))
    CliRunner().invoke(app, ["nonrigid", "sift", *arguments, "--device", "cpu"])
    (flat,) = csv.DictReader((tmp_path / "out" / "sift.pairs.csv").open())
    assert int(flat["inliers"]) < 0.5 * int(row["inliers"])


def bent_truth(image0: np.ndarray, image1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ten matches that are right by the spline of :func:`bent_object`, and ten that are not."""
    import torch

    from semantic_matcher_core.geometry.thin_plate import displacement

    control = np.stack(np.meshgrid(np.linspace(0, 1, 5), np.linspace(0, 1, 5)), axis=-1).reshape(-1, 2)
    shifts = 0.02 * np.stack([np.sin(6 * control[:, 1]), np.cos(5 * control[:, 0])], axis=-1)
    theta = fit_displacement(torch.from_numpy(control), torch.from_numpy(shifts))[None]
    points1 = np.random.default_rng(0).uniform(50, 190, (20, 2))
    unit = torch.from_numpy(points1 / [320, 240])[None]
    points0 = (unit + displacement(theta, torch.from_numpy(control), unit))[0].numpy() * [320, 240]
    points0[10:] += 8
    return points0, points1


def test_nonrigid_command_takes_functions_and_variants(tmp_path: Path) -> None:
    bent_object(tmp_path)
    (tmp_path / "tps" / "Kinect1" / "shirt" / "cloud_1_SSIM.png").unlink()
    function = "tests.training.test_evaluate:bent_truth"
    arguments = ["nonrigid", "sift", "plain:sift", "compact", function, "--images", str(tmp_path / "images")]
    arguments += ["--tps", str(tmp_path / "tps"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["sift"] == summary["plain:sift"]
    assert summary["compact"]["mean MMA"] > 0.2
    assert summary[function] == {
        "Kinect1 precision": 0.5,
        "Kinect1 inliers": 10.0,
        "mean precision": 0.5,
        "mean inliers": 10.0,
    }


def test_missing_truth_is_named(tmp_path: Path) -> None:
    bent_object(tmp_path)
    (tmp_path / "tps" / "Kinect1" / "shirt" / "cloud_1_ctrlpts.npy").unlink()
    with pytest.raises(DataError, match=r"cloud_1_ctrlpts\.npy is missing"):
        list(nonrigid_pairs(tmp_path / "images", tmp_path / "tps"))
    with pytest.raises(DataError, match="no sequences"):
        list(homography_pairs(tmp_path))


def test_each_master_keypoint_is_claimed_once() -> None:
    keypoints0 = np.array([[10.0, 10.0], [50.0, 50.0]])
    warped = np.array([[11.0, 10.0], [10.5, 10.0], [49.0, 50.0], [90.0, 90.0]])
    index0, index1 = true_pairs(keypoints0, warped)
    assert (index0.tolist(), index1.tolist()) == ([0, 1], [0, 2])
    assert len(true_pairs(keypoints0[:0], warped)[0]) == 0


def test_results_of_weights_trained_anew_are_told_apart(tmp_path: Path) -> None:
    assert file_states("plain:sift") == []
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "a.pt").write_bytes(b"one")
    before = file_states(tmp_path / "best")
    assert file_states(str(tmp_path / "best")) == before
    (tmp_path / "best" / "a.pt").write_bytes(b"three")
    assert file_states(tmp_path / "best") != before


def test_points_of_shrunk_images_come_back_to_where_they_were() -> None:
    seen = []

    def corners(image0: np.ndarray, image1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append((image0.shape, image1.shape))
        return tuple(np.array([[-0.5, -0.5], [i.shape[1] - 0.5, i.shape[0] - 0.5]]) for i in (image0, image1))  # type: ignore[return-value]

    large, small = np.zeros((300, 401, 3), np.uint8), np.zeros((90, 60, 3), np.uint8)
    points0, points1 = on_shrunk(corners, 100)(large, small)
    assert seen == [((75, 100, 3), (90, 60, 3))]
    np.testing.assert_allclose(points0, [[-0.5, -0.5], [400.5, 299.5]])
    np.testing.assert_allclose(points1, [[-0.5, -0.5], [59.5, 89.5]])
    assert on_shrunk(corners, 0) is corners


def test_unknown_functions_are_named() -> None:
    with pytest.raises(DataError, match="nothing_here"):
        match_function("tests.training.test_evaluate:nothing_here")
    with pytest.raises(DataError, match="not a function"):
        match_function("tests.training.test_evaluate:HOMOGRAPHY")
