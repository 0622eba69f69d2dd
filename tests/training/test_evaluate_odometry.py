"""Trajectories as text, and their errors."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.io.trajectory import read_matrices, read_tum, write_kitti, write_tum
from semantic_matcher_core.motion.pose import Pose, exp_so3
from tests.core.rendered_room import CAMERA, Room, walk
from training.errors import DataError
from training.evaluation.odometry import BASELINE, errors, read_sequence


def test_trajectories_come_back_as_they_were_written(tmp_path):
    random = np.random.default_rng(0)
    poses = [Pose(exp_so3(random.normal(0, 1, 3)), random.normal(0, 5, 3)) for _ in range(5)]
    stamps = [1_311_868_169_163_498_123 + i for i in range(5)]
    write_tum(tmp_path / "t.txt", stamps, [np.concatenate([p.translation, p.quaternion]) for p in poses])
    read, rows = read_tum(tmp_path / "t.txt")
    assert read.tolist() == stamps
    for row, pose in zip(rows, poses, strict=True):
        np.testing.assert_allclose(Pose.from_quaternion(row[3:], row[:3]).matrix, pose.matrix, atol=1e-8)
    write_kitti(tmp_path / "k.txt", [p.matrix for p in poses])
    np.testing.assert_allclose(read_matrices(tmp_path / "k.txt"), [p.matrix for p in poses], atol=1e-8)
    (tmp_path / "odd.txt").write_text("# comment\n\n1.5 0 0 0 0 0 0 1\n2 1 0 0 0 0 0 1\n")
    assert read_tum(tmp_path / "odd.txt")[0].tolist() == [1_500_000_000, 2_000_000_000]
    for text in ("1 2 3\n", "a b c d e f g h\n", "1 nan 0 0 0 0 0 1\n"):
        (tmp_path / "bad.txt").write_text(text)
        with pytest.raises(ConfigError, match=r"bad.txt:1: expected"):
            read_tum(tmp_path / "bad.txt")
        with pytest.raises(ConfigError, match=r"bad.txt:1: expected"):
            read_matrices(tmp_path / "bad.txt")
    with pytest.raises(ConfigError, match="not a readable"):
        read_tum(tmp_path / "absent.txt")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, textured) -> Path:
    folder, room = tmp_path_factory.mktemp("room"), Room(textured)
    (folder / "rgb").mkdir()
    (folder / "depth").mkdir()
    poses = walk(6)
    for index, pose in enumerate(poses):
        image, depth = room.see(pose)
        cv2.imwrite(str(folder / f"rgb/{index:03d}.png"), image[..., ::-1])
        cv2.imwrite(str(folder / f"depth/{index:03d}.png"), np.round(depth * 1000).astype(np.uint16))
    np.savetxt(folder / "K.txt", CAMERA.matrix)
    np.savetxt(folder / "poses.txt", [pose.matrix.reshape(-1) for pose in poses])
    return folder


def test_errors_of_known_trajectories(recorded):
    sequence = read_sequence(recorded)
    elsewhere = Pose(exp_so3(np.array([0.3, 1, -0.5])), np.array([4.0, 5, 6]))
    found = errors(sequence, [elsewhere @ pose for pose in sequence.poses])
    assert found["ATE [cm]"] < 1e-6 and found["RPE [mm]"] < 1e-6 and found["tracked"] == 1
    assert found["way [m]"] == pytest.approx(0.25, abs=1e-6)
    longer = [None, *(Pose(p.rotation, 1.1 * p.translation) for p in sequence.poses[1:])]
    found = errors(sequence, longer)
    assert found["tracked"] == pytest.approx(5 / 6)
    assert found["RPE [mm]"] == pytest.approx(5.0, rel=0.01) and found["RPE [deg]"] < 1e-4
    with pytest.raises(DataError, match="errors need three"):
        errors(sequence, [Pose(), None, None, None, None, Pose()])


def test_the_command_compares_with_the_baseline(recorded, tmp_path):
    from training.evaluate import app

    result = CliRunner().invoke(
        app,
        ["odometry", "plain:sift", BASELINE, "--sequence", str(recorded), "--output", str(tmp_path), "--device", "cpu"],
    )
    assert result.exit_code == 0, result.output
    assert "plain:sift" in result.output and BASELINE in result.output
    stamps, rows = read_tum(tmp_path / f"{recorded.name}.plain_sift.tum.txt")
    assert len(stamps) == len(rows) == 6
    for broken, named in (("K.txt", "no K.txt"), ("poses.txt", "no true poses")):
        (recorded / broken).rename(recorded / "away")
        with pytest.raises(DataError, match=named):
            read_sequence(recorded)
        (recorded / "away").rename(recorded / broken)
