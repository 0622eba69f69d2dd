"""Training of the bundled variant, small: its views are true, its losses are what they say, and runs go on exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional as F

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import CheckpointError, ConfigError
from semantic_matcher_core.io.images import write_image
from tests.conftest import REPOSITORY, make_textured_image
from training.compact.config import CompactConfig, DataConfig, read_config
from training.compact.extractor_loss import Marks, detection_loss, extractor_losses, marks
from training.compact.reasoner_stage import ContextReasoner, matching_loss, reasoned_layers, reasoner_config
from training.compact.run import train_all
from training.compact.run_state import take_step
from training.compact.teacher import Lesson
from training.compact.views import ViewPairBatches, load_pictures, photometric_change, split
from training.data.warped import render_views
from training.errors import DataError


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(6):
        write_image(folder / f"{i}.png", make_textured_image(150, 190, i))
    return folder


def tiny(photos: Path, folder: Path, **changes: object) -> CompactConfig:
    """A few steps of everything."""
    content = {
        "data": {"root": str(photos), "holdout": 3, "picture_side": 120, "view_size": 96, "validation_pairs": 2},
        "folder": str(folder),
        "precision": "fp32",
        "threads": 1,
        "workers": 0,
        "save_every": 2,
        "validate_every": 4,
        "teacher": {"extractor": "sift", "keypoints": 150},
        "extractor": {"steps": 4, "batch": 2, "points": 64},
        "reasoner": {"steps": 4, "batch": 2, "keypoints": 64, "features_dim": 32, "n_attention_layers": 2},
        "refinement": {"steps": 2, "batch": 1, "keypoints": 80, "view_size": 128, "picture_side": 140},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return read_config(path)


def batch_of(photos: Path, **options: float) -> tuple[list[torch.Tensor], ViewPairBatches]:
    pictures = load_pictures(sorted(photos.iterdir()), 120)
    config = DataConfig(str(photos), picture_side=120, view_size=96, **options)
    return pictures, ViewPairBatches(pictures, config, batch=3, seed=4, length=5)


def test_pictures_are_made_smaller_by_their_short_side(photos: Path) -> None:
    (picture, *_) = load_pictures(sorted(photos.iterdir()), 120)
    assert picture.shape == (3, 120, 152) and picture.dtype == torch.uint8
    (picture, *_) = load_pictures(sorted(photos.iterdir()), 500)
    assert picture.shape == (3, 150, 190)


def test_no_picture_is_on_both_sides_of_the_split() -> None:
    files = [Path(str(i)) for i in range(10)]
    train, held = split(files, 4)
    assert held == [files[0], files[4], files[8]] and sorted([*train, *held]) == files


@pytest.mark.parametrize("bend", [0.0, 1.0])
def test_views_show_what_the_slow_way_shows(photos: Path, bend: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.compact.views.photometric_change", lambda images, generator: images)
    pictures, data = batch_of(photos, bend_probability=bend, turn_probability=0.5)
    pairs = data[1]
    for i, chosen in enumerate(pairs.pictures):
        truth = type(pairs.truth)(*(getattr(pairs.truth, f)[i : i + 1] for f in pairs.truth.__dataclass_fields__))
        views = render_views(pictures[chosen].float() / 255, truth)
        for ours, expected in zip((pairs.images[i], pairs.images[i + 3]), views, strict=True):
            # A bend is interpolated; noise-like textures make hundredths of a pixel visible.
            assert (ours - expected).abs().mean() < (0.02 if bend else 1e-4)
        assert 0.2 < pairs.inside[i].float().mean() <= 1


def test_batches_are_the_same_each_time_and_differ_from_one_another(photos: Path) -> None:
    _, data = batch_of(photos)
    assert torch.equal(data[2].images, data[2].images)
    assert not torch.equal(data[2].images, data[3].images)
    with pytest.raises(IndexError):
        data[5]


def test_light_changes_but_stays_light() -> None:
    images = torch.rand(5, 3, 24, 30)
    changed = photometric_change(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape and changed.min() >= 0 and changed.max() <= 1
    assert ((changed - images).abs().mean(dim=(1, 2, 3)) > 0.005).all()


@pytest.mark.parametrize("bend", [0.0, 1.0])
def test_marks_are_where_the_truth_says(photos: Path, bend: float) -> None:
    _, data = batch_of(photos, bend_probability=bend, turn_probability=1.0)
    pairs = data[0]
    lessons = [Lesson(torch.rand(n, 2) * 100, torch.rand(n, 8).half()) for n in (7, 40, 1)]
    found = marks(pairs, lessons)
    assert found.points.shape == (6, 40, 2) and found.descriptors.shape == (3, 40, 8)
    assert not found.seen[0, 7:].any() and not found.seen[5, 1:].any(), "padding is never seen"
    forward = pairs.truth.forward(found.points[:3])
    both = found.seen[:3] & found.seen[3:] & forward.valid
    assert both.any()
    torch.testing.assert_close(forward.keypoints[both], found.points[3:][both], atol=0.05, rtol=0)
    back = pairs.truth.picture_points(found.points[3:])
    for i, lesson in enumerate(lessons):
        seen = found.seen[3 + i, : len(lesson.keypoints)]
        torch.testing.assert_close(back[i, : len(seen)][seen], lesson.keypoints[seen], atol=0.05, rtol=0)


def test_detection_loss_is_its_formula() -> None:
    points = torch.tensor([[[5.0, 4.0], [11.3, 7.0]]])
    found = Marks(points, torch.tensor([[True, False]]), torch.empty(1, 2, 0))
    inside = torch.ones(1, 12, 16, dtype=torch.bool)
    inside[:, 9:] = False
    logits = torch.randn(1, 12, 16)
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    near = ((x - 5).abs() <= 2) & ((y - 4).abs() <= 2)
    target = torch.exp(-((x - 5) ** 2 + (y - 4) ** 2) / (2 * 0.8**2)) * near
    p = logits[0].sigmoid()
    entropy = -(target * p.log() + (1 - target) * (1 - p).log())
    expected = (entropy * (target - p) ** 2)[:9].sum()
    torch.testing.assert_close(detection_loss(logits, inside, found), expected)


def test_points_that_cannot_be_followed_do_not_count(photos: Path) -> None:
    _, data = batch_of(photos)
    pairs = data[0]
    lesson = Lesson(torch.rand(20, 2) * 80 + 10, torch.rand(20, 128).half())
    found = marks(pairs, [lesson] * len(pairs))
    lost = found.seen.clone()
    lost[:, ::3] = False
    expected = found._replace(seen=lost)
    unknown = expected._replace(points=found.points.masked_fill(~lost[..., None], torch.nan))
    logits = torch.randn(2 * len(pairs), 96, 96, requires_grad=True)
    loss = detection_loss(logits, pairs.inside, unknown)
    assert torch.equal(loss, detection_loss(logits, pairs.inside, expected))
    loss.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_the_training(bad: str) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], 0.1)
    loss = weight.sum() * torch.nan if bad == "loss" else (weight - 1).abs().sqrt().sum()  # the root's slope at zero
    with pytest.raises(DataError, match="step 7 of the extractor"):
        take_step(optimizer, loss, "extractor", 7)
    assert torch.equal(weight.detach(), torch.ones(3))
    take_step(optimizer, weight.square().sum(), "extractor", 8)
    assert (weight < 1).all()


def test_matching_loss_wants_the_right_pairs(photos: Path) -> None:
    """Maps that hold a code of the picture's position match at once, those of the view's own position do not."""
    _, data = batch_of(photos, bend_probability=0.0, turn_probability=1.0)
    pairs = data[0]
    size = 96
    y, x = torch.meshgrid(torch.arange(24) * 4 + 1.5, torch.arange(24) * 4 + 1.5, indexing="ij")
    cells = torch.stack([x, y], dim=-1).view(1, -1, 2)
    truth = pairs.truth
    flat0 = torch.cat([cells.expand(3, -1, -1), torch.ones(3, 576, 1)], dim=-1) @ truth.homography0.mT
    places = torch.cat([flat0[..., :2] / flat0[..., 2:], truth.picture_points(cells.expand(3, -1, -1))])

    def code(at: torch.Tensor) -> torch.Tensor:
        waves = torch.cat([torch.cat([(at / s).sin(), (at / s).cos()], dim=-1) for s in (4.0, 9.0, 30.0)], dim=-1)
        return waves.transpose(1, 2).unflatten(2, (24, 24))

    lessons = [Lesson(torch.rand(60, 2) * torch.tensor([150.0, 118.0]), F.normalize(torch.rand(60, 12), dim=1).half())]
    found = marks(pairs, lessons * 3)
    options = {"points": 40, "temperature": 0.05, "generator": torch.Generator().manual_seed(0)}
    good = extractor_losses(code(places), torch.zeros(6, 1, size, size), pairs, found, **options)
    options["generator"] = torch.Generator().manual_seed(0)
    bad = extractor_losses(code(cells.expand(6, -1, -1)), torch.zeros(6, 1, size, size), pairs, found, **options)
    assert good.matching < 0.5 * bad.matching
    assert 0 < good.distillation < 4


def test_the_reasoner_starts_at_plain_matching(photos: Path, tmp_path: Path) -> None:
    from semantic_matcher_core.types import Features

    config = tiny(photos, tmp_path)
    torch.manual_seed(0)
    model = ContextReasoner(reasoner_config(replace(config, reasoner=replace(config.reasoner, features_dim=128))))
    model.eval()
    keypoints = torch.rand(2, 30, 2) * 90
    descriptors = F.normalize(torch.randn(2, 30, 128), dim=-1)
    features = Features(keypoints, torch.ones(2, 30), descriptors, (96, 96))
    texture, _ = reasoned_layers(model, torch.rand(2, 3, 96, 96), features)[-1]
    plain = descriptors[0] @ descriptors[1].T
    assert (texture[0] @ texture[1].T - plain).abs().max() < 0.15
    _, data = batch_of(photos)
    pairs = data[0]
    six = Features(torch.rand(6, 30, 2) * 90, torch.ones(6, 30), F.normalize(torch.randn(6, 30, 128), dim=-1), (96, 96))
    loss = matching_loss(reasoned_layers(model, pairs.images, six), six, pairs, 0.05)
    assert torch.isfinite(loss)
    loss.backward()
    assert model.encoder.stride4[0][0].weight.grad.abs().sum() > 0


@pytest.mark.slow
def test_a_whole_training_goes_on_exactly_and_its_package_matches(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    lines: list[str] = []
    files = train_all(tiny(photos, whole), whole / "package", report=lines.append)
    assert any(line.startswith("extractor 4: upright") for line in lines)

    class Killed(Exception):
        pass

    def killed_at(prefix: str):
        def report(line: str) -> None:
            if line.startswith(prefix):
                raise Killed

        return report

    # Validation comes before the checkpoint of the same step, so each kill loses the steps since the last one.
    for prefix in ("extractor 4:", "reasoner 4:", "refinement 2:"):
        with pytest.raises(Killed):
            train_all(tiny(photos, parts), parts / "package", report=killed_at(prefix))
    train_all(tiny(photos, parts), parts / "package", report=lambda line: None)
    for file in files:
        assert (parts / "package" / file.relative_to(whole / "package")).read_bytes() == file.read_bytes()

    with pytest.raises(CheckpointError, match=r"other settings \(lr\)"):
        (parts / "compact" / "extractor" / "final.safetensors").unlink()
        train_all(tiny(photos, parts, extractor={"steps": 4, "batch": 2, "points": 64, "lr": 1.0}), parts, report=print)

    monkeypatch.setenv("SEMANTIC_MATCHER_WEIGHTS", str(whole / "package"))
    matcher = SemanticMatcher.from_pretrained("compact", device="cpu", max_keypoints=64)
    ours = load_file(whole / "package" / "compact_extractor.safetensors")
    assert torch.equal(matcher.extractor.state_dict()["net.score.1.bias"], ours["score.1.bias"].float())
    matcher.match_images(make_textured_image(60, 80, 1), make_textured_image(60, 80, 2))


@pytest.mark.slow
def test_a_run_starts_from_another(photos: Path, tmp_path: Path) -> None:
    train_all(tiny(photos, tmp_path), tmp_path / "package", report=print)
    still = {"lr": 0.0, "steps": 1, "batch": 2}
    later = {
        "name": "later",
        "start_from": str(tmp_path / "compact"),
        "extractor": {**still, "points": 64},
        "reasoner": {**still, "keypoints": 64, "features_dim": 32, "n_attention_layers": 2},
        "refinement": {"steps": 0},
    }
    train_all(tiny(photos, tmp_path, **later), tmp_path / "again", report=print)

    def weights(stage: str) -> dict[str, torch.Tensor]:
        state = torch.load(tmp_path / stage / "checkpoint.pt", weights_only=True)["network"]
        return {name: value for name, value in state.items() if "running" not in name and "num_batches" not in name}

    # A rate of zero keeps all but the statistics of the batches; the reasoner goes on from where it was refined.
    for before, after in (
        ("compact/extractor", "later/extractor"),
        ("compact/refinement", "later/reasoner"),
    ):
        first, second = weights(before), weights(after)
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)

    def starting(name: str, **changes: object) -> CompactConfig:
        return tiny(photos, tmp_path, **{**later, "name": name, **changes})

    with pytest.raises(CheckpointError, match="other network"):
        train_all(starting("wide", extractor={**still, "descriptor_dim": 64}), tmp_path / "x", report=print)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is missing"):
        train_all(starting("nowhere", start_from=str(tmp_path / "none")), tmp_path / "x", report=print)


def test_the_shipped_configurations_are_read() -> None:
    config = read_config(REPOSITORY / "training" / "configs" / "compact.yaml", ["data.root=elsewhere"])
    assert config.data.root == "elsewhere" and config.name == "compact"
    later = read_config(REPOSITORY / "training" / "configs" / "compact_more.yaml")
    assert later.start_from is not None and Path(later.start_from) == config.run_folder
    assert (later.data.root, later.data.holdout) == ("photos", config.data.holdout)  # held-out pictures stay so


def test_refusals(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="view_size must be a multiple of 32"):
        DataConfig("x", view_size=100)
    with pytest.raises(ConfigError, match="holdout"):
        DataConfig("x", holdout=1)
    with pytest.raises(ConfigError, match="precision"):
        CompactConfig(DataConfig("x"), precision="int8")
    with pytest.raises(ConfigError, match="another name"):
        CompactConfig(DataConfig("x"), folder="runs", name="a", start_from="runs/../runs/a")
    with pytest.raises(DataError, match="too few"):
        (tmp_path / "none").mkdir()
        write_image(tmp_path / "none" / "one.png", make_textured_image(40, 40, 0))
        train_all(tiny(tmp_path / "none", tmp_path), tmp_path / "package", report=print)
