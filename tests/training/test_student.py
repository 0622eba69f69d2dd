"""Distilling the extractor, small: pairs are true, losses are what they say, it learns, and runs go on."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch.nn import functional as F

from semantic_matcher_core.errors import CheckpointError, ConfigError
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.extractors.compact_network import Architecture, CompactNetwork, architecture_of, read_map
from semantic_matcher_core.io.encoding import encode_image
from semantic_matcher_core.io.images import write_image
from semantic_matcher_core.layers import folded
from semantic_matcher_core.types import Features
from semantic_matcher_core.weights.loading import read_state_dict
from tests.conftest import REPOSITORY, make_textured_image
from training.errors import DataError
from training.labelling.checking import LabelledPair
from training.labelling.label_file import write_labels
from training.strict_mapping import load_dataclass
from training.student import beginning
from training.student.config import DataConfig, LossConfig, StudentConfig
from training.student.loss import detection_loss, losses, place_loss
from training.student.pictures import PictureBank, through
from training.student.pool import PairMaker, Pairs, Pool
from training.student.progress import learning_rate
from training.student.train import train_students
from training.student.views import ViewMaker
from training.student.windows import first_views, second_views, similarity, through_corners, turns_of

_CPU = torch.device("cpu")
SMALL = Architecture((8, 16, 16, 24, 24), (1, 1, 1, 1, 1), fused=16, hidden=32, positions=2, descriptor_dim=128)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One pair: a picture, and the same moved by (12, 8) pixels."""
    picture = make_textured_image(200, 240, 40)
    images = [picture[:180, :220], picture[8:188, 12:232]]
    keypoints = np.stack(np.meshgrid(np.arange(20, 200, 9.0), np.arange(15, 165, 9.0)), axis=-1).reshape(-1, 2)
    both = [keypoints.astype(np.float32), (keypoints - (12, 8)).astype(np.float32)]
    rows = np.arange(len(keypoints), dtype=np.int32)
    nothing = np.zeros(len(rows), bool)
    pair = LabelledPair(np.stack([rows, rows], axis=1), np.ones(len(rows), np.float32), nothing, nothing, float("nan"))
    path = tmp_path_factory.mktemp("labels") / "pairs.h5"
    write_labels(
        path,
        [(str(i), "made", encode_image(im).tobytes(), k) for i, (im, k) in enumerate(zip(images, both, strict=True))],
        [(0, 1, pair)],
        "test",
    )
    return path


def train_student(config: StudentConfig, **options: object) -> Path:
    return train_students([config], **options)[0]  # type: ignore[arg-type]


class Grid(torch.nn.Module):
    """A teacher whose keypoints are a grid, and whose descriptors are colours round them."""

    def forward(self, images: torch.Tensor, masks: None = None) -> Features:
        side = images.shape[-1]
        steps = torch.arange(6, side - 6, 8) + 0.25
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).view(1, -1, 2)
        keypoints = grid.expand(len(images), -1, -1)
        at = read_map(F.avg_pool2d(images, 3, 1, 1), keypoints, 1)
        return Features(
            keypoints,
            torch.ones(keypoints.shape[:2]),
            F.normalize(at.repeat(1, 1, 43)[..., :128], dim=-1),
            (side, side),
        )


def maker(photos: Path, teacher: torch.nn.Module | None = None, **changes: object) -> PairMaker:
    files = sorted(photos.iterdir())
    config = replace(DataConfig(str(photos), view=64, scale=(0.5, 1.0), cross=60), **changes)  # type: ignore[arg-type]
    views = ViewMaker(PictureBank.of_files(files, 190, _CPU, print), None, config, torch.Generator().manual_seed(3))
    return PairMaker(views, teacher or Grid(), 60)


def differences(pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """How much the two views differ at corresponding points, and at points taken at random."""
    side = pairs.images.shape[-1]

    def at(which: int, points: torch.Tensor) -> torch.Tensor:
        return read_map(F.avg_pool2d(pairs.images[:, which].float(), 3, 1, 1), points, 1)

    first, second = pairs.points.unbind(1)
    same = (at(0, first) - at(1, second)).abs().mean(dim=-1)[pairs.known]
    other = (at(0, first) - at(1, torch.rand_like(second) * side)).abs().mean(dim=-1)[pairs.known]
    return same, other


@pytest.mark.parametrize("shares", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)], ids=["warped", "rendered"])
def test_points_of_a_pair_show_the_same(photos: Path, shares: tuple[float, float, float]) -> None:
    pairs = maker(photos, shares=shares).make(6)
    assert pairs.images.shape == (6, 2, 3, 64, 64) and pairs.images.dtype == torch.uint8
    assert pairs.points.shape == (6, 2, 60, 2) and pairs.known.float().mean() > 0.3
    same, other = differences(pairs)
    assert same.median() < 8 and other.median() > 3 * same.median()
    inside = (pairs.points > 3.9) & (pairs.points < 59.1)
    assert inside[pairs.known[:, None].expand(-1, 2, -1)].all()


def test_labelled_points_stay_with_their_pictures(photos: Path, labels: Path, tmp_path: Path) -> None:
    config = StudentConfig(
        DataConfig(
            str(photos),
            (str(labels),),
            holdout=4,
            side=200,
            view=64,
            shares=(0.0, 0.0, 1.0),
            scale=(0.5, 1.0),
            cross=60,
        )
    )
    teacher = create_extractor("compact", 50, device="cpu", fixed_size=True, detection_threshold=0.0)
    made = PairMaker(ViewMaker.of_files(config.data, _CPU, torch.Generator().manual_seed(0), print), teacher, 60)
    pairs = made.make(5)
    assert (pairs.known.sum(dim=1) > 5).all()
    same, other = differences(pairs)
    assert same.median() < 8 and other.median() > 2 * same.median()


def test_a_turned_view_is_not_taught_and_keypoints_seen_again_are_worth_more(photos: Path) -> None:
    made = maker(photos, shares=(1.0, 0.0, 0.0), tilt=60.0, trusted=20.0, difficulty=0.1, unrepeated=0.25)
    pairs = made.make(24)
    assert pairs.trusted[:, 0].all() and 0 < pairs.trusted[:, 1].sum() < 24
    worth = pairs.worth[pairs.real].float()
    assert set(worth.unique().tolist()) == {0.25, 0.625, 1.0}
    # A teacher whose keypoints are a grid sees a point again where the two grids meet, by chance: 4 pi of 64 px.
    seen = worth != 0.625
    assert 0.1 < (worth[seen] == 1).float().mean() < 0.35
    alike = maker(photos, shares=(0.5, 0.5, 0.0)).make(8)
    assert alike.trusted.all() and (alike.worth == 1).all()

    # What is not trusted has no part in what the teacher's descriptors teach.
    torch.manual_seed(0)
    network = CompactNetwork(SMALL).eval()
    maps = network(torch.randn(48, 3, 64, 64))

    def found(pairs: Pairs) -> dict[str, float]:
        return {name: value.item() for name, value in losses(network, maps, pairs, LossConfig())._asdict().items()}

    wrong = replace(pairs, descriptors=torch.where(pairs.trusted[..., None, None], pairs.descriptors, 1.0).half())
    assert found(wrong) == pytest.approx(found(pairs), abs=1e-5)


def test_the_turn_of_a_view_is_measured(photos: Path) -> None:
    angles = torch.tensor([0.3, -1.2, 3.0])
    turned = similarity(angles, torch.tensor([0.5, 1.0, 2.0]), torch.tensor([[9.0, 5.0]] * 3), 64)
    torch.testing.assert_close(turns_of(turned, 64), angles.abs())
    torch.testing.assert_close(turns_of(-3 * turned, 64), angles.abs())  # the same homography


def test_place_loss_is_the_distance_of_refined_keypoints() -> None:
    from semantic_matcher_core.extractors.dkd import soft_argmax

    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    true = torch.tensor([[[10.3, 12.6], [20.0, 5.2], [0.0, 0.0]]])
    real = torch.tensor([[True, True, False]])
    peaks = [torch.exp(-((x - u) ** 2 + (y - v) ** 2) / 1.28) for u, v in true[0, :2].tolist()]
    scores = torch.stack(peaks).amax(dim=0).clamp(0.001, 0.999)[None]
    found = soft_argmax(scores, torch.tensor([[[10, 13], [20, 5]]]), 2)
    expected = (found - true[:, :2]).abs().sum(dim=-1).mean()
    torch.testing.assert_close(place_loss(scores.logit(), true, real), expected)
    moved = scores.roll(1, dims=2)
    logits = moved.logit().requires_grad_()
    assert place_loss(logits, true, real) > expected + 0.5
    place_loss(logits, true, real).backward()
    assert logits.grad is not None and logits.grad.abs().sum() > 0
    assert place_loss(scores.logit(), true, real & False) == 0


def test_weights_in_use_are_trained_further(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = CompactNetwork(SMALL, batch_norm=True)
    for _ in range(3):
        network(torch.randn(4, 3, 64, 64) * 2 + 1)
    used = folded(network)
    file = tmp_path / "used.safetensors"
    save_file({name: value.contiguous() for name, value in used.state_dict().items()}, file)
    again = CompactNetwork(SMALL, batch_norm=True)
    images = torch.randn(4, 3, 64, 64)
    plain = beginning.load(again, str(file))
    assert plain is not None
    beginning.unfold(plain, again, images)
    # The same function, with these images' statistics in training as well.
    for network in (again.eval(), folded(again), again.train()):
        for given, expected in zip(network(images), used(images), strict=True):
            torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-4)
    other = CompactNetwork(replace(SMALL, fused=8), batch_norm=True)
    with pytest.raises(CheckpointError, match="of another network: size mismatch"):
        beginning.load(other, str(file))
    bundled = load_dataclass(StudentConfig, REPOSITORY / "training/configs/compact-further.yaml")
    assert bundled.start_from == "bundled"
    assert beginning.load(CompactNetwork(bundled.network, batch_norm=True), "bundled") is not None
    # A run begins with it, and at a rate of next to nothing ends with it.
    result = train_student(
        tiny(photos, tmp_path, start_from=str(file), steps=1, lr=1e-12), device=_CPU, report=lambda line: None
    )
    with torch.no_grad():
        ended = CompactNetwork(SMALL)
        ended.load_state_dict({name: value.float() for name, value in read_state_dict(result).items()})
        assert (ended(images)[0] - used(images)[0]).abs().max() < 0.05 * used(images)[0].abs().max()


def test_views_are_what_homographies_say(photos: Path) -> None:
    bank = PictureBank.of_files(sorted(photos.iterdir())[:2], 190, _CPU, print)
    # No turn, no scale: the window itself.
    shift = torch.tensor([[1.0, 0, 30], [0, 1, 20], [0, 0, 1]])[None]
    view = bank.views(torch.tensor([1]), shift, 64)[0].float()
    # Four samples a pixel on a picture that is linear between its pixels are a small blur.
    window = bank.pixels[1:2, :, 19:85, 29:95].float()
    kernel = torch.tensor([1.0, 6.0, 1.0]) / 8
    expected = F.conv2d(window, (kernel[:, None] * kernel).expand(3, 1, 3, 3), groups=3)[0]
    torch.testing.assert_close(view, expected, atol=0.51, rtol=0)
    # Beyond the edge the picture is mirrored.
    outside = torch.tensor([[1.0, 0, -32], [0, 1, 40], [0, 0, 1]])[None]
    mirrored = bank.views(torch.tensor([1]), outside, 64)[0].float()
    assert (mirrored[..., :32].flip(-1) - mirrored[..., 32:]).abs().max() <= 1


def test_random_views_are_within_bounds() -> None:
    generator = torch.Generator().manual_seed(0)
    config = DataConfig("", view=64, scale=(0.4, 0.8), turn=0.5, tilt=20, difficulty=0.3)
    first = first_views(torch.tensor([[400.0, 300.0]]).expand(200, 2), config, generator)
    scale = torch.linalg.det(first[:, :2, :2]).sqrt()
    assert (scale > 1 / 0.81).all() and (scale < 1 / 0.39).all()
    middle = through(first, torch.full((200, 1, 2), 31.5))
    assert (middle > 0).all() and (middle < torch.tensor([400.0, 300.0])).all()
    second = second_views(200, config, generator, _CPU)
    forth = through(second, torch.tensor([[[31.5, 31.5]]]).expand(200, -1, -1))
    assert ((forth - 31.5).abs() < 0.3 * 0.55 * 64).all()
    points = torch.rand(3, 4, 2)
    corners = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]).expand(3, -1, -1) + 0.1 * points
    torch.testing.assert_close(through(through_corners(corners, points), corners), points, atol=1e-4, rtol=0)


def test_every_extractor_teaches(photos: Path) -> None:
    # It has no option for a fixed number of keypoints, and finds fewer.
    sift = create_extractor("sift", 60, contrast_threshold=0.15, device="cpu")
    pairs = maker(photos, sift, shares=(1.0, 0.0, 0.0)).make(3)
    assert pairs.keypoints.shape == (3, 2, 60, 2) and pairs.descriptors.shape == (3, 2, 60, 128)
    first = pairs.images[1, 1].float()[None] / 255
    (found,) = sift(first)
    number = found.keypoints.shape[1]
    assert 3 < number < 60 and pairs.real[1, 1].sum() == number
    torch.testing.assert_close(pairs.keypoints[1, 1, :number], found.keypoints[0])


def test_the_pool_replaces_the_oldest(photos: Path) -> None:
    pool = Pool(maker(photos, shares=(1.0, 0.0, 0.0)), 5)
    pool.renew(4)
    assert pool.filled == 4 and len(pool.draw(7, torch.Generator().manual_seed(0))) == 7
    before = pool.pairs.images.clone()  # type: ignore[union-attr]
    pool.renew(3)
    same = [torch.equal(a, b) for a, b in zip(before, pool.pairs.images, strict=True)]  # type: ignore[union-attr]
    assert pool.filled == 5 and same == [False, False, True, True, False] and pool.next == 2


@pytest.mark.parametrize("length", [128, 48])
def test_losses_are_least_where_the_student_is_the_teacher(photos: Path, length: int) -> None:
    pairs = maker(photos, shares=(1.0, 0.0, 0.0)).make(3)
    pairs.descriptors = F.normalize(pairs.descriptors[..., :length].float(), dim=-1).half()

    class Same(torch.nn.Module):
        """Gives the teacher's descriptors back at its keypoints, and at other points those of the place in view 0."""

        def describe(self, fine: torch.Tensor, coarse: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
            number = pairs.real.shape[2]
            generator = torch.Generator().manual_seed(1)
            own = F.normalize(torch.randn(3, points.shape[1] - number, 128, generator=generator), dim=-1)
            other = own.repeat_interleave(2, dim=0)
            taught = F.pad(pairs.descriptors.flatten(0, 1).float(), (0, 128 - length))
            return torch.cat((taught, other), dim=1)

    logits = torch.full((6, 1, 64, 64), -6.0)
    found = losses(Same(), (torch.zeros(1), torch.zeros(1), logits), pairs, LossConfig())  # type: ignore[arg-type]
    assert found.cosine < 1e-3 and found.across < 1e-3 and found.right > 0.99 and found.pair < 0.05
    assert found.contrast > 0  # colours alone do not tell all points apart
    total = found.total(LossConfig(cosine=1, contrast=0, pair=0, across=0, detection=0))
    torch.testing.assert_close(total, found.cosine)


def test_detection_loss_falls_towards_the_keypoints() -> None:
    keypoints, real = torch.tensor([[[10.3, 12.6], [20.0, 5.0], [0.0, 0.0]]]), torch.tensor([[True, True, False]])
    logits = torch.full((1, 32, 32), -4.0)
    there, elsewhere = logits.clone(), logits.clone()
    there[0, 13, 10] = there[0, 5, 20] = 3.0
    elsewhere[0, 0, 0] = elsewhere[0, 20, 25] = 3.0
    values = [float(detection_loss(x, keypoints, real)) for x in (there, logits, elsewhere)]
    assert values[0] < values[1] < values[2]


def test_the_network_describes_each_image_alone_and_folds() -> None:
    torch.manual_seed(0)
    network = CompactNetwork(SMALL, batch_norm=True)
    images = torch.randn(3, 3, 64, 96)
    for _ in range(3):
        network(images)
    keypoints = torch.rand(3, 20, 2) * torch.tensor([90.0, 60.0])
    network.eval()
    with torch.inference_mode():
        fine, coarse, logits = network(images)
        assert fine.shape == (3, 16, 16, 24) and coarse.shape == (3, 16, 8, 12) and logits.shape == (3, 1, 64, 96)
        descriptors = network.describe(fine, coarse, keypoints)
        torch.testing.assert_close(descriptors.norm(dim=-1), torch.ones(3, 20))
        small = folded(network)
        maps = small(images[1:2])
        torch.testing.assert_close(small.describe(*maps[:2], keypoints[1:2]), descriptors[1:2], atol=1e-4, rtol=0)
        torch.testing.assert_close(maps[2], logits[1:2], atol=1e-4, rtol=1e-4)
    assert architecture_of(small.state_dict()) == SMALL
    without = folded(CompactNetwork(replace(SMALL, positions=0))).state_dict()
    assert architecture_of(without) == replace(SMALL, positions=0) and architecture_of({}) is None


def test_maps_are_read_between_the_centres_of_their_cells() -> None:
    y, x = torch.meshgrid(torch.arange(6) + 0.0, torch.arange(8) + 0.0, indexing="ij")
    values = torch.stack((4 * x + 1.5, 4 * y + 1.5))[None]  # what pixel the middle of a cell is at
    pixels = torch.tensor([[[1.5, 1.5], [10.2, 7.9], [29.5, 21.5], [-3.0, 40.0]]])
    expected = torch.tensor([[[1.5, 1.5], [10.2, 7.9], [29.5, 21.5], [1.5, 21.5]]])
    torch.testing.assert_close(read_map(values, pixels, 4), expected)
    with torch.no_grad():
        torch.testing.assert_close(read_map(values, pixels, 4), expected)


@pytest.mark.parametrize("shape", [(2, 5, 7, 9), (1, 3, 1, 4), (3, 2, 6, 1), (1, 1, 1, 1)])
def test_maps_are_read_the_same_with_and_without_gradients(shape: tuple[int, int, int, int]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    pixels = torch.rand(shape[0], 50, 2, generator=torch.Generator().manual_seed(1)) * 60 - 10
    expected = read_map(values, pixels, 4)
    with torch.no_grad():
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.testing.assert_close(read_map(values.contiguous(memory_format=layout), pixels, 4), expected)
        assert read_map(values, pixels[:, :0], 4).shape == (shape[0], 0, shape[1])
        pixels[0, 3] = torch.nan
        assert read_map(values, pixels, 4).isnan().any(dim=2).nonzero().tolist() == [[0, 3]]


def test_a_map_of_more_cells_than_float32_counts_is_read_where_it_is_asked_for() -> None:
    values = torch.arange(4100.0).repeat(4100, 1)[None, None]
    with torch.no_grad():
        read = read_map(values, torch.tensor([[[4099.0, 4099.0], [4001.0, 4098.0]]]), 1)
    assert read.flatten().tolist() == [4099, 4001]


def tiny(photos: Path, folder: Path, **changes: object) -> StudentConfig:
    content = {
        "data": {"photos": str(photos), "holdout": 4, "side": 190, "view": 64, "shares": [1.0, 0.0, 0.0],
                 "scale": [0.5, 1.0], "pool": 24, "chunk": 8, "cross": 40},
        "folder": str(folder), "precision": "fp32", "steps": 45, "batch": 4, "lr": 3.0e-3, "average": 0.9,
        "teacher": {"extractor": "compact", "keypoints": 60},
        "network": SMALL.to_mapping(),
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return load_dataclass(StudentConfig, path)


def test_a_student_learns_goes_on_and_is_used(photos: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    file = train_student(tiny(photos, tmp_path), device=_CPU, report=lines.append)
    rows = [json.loads(line) for line in (tmp_path / "student" / "figures.jsonl").read_text().splitlines()]
    before = [row["validation"] for row in rows if "validation" in row]
    assert before[-1]["cosine"] < 0.75, before  # 1 is what two that know nothing of each other have
    extractor = create_extractor("compact", 100, weights=file, device="cpu")
    assert extractor.net.architecture == SMALL
    features = extractor.extract(make_textured_image(90, 110, 3))
    assert 20 < features.keypoints.shape[1] <= 100 and features.descriptors.shape[-1] == 128

    # Finished, nothing is done again; longer, it goes on; with another network it says no.
    assert train_student(tiny(photos, tmp_path), device=_CPU, report=lines.append) == file
    file.unlink()
    lines.clear()
    train_student(tiny(photos, tmp_path, steps=55), device=_CPU, report=lines.append)
    assert "steps/s" in " ".join(lines) and "student 55, validation" in lines[-1]
    # What is said at step 50 is the mean of the five steps since it went on.
    rows = [json.loads(line) for line in (tmp_path / "student" / "figures.jsonl").read_text().splitlines()]
    (said,) = (row["cosine"] for row in rows if "cosine" in row)
    assert said == pytest.approx(before[-1]["cosine"], rel=0.25)
    with pytest.raises(CheckpointError, match="other settings \\(network\\)"):
        file.unlink()
        train_student(
            tiny(photos, tmp_path, network={**SMALL.to_mapping(), "fused": 8}), device=_CPU, report=lines.append
        )


def test_a_time_budget_ends_a_run_and_its_schedule(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("training.student.train.time.monotonic", lambda: float(next(ticks)))
    config = tiny(photos, tmp_path, steps=100_000, start_from=None)
    train_student(config, device=_CPU, report=lambda line: None, minutes=0.5)
    content = torch.load(tmp_path / "student" / "checkpoint.pt", weights_only=True)
    assert content["share"] == 1.0 and 0 < content["step"] < 100_000
    # From there another run begins.
    other = tiny(photos, tmp_path, name="other", steps=1, start_from=str(tmp_path / "student" / "checkpoint.pt"))
    file = train_student(other, device=_CPU, report=lambda line: None)
    near, far = (read_state_dict(tmp_path / name / "final.safetensors") for name in ("student", "other"))
    assert file.is_file() and max((near[n] - far[n]).abs().max() for n in near) < 0.2


def test_students_side_by_side_see_the_same(photos: Path, tmp_path: Path) -> None:
    one, two = (tiny(photos, tmp_path, name=name, steps=6) for name in ("one", "two"))
    with pytest.raises(ConfigError, match="names of their own"):
        train_students([one, one], device=_CPU, report=print)
    with pytest.raises(ConfigError, match="two and one differ in batch"):
        train_students([one, replace(two, batch=2)], device=_CPU, report=print)
    short = replace(two, network=replace(SMALL, descriptor_dim=64))
    with pytest.raises(ConfigError, match=r"two has descriptors of 64 .* set network.descriptor_dim=128"):
        train_students([one, short], device=_CPU, report=print)
    files = train_students([one, two], device=_CPU, report=lambda line: None)
    first, second = (read_state_dict(file) for file in files)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_rates_and_settings() -> None:
    assert learning_rate(1.0, 0.0, 0) < 0.01 and learning_rate(1.0, 0.5, 10_000) == pytest.approx(0.5)
    assert learning_rate(1.0, 1.0, 10_000) == pytest.approx(0.0)
    with pytest.raises(ConfigError, match="multiple of 32"):
        DataConfig("x", view=50)
    with pytest.raises(ConfigError, match="names no file"):
        DataConfig("x", shares=(0.5, 0.2, 0.3))
    configs = REPOSITORY / "training" / "configs"
    files = [configs / f"{name}.yaml" for name in ("compact", "compact-further", "student-wide", "student-same-view")]
    assert len({load_dataclass(StudentConfig, file).name for file in files}) == len(files)


def test_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    file = REPOSITORY / "training/configs/compact.yaml"
    for setting, message in (
        ("steps=0", "steps must be a whole number from 1 up, got 0"),
        ("lr=.nan", "lr must be a number above 0, got nan"),
        ("average=1.5", "average must be a number from 0 to 1, got 1.5"),
        ("data.shares=[-1, 1, 0]", "data.shares must be a list of 3, each a number from 0 up"),
        ("data.scale=[2, 1]", "data.scale must be the least and the greatest, got [2.0, 1.0]"),
        ("data.pool=8", "data.pool must hold a data.chunk (32) at least, got 8"),
        ("data.labels=pairs.h5", "data.labels must be a list, each text, got 'pairs.h5'"),
        ("data.holdout=1", "data.holdout must be a whole number from 2 up, got 1"),
        ("network.depths=[0, 1, 1, 1, 1]", "network: every size must be 1 or more"),
        ("network.widths=[8, 16]", "network.widths must be a list of 5, each a whole number, got [8, 16]"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            load_dataclass(StudentConfig, file, [setting])


def test_a_finished_run_and_a_damaged_checkpoint_are_said(photos: Path, tmp_path: Path) -> None:
    said: list[str] = []
    config = tiny(photos, tmp_path, steps=1)
    with pytest.raises(ConfigError, match=r"0 minutes are over before the first step .* give more --minutes"):
        train_student(config, device=_CPU, report=said.append, minutes=0)
    final = train_student(config, device=_CPU, report=said.append)
    said.clear()
    assert train_student(replace(config, steps=5), device=_CPU, report=said.append) == final
    assert said == ["student is finished, at step 1: nothing is learnt; give a run another name to train anew"]
    final.unlink()
    checkpoint = final.with_name("checkpoint.pt")
    for content, message in ((checkpoint.read_bytes()[:3000], "is damaged"), (b"", "is damaged")):
        checkpoint.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{message}.*; remove it to begin anew"):
            train_student(config, device=_CPU, report=print)
    torch.save({"step": 1}, checkpoint)
    with pytest.raises(CheckpointError, match="it lacks 'settings'; remove it to begin anew"):
        train_student(config, device=_CPU, report=print)


def test_photographs_that_cannot_be_read_are_left_out_and_named(tmp_path: Path) -> None:
    write_image(tmp_path / "whole.png", make_textured_image(60, 80))
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    said: list[str] = []
    bank = PictureBank.of_files(sorted(tmp_path.iterdir()), 100, _CPU, said.append)
    assert len(bank) == 1 and len(said) == 1 and said[0].startswith(f"left out: {tmp_path / 'cut.png'}")
    with pytest.raises(DataError, match=r"not one of 1 pictures can be read, .*cut\.png"):
        PictureBank.of_files([tmp_path / "cut.png"], 100, _CPU, said.append)


def test_too_few_photographs(tmp_path: Path) -> None:
    write_image(tmp_path / "one.png", make_textured_image(60, 60))
    with pytest.raises(DataError, match="too few to train on"):
        train_student(tiny(tmp_path, tmp_path), device=_CPU, report=print)
