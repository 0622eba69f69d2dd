"""Labelling: what geometry confirms is kept, what it refutes is not, and an interrupted run goes on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import BagError, CheckpointError, ConfigError, OutputError
from semantic_matcher_core.io.images import read_image, shrunk, write_image
from semantic_matcher_core.io.mcap import McapWriter
from semantic_matcher_core.io.messages import header_message, image_message
from semantic_matcher_core.matching.features import match_features
from semantic_matcher_core.types import Features
from tests.conftest import make_textured_image
from training.data.rendered import nearby_pose, noise_textures, pinhole, random_pose, random_room, render
from training.errors import DataError
from training.labelling import run
from training.labelling.choosing import by_likeness, by_order
from training.labelling.frames import scaled_camera
from training.labelling.label_file import read_labels
from training.labelling.run import LabelConfig, label
from training.labelling.teacher import Teacher, TeacherFeatures, TeacherMatches


class NearestNeighbours:
    """In the labelling teacher's place: compact's features, mutual neighbours, every tenth match a wrong one."""

    def __init__(self) -> None:
        self.matcher = SemanticMatcher.from_pretrained(device="cpu", max_keypoints=250)
        self.extracted = self.matched = 0
        self.stop_after = 10**9

    def extract(self, image: np.ndarray) -> TeacherFeatures:
        self.extracted += 1
        found = self.matcher.extract(image)
        return TeacherFeatures(found.keypoints[0].numpy(), found.descriptors[0].half().numpy())

    def match(self, features0, features1, size0, size1) -> TeacherMatches:
        if self.matched == self.stop_after:
            raise KeyboardInterrupt
        self.matched += 1
        both = [
            Features(
                torch.from_numpy(f.keypoints)[None],
                torch.ones(1, len(f.keypoints)),
                torch.from_numpy(f.descriptors)[None].float(),
                size,
            )
            for f, size in ((features0, size0), (features1, size1))
        ]
        found = match_features(*both)
        indices = found.indices.numpy().astype(np.int32)
        indices[::10, 1] = np.roll(indices[::10, 1], 1)
        nothing = [np.zeros(len(f.keypoints), bool) for f in (features0, features1)]
        return TeacherMatches(indices, found.confidence.numpy(), *nothing)


@pytest.fixture(scope="module")
def teacher() -> NearestNeighbours:
    return NearestNeighbours()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four views of a rendered room with depth, poses and intrinsics."""
    folder = tmp_path_factory.mktemp("data") / "room"
    generator = torch.Generator().manual_seed(11)
    textures, quads = noise_textures(8, generator), random_room(8, generator)
    pose, camera = random_pose(generator), pinhole(180, 240)
    poses = []
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    for index in range(4):
        view = render(quads, textures, pose, camera, (180, 240))
        write_image(folder / "rgb" / f"{index}.png", (view.image * 255).byte().permute(1, 2, 0).contiguous().numpy())
        cv2.imwrite(str(folder / "depth" / f"{index}.png"), (view.depth * 1000).round().numpy().astype(np.uint16))
        poses.append(pose.double().numpy().ravel())
        pose = nearby_pose(pose, generator, amount=0.3)
    np.savetxt(folder / "poses.txt", np.array(poses))
    np.savetxt(folder / "K.txt", camera.numpy())
    return folder


def test_matches_that_geometry_refutes_are_left_out(room: Path, teacher: NearestNeighbours, tmp_path: Path) -> None:
    report = label([room], tmp_path / "pairs.h5", LabelConfig(choose="order"), lambda: teacher)
    labels = read_labels(tmp_path / "pairs.h5")
    assert report.images == len(labels.images) == 4
    assert report.pairs == len(labels.pairs) >= 3 and report.pairs + report.refused == len(by_order(4))
    assert report.matches == sum(len(pair.indices) for _, _, pair in labels.pairs)
    assert not (tmp_path / "pairs.h5.parts").exists()
    for first, second, pair in labels.pairs:
        assert pair.projection_error < 2.0
        assert labels.images[first].key == f"room/{first}"
        assert np.array_equal(np.unique(pair.indices[:, 0]), np.sort(pair.indices[:, 0]))
        for side, number in enumerate((first, second)):
            unmatchable = (pair.unmatchable0, pair.unmatchable1)[side]
            assert len(unmatchable) == len(labels.images[number].keypoints)
            assert not unmatchable[pair.indices[:, side]].any()
    # Where the camera moved on, something is not seen any more, and depth says so.
    assert max(pair.unmatchable0.mean() for _, _, pair in labels.pairs) > 0.03
    image = labels.images[0].image
    assert np.abs(image.astype(int) - read_image(room / "rgb" / "0.png").astype(int)).mean() < 8


def test_an_error_of_a_check_comes_before_thousands_are_queued(
    room: Path, teacher: NearestNeighbours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(run, "_checked", full)
    monkeypatch.setattr(run, "_QUEUED", 1)
    teacher.matched = 0
    with pytest.raises(OutputError, match="the disk is full"):
        label([room], tmp_path / "pairs.h5", LabelConfig(choose="order"), lambda: teacher)
    assert teacher.matched == 2 < len(by_order(4))


def test_an_interrupted_run_goes_on(room: Path, teacher: NearestNeighbours, tmp_path: Path) -> None:
    config, output = LabelConfig(choose="order"), tmp_path / "pairs.h5"
    whole = label([room], tmp_path / "whole.h5", config, lambda: teacher)
    teacher.extracted = teacher.matched = 0
    teacher.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        label([room], output, config, lambda: teacher)
    assert not output.exists() and teacher.extracted == 4
    with pytest.raises(CheckpointError, match="other settings"):
        label([room], output, LabelConfig(choose="order", keypoints=7), lambda: teacher)
    teacher.stop_after, teacher.matched = 10**9, 0
    assert label([room], output, config, lambda: teacher) == whole
    assert teacher.extracted == 4 and teacher.matched == len(by_order(4)) - 2
    for first, second in zip(read_labels(output).pairs, read_labels(tmp_path / "whole.h5").pairs, strict=True):
        assert first[:2] == second[:2] and np.array_equal(first[2].indices, second[2].indices)


def test_pictures_without_anything_in_common_say_so(teacher: NearestNeighbours, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for i in range(2):
        write_image(folder / f"{i}.png", make_textured_image(120, 160, 50 + i))
    with pytest.raises(DataError, match="geometry confirms; are these pictures of one scene"):
        label([folder], tmp_path / "pairs.h5", LabelConfig(choose="order"), lambda: teacher)
    (folder / "1.png").unlink()
    with pytest.raises(DataError, match="has 1 picture; pairs need two"):
        label([folder], tmp_path / "other.h5", LabelConfig(), lambda: teacher)
    with pytest.raises(DataError, match="is named twice"):
        label([folder, tmp_path / "." / "mixed"], tmp_path / "other.h5", LabelConfig(), lambda: teacher)
    assert not list(tmp_path.glob("other*"))


def views_of(seed: int, count: int = 2) -> list[np.ndarray]:
    scene = make_textured_image(150, 200, seed)
    return [np.ascontiguousarray(scene[10 * i : 10 * i + 120, 12 * i : 12 * i + 160]) for i in range(count)]


def test_pictures_and_folders_of_one_name_are_told_apart(teacher: NearestNeighbours, tmp_path: Path) -> None:
    for number, place in enumerate(("one/cam", "two/cam")):
        (tmp_path / place).mkdir(parents=True)
        for name, view in zip(("a.png", "a.jpg"), views_of(number), strict=True):
            write_image(tmp_path / place / name, view)
    sources = [tmp_path / "one" / "cam", tmp_path / "two" / "cam"]
    report = label(sources, tmp_path / "pairs.h5", LabelConfig(), lambda: teacher)
    labels = read_labels(tmp_path / "pairs.h5")
    assert report.pairs == 2 and len({image.key for image in labels.images}) == 4
    assert {image.source for image in labels.images} == {str(source) for source in sources}
    for first, second, pair in labels.pairs:
        assert labels.images[first].source == labels.images[second].source
        sides = [labels.images[n].keypoints[pair.indices[:, i]] for i, n in enumerate((first, second))]
        assert np.abs(np.abs(np.median(sides[0] - sides[1], axis=0)) - (12, 10)).max() < 1


def test_pairs_of_the_same_content_are_matched_once(teacher: NearestNeighbours, tmp_path: Path) -> None:
    folder = tmp_path / "standing"
    folder.mkdir()
    for number in range(6):
        write_image(folder / f"{number}.png", views_of(0)[number // 3])
    teacher.matched = 0
    config = LabelConfig(choose="order")
    report = label([folder], tmp_path / "pairs.h5", config, lambda: teacher, workers=4)
    # Of the first with itself, with the second, and of that with itself.
    assert teacher.matched == 3 and report.pairs + report.refused == len(by_order(6)) > 3


def test_what_cannot_be_read_is_left_out_and_what_changed_is_done_anew(
    teacher: NearestNeighbours, tmp_path: Path
) -> None:
    views, folder, said = views_of(3, 3), tmp_path / "walk", list[str]()
    folder.mkdir()
    for i, view in enumerate(views):
        write_image(folder / f"{i}.png", view)
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:500])
    flat = tmp_path / "flat"
    flat.mkdir()
    for i in range(2):
        write_image(flat / f"{i}.png", np.full((60, 80, 3), 90, np.uint8))
    config, output = LabelConfig(choose="order"), tmp_path / "pairs.h5"
    report = label([folder, flat], output, config, lambda: teacher, report=said.append)
    assert (report.images, report.pairs, report.refused, report.unreadable) == (4, 1, 1, 1)
    assert len(said) == 2 and "1.png" in said[0] and said[1] == "flat: geometry confirms none of 1 pairs of 2 pictures"
    # Another picture of a name is another picture.
    teacher.stop_after, teacher.matched, teacher.extracted = 0, 0, 0
    with pytest.raises(KeyboardInterrupt):
        label([folder], output, config, lambda: teacher, report=said.append)
    write_image(folder / "1.png", views[1])
    teacher.stop_after = 10**9
    assert label([folder], output, config, lambda: teacher).pairs == 3 and teacher.extracted == 3


def test_a_bag_is_labelled_topic_by_topic(teacher: NearestNeighbours, tmp_path: Path) -> None:
    bag = tmp_path / "drive.mcap"
    # A driver without stamps: all images have the same.
    with McapWriter(bag) as writer:
        for number, view in enumerate(views_of(5, 4)):
            message = image_message(view, header_message(0))
            if number == 1:
                message.data = message.data[:100]
            writer.write("/front", message, 1000 + number)
    said: list[str] = []
    report = label([bag], tmp_path / "pairs.h5", LabelConfig(choose="order"), lambda: teacher, report=said.append)
    assert (report.images, report.pairs, report.unreadable) == (3, 3, 1) and "image 1 of /front" in said[0]
    with pytest.raises(BagError, match="no topic '/rear'"):
        label([bag], tmp_path / "pairs.h5", LabelConfig(), lambda: teacher, topics=["/rear"])


def test_pairs_by_likeness_leave_strangers_out(teacher: NearestNeighbours) -> None:
    scenes = [make_textured_image(150, 200, seed) for seed in (1, 2)]
    views = [
        scene[top : top + 120, left : left + 160] for scene in scenes for top, left in ((0, 0), (15, 20), (30, 40))
    ]
    features = [teacher.extract(np.ascontiguousarray(view)) for view in views]
    pairs = by_likeness(features, 4, np.random.default_rng(0), torch.device("cpu"))
    assert pairs and all(i < j for i, j in pairs)
    same = [i // 3 == j // 3 for i, j in pairs]
    assert all(same) and len(same) == 6, pairs


def test_a_label_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^no such label file: .*none\.h5; training\.label_pairs makes one$"):
        read_labels(tmp_path / "none.h5")


def test_order_and_sizes() -> None:
    assert by_order(3) == [(0, 1), (1, 2), (0, 2)]
    assert by_order(1) == []
    image, scale = shrunk(np.zeros((300, 400, 3), np.uint8), 200)
    assert image.shape == (150, 200, 3) and scale == 0.5
    # The middle of the image stays its middle.
    camera = scaled_camera(np.array([[400.0, 0, 199.5], [0, 400, 149.5], [0, 0, 1]]), scale)
    np.testing.assert_allclose(camera, [[200, 0, 99.5], [0, 200, 74.5], [0, 0, 1]])
    with pytest.raises(ConfigError, match="use one of both, order, likeness"):
        LabelConfig(choose="all")


@pytest.mark.usefixtures("teachers")
def test_the_real_teacher_finds_a_shift(shared) -> None:
    picture = read_image(shared / "data" / "pairs" / "pumpkin1.png")[:300, :400]
    teacher = Teacher(300, device="cpu")
    first, second = np.ascontiguousarray(picture[:240, :320]), np.ascontiguousarray(picture[20:260, 36:356])
    features = [teacher.extract(image) for image in (first, second)]
    found = teacher.match(*features, (240, 320), (240, 320))
    points = [f.keypoints[found.indices[:, side]] for side, f in enumerate(features)]
    near = np.abs(points[0] - points[1] - (36, 20)).max(axis=1) < 1.5
    assert len(near) > 80 and near.mean() > 0.95
    # What has moved out of the picture has no partner, and the teacher knows.
    out = (features[0].keypoints < (30, 14)).any(axis=1)
    assert found.unmatchable0[out].mean() > 0.5 > found.unmatchable0[~out].mean()
    nothing = TeacherFeatures(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float16))
    assert len(teacher.match(nothing, features[1], (240, 320), (240, 320)).indices) == 0


def test_the_command_explains_itself() -> None:
    import typer

    from training.label_pairs import command

    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0 and "--preview" in result.output
