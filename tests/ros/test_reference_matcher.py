"""The reference node on a real graph: stored images, the service that replaces them, and several cameras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.slow_extractor import PLAIN_SLOW, install
from tests.ros.support import (
    Client,
    configure_refusal,
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

NAME = "/reference_matcher"
STAMPS = machine_stamps()


@pytest.fixture(scope="module")
def pictures(textured: Callable[..., np.ndarray]) -> dict[str, np.ndarray]:
    return {name: textured(200, 240, seed=seed) for seed, name in enumerate(("map.png", "poster.png"), 30)}


@pytest.fixture
def files(tmp_path: Path, pictures: dict[str, np.ndarray]) -> list[str]:
    for name, pixels in pictures.items():
        cv2.imwrite(str(tmp_path / name), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return [str(tmp_path / name) for name in pictures]


def matched(camera: Any, pixels: np.ndarray, matches: list[Any], count: int, frame_id: str = "cam") -> list[Any]:
    """The messages that an image is answered with, ``count`` of them; sent until that is so."""
    for _ in range(20):
        stamp = next(STAMPS)
        camera.publish(image_message(pixels, stamp, frame_id))

        def answers(stamp: int = stamp) -> list[Any] | None:
            found = [m for m in list(matches) if stamp_of(m.header) == stamp]
            return found if len(found) >= count else None

        try:
            return list(wait_until(answers, "matches", timeout=3.0))
        except AssertionError:
            continue
    raise AssertionError("no matches after 20 images")


def stored_by(core: Any, picture: np.ndarray) -> np.ndarray:
    """The keypoints of a stored picture, ``N x 2``."""
    from semantic_matcher_core.streams import ReferenceStream

    stream = ReferenceStream(core)
    stream.set_references([(picture, None)])
    return stream.references[0].features.keypoints[0].numpy()


def test_files_and_the_service(
    client: Client, log: Path, files: list[str], pictures: dict[str, np.ndarray], textured: Callable[..., np.ndarray]
) -> None:
    from rclpy.qos import QoSDurabilityPolicy, QoSProfile
    from semantic_matcher_msgs.msg import Keypoints, Matches
    from semantic_matcher_msgs.srv import SetReference
    from sensor_msgs.msg import Image

    from semantic_matcher_core import SemanticMatcher

    core = SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=500)
    view = np.ascontiguousarray(pictures["map.png"][10:170, 15:215])
    matches = client.listen(Matches, f"{NAME}/matches")
    diagnostics = client.diagnostics()
    with running("reference_matcher", log, {**PLAIN_SIFT, "reference_images": files}) as node:
        camera = client.publisher(Image, "/image")
        for message, name in zip(matched(camera, view, matches, 2), pictures, strict=True):
            expected = core.match(core.extract(pictures[name]), core.extract(view))
            assert message.mode == "reference"
            assert (message.reference_name, message.header.frame_id) == (name, "cam")
            # A file has no frame that tf could know.
            assert message.reference_header.frame_id == ""
            assert stamp_of(message.reference_header) == 0
            np.testing.assert_array_equal(floats(message.index0), expected.indices[:, 0].numpy())
            np.testing.assert_array_equal(floats(message.index1), expected.indices[:, 1].numpy())
        # Who comes late gets the keypoints that index0 means.
        stored: list[Any] = []
        latched = QoSProfile(depth=10, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        client.node.create_subscription(Keypoints, f"{NAME}/reference/keypoints", stored.append, latched)
        wait_until(lambda: len(stored) >= 2, "the references' keypoints")
        assert [m.image_name for m in stored] == list(pictures)
        assert {m.header.frame_id for m in stored} == {""}
        published = floats(stored[0].xy).reshape(-1, 2)
        own = core.extract(pictures["map.png"]).keypoints[0].numpy()
        np.testing.assert_array_equal(published[: len(own)], own)
        # Then those of the picture seen smaller, which its matches may count in as well.
        np.testing.assert_array_equal(published, stored_by(core, pictures["map.png"]))
        assert len(published) > len(own)
        shown = diagnostics.wait_for(NAME, lambda s: s.values.get("matches"), "matches").values["references"]
        assert "map.png (" in shown and "poster.png (" in shown

        # A new one from a message replaces them all.
        other = textured(180, 220, seed=40)
        taken = image_message(other, 12_345_000_000_000, "left_optical")
        answer = client.call(SetReference, f"{NAME}/set_reference", image=taken, name="dock")
        assert answer.success and "'dock'" in answer.message
        assert answer.keypoints == len(stored_by(core, other))
        message = matched(camera, other, matches, 1)[0]
        assert (message.reference_name, message.reference_header.frame_id) == ("dock", "left_optical")
        assert stamp_of(message.reference_header) == 12_345_000_000_000
        assert len(message.index0) > 0.8 * core.extract(other).keypoints.shape[1]

        # What cannot be used changes nothing.
        broken = image_message(other, 1)
        broken.encoding = "rgb9"
        answer = client.call(SetReference, f"{NAME}/set_reference", image=broken)
        assert not answer.success and "'rgb9'" in answer.message and answer.keypoints == 0
        assert matched(camera, other, matches, 1)[0].reference_name == "dock"

        # An empty image takes the newest frame of the camera.
        last = matched(camera, view, matches, 1, "cam")[0]
        answer = client.call(SetReference, f"{NAME}/set_reference", image=Image())
        assert answer.success and "'cam'" in answer.message
        message = matched(camera, view, matches, 1)[0]
        assert stamp_of(message.reference_header) == stamp_of(last.header)
        assert (np.abs(floats(message.xy0) - floats(message.xy1)) < 1e-3).all() and len(message.index0) > 50

        # One in which there is nothing to match with is said to be that, and without any name there is one.
        black = image_message(np.zeros((90, 120), np.uint8), 1, "")
        answer = client.call(SetReference, f"{NAME}/set_reference", image=black)
        assert answer.success and answer.keypoints == 0
        assert answer.message == (
            "'reference' is the reference now, but it has no keypoints: nothing will be matched with it"
        )
        diagnostics.wait_for(NAME, lambda s: s.level == 1 and "no keypoints in 'reference'" in s.message, "a warning")
        assert client.call(SetReference, f"{NAME}/set_reference", image=image_message(view, 1, "cam")).success
        node.wait_for("over: no keypoints in 'reference'")

        # The reference outlives a pause of the node, which answers meanwhile.
        assert client.change_state(NAME, "deactivate")
        answer = client.call(SetReference, f"{NAME}/set_reference", image=taken)
        assert not answer.success and "inactive" in answer.message
        assert client.change_state(NAME, "activate")
        wait_until(lambda: camera.get_subscription_count() == 1, "the subscription")
        assert matched(camera, view, matches, 1)[0].reference_name == "cam"
        assert "Traceback" not in node.output


def test_a_photograph_is_looked_at_as_large_as_the_cameras_images_are(
    client: Client, tmp_path: Path, pictures: dict[str, np.ndarray]
) -> None:
    from rclpy.qos import QoSDurabilityPolicy, QoSProfile
    from semantic_matcher_msgs.msg import Keypoints, Matches
    from sensor_msgs.msg import Image

    photograph = cv2.resize(pictures["map.png"], (1200, 1000), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "map.png"), cv2.cvtColor(photograph, cv2.COLOR_RGB2BGR))
    parameters = {"max_keypoints": 300, "torch_threads": 1, "warmup_width": 0}
    with serving("reference_matcher", {**parameters, "reference_images": [str(tmp_path / "map.png")]}) as (node, _):
        assert node.autostart()
        matches, stored = client.listen(Matches, f"{NAME}/matches"), []
        latched = QoSProfile(depth=10, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        client.node.create_subscription(Keypoints, f"{NAME}/reference/keypoints", stored.append, latched)
        wait_until(lambda: stored, "the photograph's keypoints")
        found = matched(client.publisher(Image, "/image"), pictures["map.png"], matches, 1)[0]
        xy0, xy1 = (floats(xy).reshape(-1, 2) for xy in (found.xy0, found.xy1))
        right = np.linalg.norm((xy0 + 0.5) / 5 - 0.5 - xy1, axis=1) < 1
        assert right.sum() > 150 and right.mean() > 0.9
        # Indices are of keypoints that subscribers have, in pixels of the photograph.
        newest = wait_until(lambda: len(stored) > 1 and stored[-1], "the keypoints that are matched")
        assert (newest.width, newest.height) == (1200, 1000)
        np.testing.assert_array_equal(floats(newest.xy).reshape(-1, 2)[floats(found.index0)], xy0)

        # What changes meanwhile holds for stored images, too.
        assert client.change_state(NAME, "deactivate")
        assert client.set_parameter(NAME, "max_keypoints", 50).successful
        assert client.change_state(NAME, "activate")
        later = wait_until(lambda: len(stored) > 2 and stored[-1], "the keypoints of a while later")
        assert len(later.scores) == 3 * 50  # at three sizes


def test_two_cameras_share_a_node_without_a_reference_at_first(
    client: Client, log: Path, textured: Callable[..., np.ndarray]
) -> None:
    from semantic_matcher_msgs.msg import Keypoints, Matches
    from semantic_matcher_msgs.srv import SetReference
    from sensor_msgs.msg import Image

    cameras = ("front", "rear")
    pixels = textured(160, 200, seed=41)
    keypoints = {c: client.listen(Keypoints, f"{NAME}/{c}/keypoints") for c in cameras}
    matches = {c: client.listen(Matches, f"{NAME}/{c}/matches") for c in cameras}
    diagnostics = client.diagnostics()
    with running("reference_matcher", log, {**PLAIN_SIFT, "cameras": list(cameras)}) as node:
        status = diagnostics.wait_for(NAME, lambda s: s.level == 1 and "set_reference" in s.message, "a warning")
        answer = client.call(SetReference, f"{NAME}/set_reference", image=Image())
        assert not answer.success and "no image has come yet" in answer.message
        publishers = {c: client.publisher(Image, f"/{c}/image") for c in cameras}
        for name in cameras:
            for _ in range(20):
                stamp = next(STAMPS)
                publishers[name].publish(image_message(pixels, stamp, name))
                try:
                    wait_until(lambda c=name, s=stamp: of_stamp(keypoints[c], s), "keypoints", timeout=3.0)
                    break
                except AssertionError:
                    continue
        assert not any(matches.values())
        assert client.call(SetReference, f"{NAME}/set_reference", image=Image()).success
        for name in cameras:
            message = matched(publishers[name], pixels, matches[name], 1, name)[0]
            assert (message.header.frame_id, message.reference_name) == (name, "rear")
        diagnostics.wait_for(NAME, lambda s: s.level == 0 and "rear (" in s.values["references"], "OK")
        status = diagnostics.of(NAME)[-1]
        assert float(status.values["front rate out [Hz]"]) > 0 and float(status.values["rear rate out [Hz]"]) > 0
        assert "Traceback" not in node.output


def test_a_request_that_takes_long_holds_nothing_up_and_is_answered_with_what_happens(
    client: Client, log: Path, tmp_path: Path, textured: Callable[..., np.ndarray]
) -> None:
    from rcl_interfaces.srv import GetParameters
    from semantic_matcher_msgs.srv import SetReference

    parameters = {**PLAIN_SLOW, "diagnostics_period": 0.1}
    diagnostics = client.diagnostics()
    with running("reference_matcher", log, parameters, environment=install(tmp_path, 3.0)) as node:
        service = client.node.create_client(SetReference, f"{NAME}/set_reference")
        wait_until(service.service_is_ready, "the service")
        pixels = textured(64, 80, seed=50)

        def ask(name: str) -> Any:
            return service.call_async(SetReference.Request(image=image_message(pixels, 1), name=name))

        first = ask("first")
        reports = len(diagnostics.of(NAME))
        assert client.call(GetParameters, f"{NAME}/get_parameters", names=["variant"]).values[0].string_value
        wait_until(lambda: len(diagnostics.of(NAME)) > reports + 3, "diagnostics")
        assert not first.done()
        # One waits, and a newer one takes its place.
        second, third = ask("second"), ask("third")
        wait_until(second.done, "an answer")
        assert not second.result().success and "a newer request" in second.result().message
        assert not first.done() and not third.done()
        wait_until(lambda: first.done() and third.done(), "the answers")
        assert first.result().success and third.result().success
        diagnostics.wait_for(NAME, lambda s: s.values["references"] == "third (1 keypoints)", "the third")

        # Who is asked and deactivated meanwhile finishes what is begun, and refuses the rest.
        begun = ask("begun")
        seen = len(diagnostics.of(NAME))
        wait_until(lambda: len(diagnostics.of(NAME)) > seen + 3, "diagnostics")
        waiting = ask("waiting")
        wait_until(lambda: len(diagnostics.of(NAME)) > seen + 6, "diagnostics")
        assert client.change_state(NAME, "deactivate")
        wait_until(lambda: begun.done() and waiting.done(), "the answers")
        assert begun.result().success
        assert not waiting.result().success and "deactivated" in waiting.result().message
        assert "Traceback" not in node.output


def test_a_folder_stands_for_the_images_in_it(ros: None, files: list[str]) -> None:
    folder = Path(files[0]).parent
    with in_process("reference_matcher", {**PLAIN_SIFT, "reference_images": [str(folder)]}) as node:
        assert node.autostart()
        shown = node.statistics.values()["references"]
        assert "map.png (" in shown and "poster.png (" in shown


@pytest.mark.parametrize("damage", ["missing", "damaged", "twice", "empty"])
def test_a_file_that_cannot_be_used_is_named(ros: None, files: list[str], damage: str) -> None:
    if damage == "missing":
        files = [f"{files[0]}.nowhere"]
    elif damage == "damaged":
        Path(files[0]).write_bytes(b"no image")
    elif damage == "empty":
        (Path(files[0]).parent / "empty").mkdir()
        files = [str(Path(files[0]).parent / "empty")]
    else:
        (Path(files[0]).parent / "again").mkdir()
        files = [files[0], str(Path(files[0]).parent / "again" / "map.png")]
    refusal = configure_refusal("reference_matcher", {**PLAIN_SIFT, "reference_images": files})
    assert refusal.startswith("configure failed: ")
    assert ("two files named 'map.png'" if damage == "twice" else files[0]) in refusal
