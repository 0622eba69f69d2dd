"""Pairs made of any image: the stated correspondences are those of the pixels, both ways."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from semantic_matcher_core.io.images import write_image
from tests.conftest import make_textured_image
from training.cli import run_command
from training.correspondence import DepthCorrespondence, PlanarCorrespondence
from training.data.warped import WarpConfig, WarpedPairs, random_correspondence, render_views
from training.errors import DataError
from training.projection import warp_keypoints

PICTURE = make_textured_image(200, 260)


def pairs(**options: object) -> WarpedPairs:
    config = WarpConfig(size=(96, 128), difficulty=0.4, photometric=False, **options)  # type: ignore[arg-type]
    return WarpedPairs([torch.from_numpy(PICTURE)], config, length=6)


@pytest.mark.parametrize("bend_probability", [0.0, 1.0])
def test_corresponding_points_show_the_same(bend_probability: float) -> None:
    for view0, view1, truth in (pairs(bend_probability=bend_probability)[i] for i in range(6)):
        generator = torch.Generator().manual_seed(0)
        keypoints = torch.rand(1, 500, 2, generator=generator) * torch.tensor([127.0, 95.0])
        warped = truth.forward(keypoints)
        seen = warped.valid[0]
        assert seen.float().mean() > 0.3

        def at(view: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
            grid = (points / torch.tensor([127.0, 95.0]) * 2 - 1)[None, :, None]
            return F.grid_sample(view[None], grid, align_corners=True)[0, :, :, 0].T

        error = (at(view0, keypoints[0, seen]) - at(view1, warped.keypoints[0, seen])).abs().mean()
        shuffled = (at(view0, keypoints[0, seen]) - at(view1, warped.keypoints[0, seen].flip(0))).abs().mean()
        assert error < 0.35 * shuffled


def test_there_and_back_is_the_same_place() -> None:
    _, _, truth = pairs(bend_probability=1.0)[2]
    keypoints = torch.rand(1, 400, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([127.0, 95.0])
    there = truth.forward(keypoints)
    back = truth.back(there.keypoints)
    assert there.valid.sum() > 100
    torch.testing.assert_close(back.keypoints[there.valid], keypoints[there.valid], atol=0.05, rtol=0)


def test_bending_bends() -> None:
    truth = random_correspondence(
        (200, 260), WarpConfig((96, 128), bend_probability=1.0), torch.Generator().manual_seed(0)
    )
    flat = PlanarCorrespondence(
        truth.homography0, truth.homography1, truth.control, torch.zeros_like(truth.theta), truth.extent, truth.size
    )
    middle = torch.tensor([[[60.0, 40.0], [30.0, 70.0], [100.0, 20.0]]])
    assert (truth.picture_points(middle) - flat.picture_points(middle)).norm(dim=-1).max() > 1.0


def test_no_warp_gives_equal_views() -> None:
    truth = random_correspondence((200, 260), WarpConfig((96, 128), difficulty=0.0), torch.Generator().manual_seed(0))
    view0, view1 = render_views(torch.from_numpy(PICTURE).permute(2, 0, 1) / 255.0, truth)
    torch.testing.assert_close(view0, view1, atol=1e-4, rtol=0)


def test_items_are_reproducible_and_change_with_the_epoch() -> None:
    config = WarpConfig(size=(64, 64))
    first, second = (WarpedPairs([torch.from_numpy(PICTURE)], config, seed=3, length=4) for _ in range(2))
    assert torch.equal(first[1][1], second[1][1])
    assert not torch.equal(first[1][1], first[2][1])
    second.epoch = 1
    assert not torch.equal(first[1][1], second[1][1])
    assert 0 <= first[0][0].min() <= first[0][0].max() <= 1


def test_batches_of_both_kinds_are_their_pairs() -> None:
    data = pairs(bend_probability=1.0)
    truths = [data[i][2] for i in range(3)]
    keypoints = torch.rand(3, 50, 2, generator=torch.Generator().manual_seed(0)) * 90
    batch = PlanarCorrespondence.stack(truths).forward(keypoints)
    for i, truth in enumerate(truths):
        single = truth.forward(keypoints[i : i + 1])
        assert torch.equal(batch.valid[i], single.valid[0])
        torch.testing.assert_close(
            batch.keypoints[i][batch.valid[i]], single.keypoints[0][single.valid[0]], atol=1e-3, rtol=0
        )
    depth = torch.full((3, 40, 50), 2.0)
    transform = torch.eye(4)[:3].expand(3, -1, -1)
    camera = torch.tensor([[50.0, 0, 25], [0, 50, 20], [0, 0, 1]]).expand(3, -1, -1)
    truth3d = DepthCorrespondence(depth, depth, transform, transform, camera, camera)
    expected = warp_keypoints(keypoints, depth, depth, transform, camera, camera)
    assert torch.equal(truth3d.to("cpu").back(keypoints).valid, expected.valid)


def test_no_images_is_an_error() -> None:
    with pytest.raises(DataError, match="no images"):
        WarpedPairs([], WarpConfig())
    assert np.asarray(PICTURE).dtype == np.uint8


def test_an_image_that_cannot_be_read_is_named_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.jpg"
    write_image(good, PICTURE)
    bad.write_bytes(b"no picture")
    found = WarpedPairs([bad, good], WarpConfig(size=(64, 64), photometric=False), length=12)
    assert all(view.shape == (3, 64, 64) for i in range(12) for view in found[i][:2])
    assert [record.getMessage() for record in caplog.records] == [f"{bad} is text, not a picture; it is passed over"]
    with pytest.raises(DataError, match=r"20 images in a row cannot be read; the last one: .*bad\.jpg"):
        WarpedPairs([bad], WarpConfig())[0]


def test_what_a_worker_cannot_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    loader = DataLoader(WarpedPairs([tmp_path / "a.jpg"], WarpConfig(), length=1), num_workers=1)
    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(SystemExit):
        run_command(lambda: next(iter(loader)))
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert line.startswith("error: 20 images in a row cannot be read") and line.endswith("is text, not a picture")
