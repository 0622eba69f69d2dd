"""``--odometry`` of recordings, stereo or with depth: the trajectory in the MCAP file and as text."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from semantic_matcher_core.cli.app import app
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.messages import stamp_of
from semantic_matcher_core.io.trajectory import read_matrices, read_tum
from semantic_matcher_core.motion.frames import AHEAD, of_base, parse_mount
from semantic_matcher_core.motion.pose import Pose, exp_so3
from tests.core.recordings import PERIOD_NS, START_NS
from tests.core.rendered_room import BASELINE, CAMERA, FOCAL, HEIGHT, WIDTH, Room, walk, write_depth_bag

pytest.importorskip("rosbags")
pytestmark = pytest.mark.xdist_group("offline odometry")  # one recording, drawn once
POSES = [pose @ Pose(exp_so3(np.array([0.04 * i, 0, 0]))) for i, pose in enumerate(walk(4))]
MOUNT = "0.2 0.1 0.5 -1.5707963 0 -1.5707963"


@pytest.fixture(scope="module")
def room(textured) -> Room:
    return Room(textured)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, room) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    for side, baseline in (("left", 0.0), ("right", BASELINE)):
        (folder / side).mkdir()
        k = " ".join(f"{value}," for value in CAMERA.matrix.reshape(-1)).rstrip(",")
        p = " ".join(f"{value}," for value in np.hstack([CAMERA.matrix, [[-FOCAL * baseline], [0], [0]]]).reshape(-1))
        (folder / f"{side}.yaml").write_text(
            f"image_width: {WIDTH}\nimage_height: {HEIGHT}\ncamera_matrix: {{data: [{k}]}}\n"
            f"distortion_model: plumb_bob\ndistortion_coefficients: {{data: [0, 0, 0, 0, 0]}}\n"
            f"projection_matrix: {{data: [{p.rstrip(',')}]}}\n"
        )
    for index, pose in enumerate(POSES):
        for side, image in zip(("left", "right"), room.pair(pose), strict=True):
            cv2.imwrite(str(folder / side / f"{index:03d}.png"), image[..., ::-1])
    return folder


def run(recorded: Path, output: Path, *more: str):
    return CliRunner().invoke(
        app,
        [
            "images", str(recorded / "left"), str(recorded / "right"), "-o", str(output), "--mode", "stereo",
            "--calibration", str(recorded / "left.yaml"), "--calibration", str(recorded / "right.yaml"),
            "-v", "plain:sift", "-k", "500", "--device", "cpu", "--write-images", "none", *more,
        ],
    )  # fmt: skip


def test_the_way_is_written_as_messages_and_as_text(recorded, tmp_path):
    from rosbags.highlevel import AnyReader

    from semantic_matcher_core.io.messages import typestore

    output = tmp_path / "out.mcap"
    result = run(recorded, output, "--rectified", "--odometry", "--base-frame", "base_link", "--mount", MOUNT)
    assert result.exit_code == 0, result.output
    assert "odometry: 4 poses over 0.1" in result.output
    true = [POSES[0].inverse() @ pose for pose in POSES]
    kitti = read_matrices(tmp_path / "out.kitti.txt")
    assert len(kitti) == 4
    for found, pose in zip(kitti, true, strict=True):
        off = Pose.from_matrix(found).change_to(pose)
        assert np.linalg.norm(off[:3]) < 0.01 and np.degrees(np.linalg.norm(off[3:])) < 0.2
    stamps, rows = read_tum(tmp_path / "out.tum.txt")
    base, _ = of_base(true[3], np.zeros((6, 6)), parse_mount(MOUNT))
    np.testing.assert_allclose(rows[3, :3], base.translation, atol=0.01)
    with AnyReader([output], default_typestore=typestore()) as reader:
        connections = [c for c in reader.connections if c.topic == "/stereo_matcher/odometry"]
        messages = [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(connections)]
    assert [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in messages] == stamps.tolist()
    assert {(m.header.frame_id, m.child_frame_id) for m in messages} == {("odom", "base_link")}
    position = messages[3].pose.pose.position
    np.testing.assert_allclose([position.x, position.y, position.z], rows[3, :3], atol=1e-8)
    assert (np.linalg.eigvalsh(messages[3].pose.covariance.reshape(6, 6)) > 0).all()


def test_without_a_mount_it_is_the_cameras_own_way(recorded, tmp_path):
    result = run(recorded, tmp_path / "out.mcap", "--rectified", "--odometry")
    assert result.exit_code == 0, result.output
    _, rows = read_tum(tmp_path / "out.tum.txt")
    expected = AHEAD @ POSES[0].inverse() @ POSES[3]
    np.testing.assert_allclose(rows[3, :3], expected.translation, atol=0.01)


@pytest.fixture(scope="module")
def seen(room) -> list[tuple[np.ndarray, np.ndarray]]:
    return [room.see(pose) for pose in POSES[:3]]


def run_bag(bag: Path, output: Path, *more: str):
    arguments = ["-t", "/camera/color/image_raw", "-v", "plain:sift", "-k", "300", "--device", "cpu"]
    return CliRunner().invoke(app, ["bag", str(bag), "-o", str(output), *arguments, *more])


DEPTH = ("--odometry", "--depth-topic", "/camera/depth")


@pytest.mark.parametrize("kind", ["16UC1", "compressedDepth"])
def test_recorded_depth_is_followed(seen, tmp_path, kind):
    bag = write_depth_bag(tmp_path / "in.mcap", seen, kind)
    result = run_bag(bag, tmp_path / "out.mcap", *DEPTH, "--base-frame", "base_link", "--mount", MOUNT)
    assert result.exit_code == 0, result.output
    assert "odometry: 3 poses over 0.10 m" in " ".join(result.output.split())
    stamps, rows = read_tum(tmp_path / "out.tum.txt")
    assert stamps.tolist() == [START_NS + i * PERIOD_NS for i in range(3)]
    expected, _ = of_base(POSES[0].inverse() @ POSES[2], np.zeros((6, 6)), parse_mount(MOUNT))
    np.testing.assert_allclose(rows[2, :3], expected.translation, atol=0.003)
    with BagReader(tmp_path / "out.mcap") as reader:
        places = list(reader.messages(["/temporal_matcher/odometry"]))
        assert [stamp_of(place.message.header) for place in places] == stamps.tolist()
        matches = {topic.name: topic.count for topic in reader.topics}["/temporal_matcher/matches"]
    assert matches == 2


def test_depth_files_are_followed_in_order_and_by_their_stamps(seen, tmp_path):
    for name in ("rgb", "depth"):
        (tmp_path / name).mkdir()
    for index, (image, depth) in enumerate(seen):
        cv2.imwrite(str(tmp_path / f"rgb/{10 + 0.1 * index:.3f}.png"), image[..., ::-1])
        cv2.imwrite(str(tmp_path / f"depth/{10.004 + 0.1 * index:.3f}.png"), np.round(depth * 5000).astype(np.uint16))
    k = ", ".join(map(str, CAMERA.matrix.reshape(-1)))
    (tmp_path / "camera.yaml").write_text(
        f"image_width: {WIDTH}\nimage_height: {HEIGHT}\ncamera_matrix: {{data: [{k}]}}\n"
    )

    def follow(output: str, *more: str):
        arguments = ["--odometry", "--depth", str(tmp_path / "depth"), "--depth-units", "5000", "-v", "plain:sift"]
        return CliRunner().invoke(
            app,
            ["images", str(tmp_path / "rgb"), "-o", str(tmp_path / output), "--calibration",
             str(tmp_path / "camera.yaml"), "-k", "300", "--device", "cpu", *arguments, *more],
        )  # fmt: skip

    expected = AHEAD @ POSES[0].inverse() @ POSES[2]
    result = follow("order.mcap")
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(read_tum(tmp_path / "order.tum.txt")[1][2, :3], expected.translation, atol=0.003)
    # As in the TUM sequences: not as many, and not at the same times.
    (tmp_path / "depth/10.104.png").unlink()
    refused = follow("less.mcap")
    assert refused.exit_code != 0 and "2 depth images for 3 images" in str(refused.exception)
    result = follow("stamps.mcap", "--stamps-from-names")
    assert result.exit_code == 0, result.output
    stamps, rows = read_tum(tmp_path / "stamps.tum.txt")
    assert stamps.tolist() == [10_000_000_000, 10_200_000_000]
    np.testing.assert_allclose(rows[1, :3], expected.translation, atol=0.003)


def test_depth_that_cannot_be_used_is_named(seen, tmp_path):
    bag = write_depth_bag(tmp_path / "in.mcap", seen[:1])
    for more, named in (
        (("--odometry",), "--depth-topic"),
        (("--depth-topic", "/camera/depth"), "is for --odometry"),
        ((*DEPTH, "--mode", "reference", "--reference", str(bag)), "--mode temporal"),
        (("--odometry", "--depth-topic", "/camera/color/image_raw"), "two topics"),
        (("--odometry", "--depth-topic", "/camera/dpth"), "/camera/depth (1 of Image)"),
        ((*DEPTH, "--depth-units", "0"), "depth_units"),
    ):
        result = run_bag(bag, tmp_path / "out.mcap", *more)
        assert result.exit_code != 0 and named in result.output + str(result.exception), (more, result.exception)
        assert not (tmp_path / "out.mcap").exists()
    colour = write_depth_bag(tmp_path / "colour.mcap", [(seen[0][0], seen[0][1])], "8UC1")
    result = run_bag(colour, tmp_path / "out.mcap", *DEPTH)
    assert "8UC1" in result.output and "no usable image" in str(result.exception)


def test_poses_are_priors_of_a_reconstruction(seen, tmp_path):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed: it is in the extra 'dev'")
    bag = write_depth_bag(tmp_path / "in.mcap", seen)
    more = ("--colmap", "--pairs", "matched", "--base-frame", "base_link", "--mount", MOUNT)
    result = run_bag(bag, tmp_path / "out.mcap", *DEPTH, *more)
    assert result.exit_code == 0, result.output
    database = pycolmap.Database.open(str(tmp_path / "out.colmap" / "database.db"))
    priors, images = database.read_all_pose_priors(), database.read_all_images()
    database.close()
    assert len(priors) == len(images) == 3
    places = {prior.corr_data_id.id: prior for prior in priors}
    # Where the camera is in the frame that the base began in.
    mount = parse_mount(MOUNT)
    for image, pose in zip(sorted(images, key=lambda image: image.name), POSES[:3], strict=True):
        prior = places[image.image_id]
        expected = mount @ POSES[0].inverse() @ pose
        np.testing.assert_allclose(prior.position.reshape(3), expected.translation, atol=0.003)
        assert prior.coordinate_system == pycolmap.PosePriorCoordinateSystem.CARTESIAN
        assert (np.linalg.eigvalsh(prior.position_covariance) > 0).all()


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--odometry"], "--rectified"),
        (["--odometry", "--rectified", "--mount", "1 2"], "--base-frame"),
        (["--odometry", "--rectified", "--mount", "1 2", "--base-frame", "b"], "six numbers"),
    ],
)
def test_what_cannot_be_followed_is_named(recorded, tmp_path, more, named):
    result = run(recorded, tmp_path / "out.mcap", *more)
    assert result.exit_code != 0
    assert named in result.output + str(result.exception)
    assert not list(tmp_path.iterdir()) or not (tmp_path / "out.mcap").exists()
