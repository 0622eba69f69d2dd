"""The ScanNet kit on a recording the tests make, and against the published reader's golden results."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from semantic_matcher_core.errors import ConfigError, DownloadError, ImageError, LicenseNotAcceptedError
from tests.training.scannet_data import CAMERA, pose, write_recording
from training.data.scene_file import SceneFile, SceneFileWriter, scene_files
from training.errors import DataError
from training.projection import relative_pose, warp_keypoints
from training.scannet import commands
from training.scannet.build_h5 import build_scene, resized_view
from training.scannet.commands import app
from training.scannet.covisibility import read_pairs, scene_covisibility, write_covisibility
from training.scannet.download import check_scene_names, download_scene, list_scenes, require_terms
from training.scannet.extract import extract_scene, is_extracted
from training.scannet.scene import Scene
from training.scannet.sens import SensFile


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "data" / "scans" / "scene0000_00" / "scene0000_00.sens")


@pytest.fixture
def scene(recording: Path) -> Path:
    extract_scene(recording)
    write_covisibility(recording.parent)
    return recording.parent


def test_reader_gives_what_the_published_one_gives(shared: Path) -> None:
    expected = np.load(shared / "golden" / "tiny_sens_expected.npz")
    with SensFile(shared / "golden" / "tiny.sens") as sens:
        header = sens.header
        frames = list(sens.frames())
        for name, matrix in (
            ("intrinsic_color", header.intrinsic_colour),
            ("extrinsic_color", header.extrinsic_colour),
            ("intrinsic_depth", header.intrinsic_depth),
            ("extrinsic_depth", header.extrinsic_depth),
        ):
            np.testing.assert_array_equal(matrix, expected[name])
        assert header.sensor == str(expected["sensor_name"])
        assert header.depth_shift == expected["depth_shift"]
        np.testing.assert_array_equal([frame.pose for frame in frames], expected["poses"])
        np.testing.assert_array_equal([[f.time_colour, f.time_depth] for f in frames], expected["timestamps"])
        np.testing.assert_array_equal([sens.depth(frame) for frame in frames], expected["depth"])
        colours = np.stack([sens.colour(frame) for frame in frames]).astype(int)
        assert np.abs(colours - expected["color"]).max() <= 2  # two JPEG decoders may round differently


def test_skipped_frames_are_not_read(recording: Path) -> None:
    with SensFile(recording) as sens:
        assert [frame.index for frame in sens.frames(every=15)] == [0, 15, 30, 45, 60]
        assert [frame.index for frame in sens.frames(every=40)] == [0, 40]


def test_extraction_writes_every_15th_frame_in_the_published_layout(recording: Path) -> None:
    assert not is_extracted(recording.parent)
    assert extract_scene(recording) == 5
    assert is_extracted(recording.parent)
    scene = Scene(recording.parent)
    assert scene.ids == [0, 15, 30, 45, 60]
    np.testing.assert_allclose(scene.pose(30), pose(30), atol=1e-6)
    np.testing.assert_allclose(scene.intrinsics, CAMERA[:3, :3], atol=1e-6)
    assert scene.depth(0).shape == (48, 64)
    assert set(np.unique(scene.depth(0))) == {np.float32(1.5), np.float32(2.0)}
    with SensFile(recording) as sens:
        first = next(sens.frames())
        assert (recording.parent / "color" / "0.jpg").read_bytes() == first.colour
    assert scene.image_key(15) == "scans/scene0000_00/color/15.jpg"


@pytest.mark.parametrize("cut", [2, 60, 500, -100])
def test_a_truncated_recording_is_named_and_leaves_nothing(recording: Path, cut: int) -> None:
    recording.write_bytes(recording.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"scene0000_00\.sens is truncated"):
        extract_scene(recording)
    assert [path.name for path in recording.parent.iterdir()] == ["scene0000_00.sens"]


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.sens"
    path.write_bytes(b"\x03\x00\x00\x00" + bytes(1000))
    with pytest.raises(DataError, match="version 4"):
        SensFile(path)
    with pytest.raises(DataError, match="cannot be opened"):
        SensFile(tmp_path / "absent.sens")


def test_covisibility_of_all_pairs_equals_one_pair_at_a_time(scene: Path) -> None:
    source = Scene(scene)
    rows = scene_covisibility(source, pairs_at_once=3)
    assert len(rows) == 10
    grid = torch.stack(torch.meshgrid(torch.linspace(0, 127, 32), torch.linspace(0, 95, 32), indexing="xy"), dim=-1)
    camera = torch.from_numpy(source.intrinsics)[None]
    for frame0, frame1, share in rows.tolist():
        full = [
            torch.from_numpy(cv2.resize(source.depth(int(f)), (128, 96), interpolation=cv2.INTER_NEAREST))[None]
            for f in (frame0, frame1)
        ]
        transform = relative_pose(*(torch.from_numpy(source.pose(int(f)))[None] for f in (frame0, frame1)))
        valid = warp_keypoints(grid.reshape(1, -1, 2), full[0], full[1], transform, camera, camera).valid
        assert share == pytest.approx(valid.float().mean().item(), abs=1e-6)
    shares = {(int(a), int(b)): s for a, b, s in rows.tolist()}
    assert shares[0, 15] > shares[0, 45] > shares[0, 60]


def test_covisibility_file_is_the_published_layout(scene: Path) -> None:
    lines = (scene / "covisibility.txt").read_text().splitlines()
    assert lines[0].startswith("0,15,")
    assert read_pairs(scene, 0.0, 1.01)[0][:2] == (0, 15)
    assert all(0.4 < share < 0.8 for *_, share in read_pairs(scene))


def test_frames_without_tracking_see_nothing(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "scans" / "scene0000_00" / "scene0000_00.sens", lost=(15,))
    extract_scene(recording)
    rows = scene_covisibility(Scene(recording.parent))
    assert all(share == 0.0 for a, b, share in rows.tolist() if 15 in (a, b))


def test_resized_view_is_the_published_item(shared: Path) -> None:
    item = np.load(shared / "golden" / "scannet_pairs_item.npz")
    data = np.load(shared / "golden" / "covisibility.npz")
    depth = torch.from_numpy(data["depth_mm"][0].astype(np.float32) / 1000)
    camera = torch.from_numpy(data["K_color"][:3, :3]).float()
    image, metres, scaled = resized_view(torch.zeros(3, 240, 320), depth, camera, 512)
    assert image.shape == tuple(item["image_shape"])
    assert metres.shape == tuple(item["depth_shape"])
    np.testing.assert_allclose(scaled.numpy(), item["K"], rtol=1e-5)
    np.testing.assert_allclose(metres.numpy()[::8, ::8], item["depth0_strided"], atol=1e-6)
    poses = torch.from_numpy(data["poses"]).float()
    np.testing.assert_allclose(relative_pose(poses[0], poses[1]).numpy(), item["T_0to1"], atol=1e-5)


@pytest.mark.parametrize("storage", ["published", "compact", "small"])
def test_scene_file_holds_the_pairs_and_reads_back(scene: Path, tmp_path: Path, storage: str) -> None:
    path = tmp_path / "scene0000_00.h5"
    count = build_scene(scene, path, short_side=96, least=0.2, most=0.95, storage=storage)
    assert count == len(read_pairs(scene, 0.2, 0.95)) > 2
    with h5py.File(path) as file:
        assert set(file) == {"images", "depth", "pose", "K", "T_0to1", "T_1to0", "covis"}
        stored = file["images"]["scans_scene0000_00_color_0.jpg"]
        assert stored.dtype == (np.float32 if storage == "published" else np.uint8)
        assert stored.ndim == (1 if storage == "small" else 3)
    reader = SceneFile(path)
    pair = reader.pair(reader.pair_keys[0])
    assert pair["image0"].shape == (3, 96, 96)
    assert pair["depth0"].shape == (96, 96)
    assert pair["image0"].dtype == pair["depth0"].dtype == torch.float32
    original = Scene(scene).colour(0)[:96, :96] / 255.0
    if storage == "small":
        assert np.abs(pair["image0"].permute(1, 2, 0).numpy() - original).mean() < 0.02
    else:
        np.testing.assert_allclose(pair["image0"].permute(1, 2, 0).numpy(), original, atol=1e-6)
    depth = Scene(scene).depth(0)
    expected = cv2.resize(depth, (128, 96), interpolation=cv2.INTER_NEAREST)[:96, :96]
    np.testing.assert_allclose(pair["depth0"].numpy(), expected, rtol=0 if storage == "published" else 1e-3)
    assert pair["image0"].is_contiguous()
    identity = pair["T_0to1"][:, :3] @ pair["T_1to0"][:, :3]
    torch.testing.assert_close(identity, torch.eye(3), atol=1e-5, rtol=0)


def test_a_missing_depth_map_is_named_and_leaves_no_file(scene: Path, tmp_path: Path) -> None:
    (scene / "depth" / "15.png").unlink()
    with pytest.raises(ImageError, match=r"no such depth file: .*depth/15\.png"):
        build_scene(scene, tmp_path / "out.h5", least=0.0, most=1.1)
    assert not list(tmp_path.glob("*.h5"))


def test_a_file_that_is_no_scene_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("images")
    with pytest.raises(DataError, match="'depth' is missing"):
        SceneFile(tmp_path / "a.h5")
    (tmp_path / "b.h5").write_bytes(b"nothing")
    with pytest.raises(DataError, match="damaged"):
        SceneFile(tmp_path / "b.h5")
    with pytest.raises(DataError, match=r"no \.h5 files"):
        scene_files(tmp_path, "train")
    with pytest.raises(ConfigError, match="use one of published, compact, small"):
        SceneFileWriter(tmp_path / "d.h5", storage="tiny")
    with SceneFileWriter(tmp_path / "c.h5") as writer, pytest.raises(DataError, match="resize one"):
        writer.add_image("k", torch.zeros(3, 4, 4), torch.zeros(5, 4), torch.eye(4), torch.eye(3))


def test_a_damaged_jpeg_is_named(tmp_path: Path) -> None:
    with SceneFileWriter(tmp_path / "a.h5", storage="small") as writer:
        writer.add_image("k", torch.rand(3, 40, 40), torch.ones(40, 40), torch.eye(4), torch.eye(3))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        whole = file["images"]["k"][...]
        del file["images"]["k"]
        file["images"]["k"] = whole[: len(whole) // 2]
    with pytest.raises(DataError, match="images/k is a JPEG cut short"):
        SceneFile(tmp_path / "a.h5").image("k")


def test_compressed_scene_files_of_any_kind_are_read(tmp_path: Path) -> None:
    image, depth = torch.rand(3, 30, 40), torch.rand(30, 40)
    with SceneFileWriter(tmp_path / "a.h5") as writer:
        writer.add_image("k", image, depth, torch.eye(4), torch.eye(3))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        for group, values in (("images", (image * 255).round().byte()), ("depth", depth.half())):
            del file[group]["k"]
            file[group].create_dataset("k", data=values.numpy(), compression="lzf", chunks=True)
    reader = SceneFile(tmp_path / "a.h5")
    torch.testing.assert_close(reader.image("k"), image, atol=0.5 / 255 + 1e-6, rtol=0)
    torch.testing.assert_close(reader.depth("k"), depth, atol=0, rtol=1e-3)


def test_commands_skip_what_is_damaged_keep_what_is_finished_and_say_so(tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "h5"
    good = write_recording(data / "scans" / "scene0000_00" / "scene0000_00.sens")
    bad = write_recording(data / "scans" / "scene0001_00" / "scene0001_00.sens")
    bad.write_bytes(bad.read_bytes()[:-50])
    run = CliRunner().invoke
    first = run(app, ["extract", "--data-path", str(data), "--workers", "1"])
    assert first.exit_code == 1
    assert "scene0001_00.sens is truncated" in first.output
    assert is_extracted(good.parent)
    bad.unlink()
    assert "1 scenes are finished" in run(app, ["extract", "--data-path", str(data)]).output
    early = run(app, ["build-h5", "--data-path", str(data), "--output", str(output)])
    assert early.exit_code == 1 and "no scene is ready: run covisibility first" in early.output
    odd = run(app, ["build-h5", "--data-path", str(data), "--output", str(output), "--least", "0.9"])
    assert isinstance(odd.exception, ConfigError) and "must be below" in str(odd.exception)
    assert run(app, ["covisibility", "--data-path", str(data), "--workers", "1"]).exit_code == 0
    (tmp_path / "train.txt").write_text("scene0000_00\nscene0007_00\n")
    # As a user starts it: what worker processes run must be found there, too.
    command = [sys.executable, "-m", "training.scannet", "build-h5", "--data-path", str(data), "--output", str(output)]
    command += ["--least", "0.2", "--workers", "1", "--scenes", str(tmp_path / "train.txt")]
    built = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    assert "1 scenes left out, for which covisibility is not finished: scene0007_00" in built.stderr
    assert [path.name for path in scene_files(output, "train")] == ["scene0000_00.h5"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    root = tmp_path / "server"
    (root / "v2").mkdir(parents=True)
    (root / "v2" / "scans.txt").write_text("scene0000_00\nscene0000_01\n")
    write_recording(root / "v1" / "scans" / "scene0000_00" / "scene0000_00.sens", frames=3)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(root))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}/"
        httpd.shutdown()


def test_download_needs_the_terms_and_brings_whole_files(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semantic_matcher_core.weights.download.BACKOFF_S", 0.0)
    data = tmp_path / "data"
    arguments = ["download", "--data-path", str(data), "--base-url", server, "--scene", "scene0000_00"]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, LicenseNotAcceptedError)
    assert not data.exists()
    assert CliRunner().invoke(app, [*arguments, "--accept-terms"]).exit_code == 0
    folder = data / "scans" / "scene0000_00"
    assert [path.name for path in folder.iterdir()] == ["scene0000_00.sens"]
    with SensFile(folder / "scene0000_00.sens") as sens:
        assert sens.header.frames == 3
    with pytest.raises(DownloadError, match="the server answers 404"):
        list_scenes(server + "nothing/")
    with pytest.raises(DownloadError, match=r"could not be downloaded: .*refused"):
        list_scenes("http://127.0.0.1:1/")
    assert (
        CliRunner()
        .invoke(app, [*arguments[:4], server.rstrip("/"), "--accept-terms", "--scene", "scene0000_00"])
        .exit_code
        == 0
    )
    assert list_scenes(server) == ["scene0000_00", "scene0000_01"]
    assert download_scene("scene0000_00", data, base_url=server) == folder / "scene0000_00.sens"


def killed(_: Path) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_a_process_that_is_killed_is_told() -> None:
    with pytest.raises(DataError, match="a process was killed"):
        commands._for_each([Path("a"), Path("b")], killed, 2, commands.OnDamage.skip, 0, "frames", "download", [])


def test_names_that_are_no_scenes_never_become_paths() -> None:
    with pytest.raises(DataError, match=r"\.\./\.\./etc"):
        check_scene_names(["scene0000_00", "../../etc"], "list")
    with pytest.raises(DataError, match="empty"):
        check_scene_names([], "list")
    with pytest.raises(LicenseNotAcceptedError, match="accept-terms"):
        require_terms(False)
