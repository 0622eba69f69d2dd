"""The template tracker on a real graph: a bent sheet followed, lost, found again, and replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.core.bent_surfaces import ground_truth, known_bend, render
from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import (
    Client,
    floats,
    image_message,
    in_process,
    machine_stamps,
    of_stamp,
    running,
    serving,
    stamp_of,
    wait_until,
)

pytestmark = pytest.mark.ros

NAME = "/template_tracker"
SIZE = (240, 320)
STAMPS = machine_stamps()


@pytest.fixture(scope="module")
def sheet(textured: Callable[..., np.ndarray]) -> np.ndarray:
    return textured(*SIZE, seed=3)


@pytest.fixture
def template(tmp_path: Path, sheet: np.ndarray) -> str:
    path = tmp_path / "sheet.png"
    cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    return str(path)


def answered(camera: Any, pixels: np.ndarray, tracks: list[Any], wanted: Callable[[Any], bool] = bool) -> Any:
    """The track of an image, sent until one comes that is wanted."""
    for _ in range(20):
        stamp = next(STAMPS)
        camera.publish(image_message(pixels, stamp))
        try:
            track = wait_until(lambda stamp=stamp: of_stamp(tracks, stamp), "a track", timeout=5.0)
        except AssertionError:
            continue
        if wanted(track):
            return track
    raise AssertionError("no such track after 20 images")


def grid_error(track: Any, seed: int) -> np.ndarray:
    """Distances in pixels of the published grid, where it is known, from where the sheet's points truly lie."""
    grid = torch.from_numpy(floats(track.xy).reshape(-1, 2)).double()
    x, y = torch.meshgrid(
        torch.linspace(0, track.template_width - 1, track.columns),
        torch.linspace(0, track.template_height - 1, track.rows),
        indexing="xy",
    )
    back = known_bend(SIZE, 10.0, seed)(grid)
    expected = torch.stack([x, y], dim=-1).reshape(-1, 2)
    known = floats(track.known).astype(bool)
    return (back - expected).norm(dim=1).numpy()[known]


def test_a_sheet_is_followed(client: Client, log: Path, sheet: np.ndarray, template: str) -> None:
    from semantic_matcher_msgs.msg import Matches, TemplateTrack
    from sensor_msgs.msg import Image
    from visualization_msgs.msg import Marker

    tracks = client.listen(TemplateTrack, f"{NAME}/track")
    matches = client.listen(Matches, f"{NAME}/matches")
    rectified = client.listen(Image, f"{NAME}/rectified")
    markers = client.listen(Marker, f"{NAME}/grid_marker")
    diagnostics = client.diagnostics()
    parameters = {**PLAIN_SIFT, "max_keypoints": 800, "template_image": template, "grid_columns": 21}
    with running("template_tracker", log, parameters):
        camera = client.publisher(Image, "/image")
        for seed in (1, 2):
            track = answered(camera, render(sheet, known_bend(SIZE, 10.0, seed)), tracks)
            assert track.tracked and track.template_name == "sheet.png"
            assert track.header.frame_id == "camera_optical_frame"
            assert (track.template_width, track.template_height) == (320, 240)
            assert (track.columns, track.rows) == (21, 16)
            assert len(track.xy) == 2 * 21 * 16 and len(track.known) == 21 * 16
            error = grid_error(track, seed)
            assert len(error) > 100 and np.median(error) < 1.5
            flat, bent = ground_truth(known_bend(SIZE, 10.0, seed), SIZE)
            assert float((flat - bent).norm(dim=1).median()) > 3  # what an unbent grid would be off
            assert track.confidence > 0.9 and track.error < 10 and 0.5 < track.coverage < 1
            assert 100 < track.inliers <= track.matches and track.residual_px < 2
        stamp = stamp_of(track.header)
        message = wait_until(lambda: of_stamp(matches, stamp), "matches")
        assert message.mode == "reference" and message.reference_name == "sheet.png"
        assert len(message.index0) == track.matches and floats(message.inlier).sum() == track.inliers
        picture = wait_until(lambda: of_stamp(rectified, stamp), "the rectified image")
        pixels = np.frombuffer(picture.data, np.uint8).reshape(SIZE[0], SIZE[1], 3).astype(float)
        inner = (slice(60, 180), slice(80, 240))
        assert np.abs(pixels[inner] - sheet[inner]).mean() < 12
        marker = wait_until(lambda: of_stamp(markers, stamp), "the marker")
        assert marker.action == Marker.ADD and marker.type == Marker.LINE_LIST
        assert len(marker.points) == len(marker.colors) == 2 * (16 * 20 + 15 * 21)
        first = floats(track.xy)[:2] * 0.001
        assert [marker.points[0].x, marker.points[0].y] == pytest.approx(first.tolist(), abs=1e-6)
        shown = diagnostics.wait_for(NAME, lambda s: s.values.get("tracked") == "True", "tracked").values
        assert shown["template"].startswith("sheet.png (") and float(shown["confidence"]) > 0.9

        # Hidden, it is not found, and what was drawn is taken away; then it is found again.
        hidden = answered(camera, np.full((*SIZE, 3), 90, np.uint8), tracks)
        assert not hidden.tracked and hidden.confidence == hidden.inliers == hidden.rows == len(hidden.xy) == 0
        gone = wait_until(lambda: of_stamp(markers, stamp_of(hidden.header)), "the marker's end")
        assert gone.action == Marker.DELETE and not gone.points
        shown = diagnostics.wait_for(NAME, lambda s: s.values.get("tracked") == "False", "loss").values
        assert float(shown["confidence"]) == 0
        assert answered(camera, render(sheet, known_bend(SIZE, 10.0, 1)), tracks).tracked

        # Parameters that change at run time.
        assert client.set_parameter(NAME, "grid_columns", 5).successful
        assert client.set_parameter(NAME, "smooth", True).successful
        track = answered(camera, render(sheet, known_bend(SIZE, 10.0, 1)), tracks, lambda t: t.columns == 5)
        assert track.rows == 4 and track.tracked
        assert not client.set_parameter(NAME, "min_inliers", 1).successful
        assert client.set_parameter(NAME, "min_inliers", 5000).successful
        lost = answered(camera, sheet, tracks, lambda t: not t.tracked)
        assert lost.matches > 100


def test_the_newest_image_becomes_the_template(
    client: Client, log: Path, sheet: np.ndarray, textured: Callable[..., np.ndarray]
) -> None:
    from semantic_matcher_msgs.msg import TemplateTrack
    from semantic_matcher_msgs.srv import SetReference
    from sensor_msgs.msg import Image

    tracks = client.listen(TemplateTrack, f"{NAME}/track")
    diagnostics = client.diagnostics()
    with running("template_tracker", log, PLAIN_SIFT):
        camera = client.publisher(Image, "/image")
        waiting = diagnostics.wait_for(NAME, lambda s: "no template yet" in s.message, "no template")
        assert waiting.level == 1 and f"{NAME}/set_reference" in waiting.message
        answer = client.call(SetReference, f"{NAME}/set_reference")
        assert not answer.success and "no image has come yet" in answer.message

        def taken() -> Any:
            camera.publish(image_message(sheet, next(STAMPS)))
            answer = client.call(SetReference, f"{NAME}/set_reference", name="shirt")
            return answer if answer.success else None

        answer = wait_until(taken, "the template")
        assert answer.keypoints > 100 and "'shirt'" in answer.message
        track = answered(camera, render(sheet, known_bend(SIZE, 10.0, 2)), tracks)
        assert track.tracked and track.template_name == "shirt"
        assert np.median(grid_error(track, 2)) < 1.5
        diagnostics.wait_for(NAME, lambda s: s.level == 0 and "shirt" in s.values.get("template", ""), "the template")

        # An image without texture is refused, and the template stays.
        plain = image_message(np.full((*SIZE, 3), 90, np.uint8), 5)
        answer = client.call(SetReference, f"{NAME}/set_reference", image=plain)
        assert not answer.success and "keypoints in the template" in answer.message
        assert answered(camera, sheet, tracks).template_name == "shirt"

        # Another one replaces it.
        other = textured(200, 260, seed=8)
        assert client.call(SetReference, f"{NAME}/set_reference", image=image_message(other, 7, "cam")).success
        track = answered(camera, other, tracks, lambda t: t.template_name == "cam")
        assert track.tracked and (track.template_width, track.template_height) == (260, 200)
        assert not answered(camera, sheet, tracks).tracked

        # It is kept over a pause.
        assert client.change_state(NAME, "deactivate") and client.change_state(NAME, "activate")
        wait_until(lambda: camera.get_subscription_count() == 1, "the node's subscription")
        assert answered(camera, other, tracks).template_name == "cam"


def test_a_grid_that_cannot_be_drawn_costs_nothing_else(
    client: Client, template: str, sheet: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semantic_matcher_msgs.msg import Descriptors, TemplateTrack
    from sensor_msgs.msg import Image
    from visualization_msgs.msg import Marker

    from semantic_matcher import template_node

    def fails(*_: Any) -> None:
        raise ValueError("too many lines")

    monkeypatch.setattr(template_node, "grid_marker", fails)
    with serving("template_tracker", {**PLAIN_SIFT, "template_image": template}) as (node, _):
        assert node.autostart()
        client.listen(Marker, f"{NAME}/grid_marker")
        tracks = client.listen(TemplateTrack, f"{NAME}/track")
        descriptors = client.listen(Descriptors, f"{NAME}/descriptors")
        track = answered(client.publisher(Image, "/image"), sheet, tracks)
        wait_until(lambda: of_stamp(descriptors, stamp_of(track.header)), "descriptors")
        wait_until(lambda: "~/grid_marker was not made" in node.statistics.last_error, "the error")


def test_a_mask_limits_the_template(
    client: Client, log: Path, sheet: np.ndarray, template: str, tmp_path: Path
) -> None:
    from semantic_matcher_msgs.msg import TemplateTrack
    from sensor_msgs.msg import Image

    mask = np.zeros(SIZE, np.uint8)
    mask[:, :160] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    tracks = client.listen(TemplateTrack, f"{NAME}/track")
    parameters = {**PLAIN_SIFT, "template_image": template, "template_mask": str(tmp_path / "mask.png")}
    with running("template_tracker", log, parameters):
        track = answered(client.publisher(Image, "/image"), sheet, tracks)
    assert track.tracked and track.coverage < 0.5
    known = floats(track.known).reshape(track.rows, track.columns)
    assert known[:, : track.columns // 2].any() and not known[:, track.columns // 2 + 2 :].any()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"template_image": "/nowhere/sheet.png"}, "no such image file: /nowhere/sheet.png"),
        ({"template_mask": "/nowhere/mask.png"}, "template_image is empty"),
        ({"template_image": "{plain}"}, "keypoints in the template"),
        ({"template_image": "{template}", "template_mask": "{small}"}, "of the image it masks"),
    ],
)
def test_a_template_that_cannot_be_used_is_an_error(
    ros: None, tmp_path: Path, template: str, parameters: dict[str, str], message: str
) -> None:
    files = {"template": template, "plain": str(tmp_path / "plain.png"), "small": str(tmp_path / "small.png")}
    cv2.imwrite(files["plain"], np.full((*SIZE, 3), 90, np.uint8))
    cv2.imwrite(files["small"], np.full((10, 10), 255, np.uint8))
    given = {name: value.format(**files) for name, value in parameters.items()}
    with in_process("template_tracker", {**PLAIN_SIFT, **given}) as node:
        # What does not fit the model is found when it is there.
        assert not node.autostart()
        assert message in node.statistics.last_error
