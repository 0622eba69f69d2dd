"""MegaDepth's layout and bags as sources of training data, on small ones that the tests write."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import BagError, OutputError
from semantic_matcher_core.io.atomic import make_folder
from semantic_matcher_core.io.mcap import McapWriter
from semantic_matcher_core.io.messages import header_message, image_message
from training.bag_frames import extract_frames
from training.data.megadepth import build_scene
from training.data.rendered import nearby_pose, noise_textures, pinhole, random_pose, random_room, render
from training.data.restricted_npz import read_npz
from training.data.scene_file import SceneFile
from training.errors import DataError
from training.projection import warp_keypoints


@pytest.fixture
def megadepth(tmp_path: Path) -> Path:
    """Three views of a room, the second list entry seen by the first with overlap 0.6."""
    generator = torch.Generator().manual_seed(2)
    quads, textures, camera = random_room(6, generator), noise_textures(6, generator), pinhole(96, 128)
    first = random_pose(generator)
    poses = [first, nearby_pose(first, generator, 0.4), nearby_pose(first, generator, 1.5)]
    images, depths = [], []
    for i, pose in enumerate(poses):
        view = render(quads, textures, pose, camera, (96, 128))
        images.append(f"scene/images/{i}.jpg")
        depths.append(f"scene/depths/{i}.h5")
        for path in (images[-1], depths[-1]):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / images[-1]), (view.image.permute(1, 2, 0).numpy()[..., ::-1] * 255).astype(np.uint8))
        with h5py.File(tmp_path / depths[-1], "w") as file:
            file["depth"] = view.depth.numpy()
    pairs = np.empty(3, dtype=object)
    pairs[:] = [((0, 1), 0.6, [1, 2]), ((0, 2), 0.3, [3]), ((1, 2), 0.9, [])]
    np.savez(
        tmp_path / "0000.npz",
        image_paths=np.array(images, dtype=object),
        depth_paths=np.array(depths, dtype=object),
        intrinsics=np.stack([camera.numpy()] * 3).astype(object),
        poses=np.stack([torch.linalg.inv(pose).numpy() for pose in poses]),
        pair_infos=pairs,
    )
    return tmp_path


def test_pairs_in_range_become_a_scene_file_whose_poses_fit_its_depth(megadepth: Path) -> None:
    assert build_scene(megadepth / "0000.npz", megadepth, megadepth / "out.h5", short_side=96) == 1
    scene = SceneFile(megadepth / "out.h5")
    pair = scene.pair(scene.pair_keys[0])
    assert pair["covis"] == 0.6
    assert pair["image0"].shape == (3, 96, 96)
    points = torch.rand(1, 300, 2, generator=torch.Generator().manual_seed(0)) * 92 + 2
    warped = warp_keypoints(
        points, pair["depth0"][None], pair["depth1"][None], pair["T_0to1"][None], pair["K0"][None], pair["K1"][None]
    )
    assert warped.valid.float().mean() > 0.3  # with poses the wrong way round almost nothing agrees in depth


def test_missing_files_are_named_and_leave_nothing(megadepth: Path) -> None:
    (megadepth / "scene" / "depths" / "1.h5").unlink()
    with pytest.raises(DataError, match=r"depths/1\.h5"):
        build_scene(megadepth / "0000.npz", megadepth, megadepth / "out.h5")
    assert not (megadepth / "out.h5").exists()
    with pytest.raises(DataError, match="no pair"):
        build_scene(megadepth / "0000.npz", megadepth, megadepth / "out.h5", least=0.95, most=0.99)
    np.savez(megadepth / "other.npz", a=np.zeros(3))
    with pytest.raises(DataError, match="image_paths"):
        build_scene(megadepth / "other.npz", megadepth, megadepth / "out.h5")


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def test_object_arrays_with_code_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    array = np.empty(1, dtype=object)
    array[0] = _Evil()
    np.savez(tmp_path / "evil.npz", image_paths=array)
    with pytest.raises(DataError, match="is not read"):
        read_npz(tmp_path / "evil.npz")
    assert not (tmp_path / "executed").exists()
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="damaged"):
        read_npz(tmp_path / "broken.npz")


def test_plain_arrays_of_every_kind_read_back(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "s": np.array(["x", "yz"]),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    read = read_npz(tmp_path / "a.npz")
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def test_frames_of_a_bag_become_photos(tmp_path: Path) -> None:
    with McapWriter(tmp_path / "drive.mcap") as writer:
        for i in range(6):
            image = np.full((20, 30, 3), 10 * i, np.uint8)
            writer.write("/front/image", image_message(image, header_message(1000 + i)), 1000 + i)
            writer.write("/rear/unstamped", image_message(image, header_message(0)), 1000 + i)
    assert extract_frames(tmp_path / "drive.mcap", tmp_path / "rear", ["/rear/unstamped"], every=2) == 3
    assert len(list((tmp_path / "rear").iterdir())) == 3
    assert extract_frames(tmp_path / "drive.mcap", tmp_path / "photos", ["/front/image"], every=2) == 3
    names = sorted(path.name for path in (tmp_path / "photos").iterdir())
    assert names == [f"drive_front-image_{stamp}.png" for stamp in (1000, 1002, 1004)]
    assert cv2.imread(str(tmp_path / "photos" / names[1])).max() == 20
    with pytest.raises(BagError, match="/front/image"):
        extract_frames(tmp_path / "drive.mcap", tmp_path / "photos", ["/left"], every=1)


def test_frames_of_a_cut_bag_with_a_bad_image(tmp_path: Path) -> None:
    from tests.core.mcap_files import write_mcap

    picture = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    bag = write_mcap(tmp_path / "in.mcap", picture, messages={1: b"\0\1\0\0" + bytes(9)}, chunk_size=1)
    bag.write_bytes(bag.read_bytes()[: bag.stat().st_size * 2 // 3])
    said: list[str] = []
    written = extract_frames(bag, tmp_path / "photos", [], every=1, report=said.append)
    assert 2 <= written < 7 and len(list((tmp_path / "photos").iterdir())) == written
    assert any("cut short" in text for text in said) and any(
        "left out: image 1 of /camera/image" in text for text in said
    )


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    for place in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(OutputError, match=f"cannot make the folder {place}: "):
            make_folder(place)
    assert make_folder(tmp_path / "new" / "below").is_dir()
