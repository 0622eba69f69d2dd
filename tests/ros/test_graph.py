"""Nodes on a graph that others have made: other QoS, late and early publishers, several clocks, nobody listening."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, image_message, of_stamp, running, set_stamp, stamp_of, wait_until
from tests.ros.test_calibrated import camera_info, layered_views

pytestmark = pytest.mark.ros

NAME = "/temporal_matcher"


def profile(depth: int = 10, reliable: bool = True, latched: bool = False) -> Any:
    from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy

    return QoSProfile(
        depth=depth,
        reliability=QoSReliabilityPolicy.RELIABLE if reliable else QoSReliabilityPolicy.BEST_EFFORT,
        durability=QoSDurabilityPolicy.TRANSIENT_LOCAL if latched else QoSDurabilityPolicy.VOLATILE,
    )


def asked_for(client: Client, topic: str) -> list[tuple[str, str]]:
    """Reliability and durability of what is subscribed on a topic."""
    infos = client.node.get_subscriptions_info_by_topic(topic)
    return [(i.qos_profile.reliability.name.lower(), i.qos_profile.durability.name.lower()) for i in infos]


def warnings(output: str, text: str) -> list[str]:
    """The warnings in a log that contain a text."""
    return [line for line in output.splitlines() if "[WARN]" in line and text in line]


def sent_until(camera: Any, make: Callable[[], Any], condition: Callable[[], Any], what: str) -> Any:
    """The first true value of a condition while images are published under the time of the machine, at 10 Hz."""

    def attempt() -> Any:
        message = make()
        set_stamp(message, time.time_ns())
        camera.publish(message)
        return condition()

    return wait_until(attempt, what, every=0.1)


def test_the_subscription_follows_those_who_publish_and_those_who_listen(
    client: Client, log: Path, textured: Callable[..., np.ndarray]
) -> None:
    from semantic_matcher_msgs.msg import Keypoints, Matches
    from sensor_msgs.msg import Image

    pixels = textured(120, 160, seed=70)
    diagnostics = client.diagnostics()

    def good() -> Any:
        return image_message(pixels, 0)

    with running("temporal_matcher", log, PLAIN_SIFT) as node:
        assert "and for a subscriber of an output" in node.output
        camera = client.node.create_publisher(Image, "/image", profile())
        status = diagnostics.wait_for(NAME, lambda s: s.message.startswith("idle"), "idle")
        assert status.level == 0 and asked_for(client, "/image") == []

        def followed(reliability: str, durability: str = "volatile") -> None:
            wait_until(
                lambda: asked_for(client, "/image") == [(reliability, durability)], f"{reliability} {durability}"
            )

        # Somebody listens: the node subscribes, as the publisher offers it.
        heard: list[Any] = []
        listener = client.node.create_subscription(Matches, f"{NAME}/matches", heard.append, profile())
        followed("reliable")
        sent_until(camera, good, lambda: heard, "matches")

        # Another driver, best effort; then one that keeps its only image for those who come later.
        client.node.destroy_publisher(camera)
        camera = client.node.create_publisher(Image, "/image", profile(reliable=False))
        followed("best_effort")
        count = len(heard)
        sent_until(camera, good, lambda: len(heard) > count, "matches of a best-effort publisher")
        client.node.destroy_publisher(camera)
        keypoints = client.listen(Keypoints, f"{NAME}/keypoints")
        camera = client.node.create_publisher(Image, "/image", profile(depth=1, latched=True))
        message = image_message(pixels, time.time_ns())
        camera.publish(message)
        wait_until(lambda: of_stamp(keypoints, stamp_of(message.header)), "the image that was kept")
        followed("reliable", "transient_local")

        # Both kinds at once: what hears both, and a warning that they are mixed, once in the log.
        other = client.node.create_publisher(Image, "/image", profile(reliable=False))
        followed("best_effort")
        diagnostics.wait_for(NAME, lambda s: "2 publishers on /image" in s.message, "two publishers")
        client.node.destroy_publisher(other)
        followed("reliable", "transient_local")
        diagnostics.wait_for(NAME, lambda s: s.level == 0, "OK")
        assert len(warnings(node.output, "2 publishers on /image")) == 1

        # Nobody listens any more; when somebody does again, the frame from before is no reference.
        client.node.destroy_subscription(listener)
        for subscription in list(client.node.subscriptions):
            if subscription.topic_name == f"{NAME}/keypoints":
                client.node.destroy_subscription(subscription)
        wait_until(lambda: asked_for(client, "/image") == [], "the end of the subscription")
        pause = time.time_ns()
        again = client.listen(Matches, f"{NAME}/matches")
        sent_until(camera, good, lambda: again, "matches after a pause")
        assert all(stamp_of(m.reference_header) > pause or stamp_of(m.header) <= pause for m in again[:1])
        assert "Traceback" not in node.output


def test_qos_that_cannot_fit_is_warned_of_until_it_is_over(
    client: Client, log: Path, textured: Callable[..., np.ndarray]
) -> None:
    from semantic_matcher_msgs.msg import Keypoints, Matches
    from sensor_msgs.msg import Image

    keypoints = client.listen(Keypoints, f"{NAME}/keypoints")
    latecomer = client.node.create_subscription(Matches, f"{NAME}/matches", print, profile(latched=True))
    camera = client.node.create_publisher(Image, "/image", profile(reliable=False))
    diagnostics = client.diagnostics()
    misspelt = "qos_overrides./image.subscription.reliabilty"
    parameters = {**PLAIN_SIFT, "image_reliability": "reliable", misspelt: "reliable"}
    parameters |= {"descriptor": "xfeat", "variant": "plain:sift"}
    text = "offers incompatible QoS (RELIABILITY)"
    with running("temporal_matcher", log, parameters) as node:
        status = diagnostics.wait_for(NAME, lambda s: text in s.message, "a warning")
        assert status.level == 1 and "image_reliability:=auto" in status.message
        node.wait_for(text)
        client.node.destroy_publisher(camera)
        pixels = textured(120, 160, seed=71)
        camera = client.node.create_publisher(Image, "/image", profile())
        sent_until(camera, lambda: image_message(pixels, 0), lambda: keypoints, "keypoints")
        before = len(diagnostics.of(NAME))
        wait_until(lambda: any(text not in s.message for s in diagnostics.of(NAME)[before:]), "the end of the warning")
        assert len(warnings(node.output, text)) == 1

        # A subscriber that asks for more than is offered: the advice is one that works.
        node.wait_for("requests incompatible QoS (DURABILITY)")
        (line,) = warnings(node.output, "requests incompatible QoS (DURABILITY)")
        advice = re.search(r"with the parameter (qos_overrides\.\S+) set to (\w+)", line)
        assert advice is not None, line
        diagnostics.wait_for(NAME, lambda s: advice[1] in s.message, "the same in the diagnostics")
        client.node.destroy_subscription(latecomer)
        diagnostics.wait_for(NAME, lambda s: s.level == 0 and float(s.values["rate out [Hz]"]) > 0, "OK")

        # What has no effect is named.
        (line,) = warnings(node.output, misspelt)
        assert "has no effect: did you mean 'qos_overrides./image.subscription.reliability'?" in line
        (line,) = warnings(node.output, "without effect")
        assert "variant 'plain:sift' decides; descriptor 'xfeat' is without effect" in line
        loading = node.output.index("configuring: loading plain:sift")
        assert loading < node.output.index("configured:")
        assert "Traceback" not in node.output

    with running("temporal_matcher", log, {**PLAIN_SIFT, advice[1]: advice[2]}) as node:
        wait_until(lambda: asked_for(client, "/image"), "the subscription")
        for _ in range(3):
            message = image_message(pixels, time.time_ns())
            camera.publish(message)
            time.sleep(0.5)
        late: list[Any] = []
        client.node.create_subscription(Matches, f"{NAME}/matches", late.append, profile(latched=True))
        wait_until(lambda: late, "matches from before the subscription")


def test_calibration_from_before_beside_compressed_images(
    client: Client, log: Path, textured: Callable[..., np.ndarray]
) -> None:
    import cv2
    from semantic_matcher_msgs.msg import Matches
    from sensor_msgs.msg import CameraInfo, CompressedImage

    # Published once, reliable and latched, before there is a node; five coefficients where the model has four.
    info = camera_info(distortion=(0.01, 0.0, 0.0, 0.0, 0.0))
    info.distortion_model = "equidistant"
    client.node.create_publisher(CameraInfo, "/rig/camera/camera_info", profile(depth=1, latched=True)).publish(info)
    matches = client.listen(Matches, f"{NAME}/matches")
    views = layered_views(textured, (8, 20))
    turn = iter(range(10**6))

    def compressed() -> Any:
        _, data = cv2.imencode(".png", views[next(turn) % 2][..., ::-1])
        return CompressedImage(format="png", data=data.tobytes())

    parameters = {**PLAIN_SIFT, "image_transport": "compressed", "geometry": "essential"}
    arguments = ("-r", "image:=/rig/camera/image_raw/compressed")
    with running("temporal_matcher", log, parameters, arguments=arguments) as node:
        assert re.search(r"waiting for /rig/camera/image_raw/compressed\s", node.output)
        assert "image is remapped to a topic that ends in /compressed already" in node.output
        camera = client.publisher(CompressedImage, "/rig/camera/image_raw/compressed")
        message = sent_until(
            camera, compressed, lambda: next((m for m in matches if m.model_type), None), "a check with the calibration"
        )
        assert message.model_type == "essential"
        # Not even before the first image.
        assert "no camera_info" not in node.output


def test_clocks_that_disagree_are_named_once(client: Client, log: Path, textured: Callable[..., np.ndarray]) -> None:
    from rosgraph_msgs.msg import Clock
    from semantic_matcher_msgs.msg import Keypoints
    from sensor_msgs.msg import Image

    keypoints = client.listen(Keypoints, f"{NAME}/keypoints")
    diagnostics = client.diagnostics()
    pixels = textured(120, 160, seed=72)
    with running("temporal_matcher", log, {**PLAIN_SIFT, "use_sim_time": True}) as node:
        camera = client.publisher(Image, "/image")
        status = diagnostics.wait_for(NAME, lambda s: "nothing has come on /clock" in s.message, "no /clock")
        assert status.level == 1 and "use_sim_time" in status.message

        clock = client.node.create_publisher(Clock, "/clock", 10)
        seconds = [100.0]

        def tick() -> Any:
            seconds[0] += 0.1
            message = Clock()
            message.clock.sec, message.clock.nanosec = int(seconds[0]), int(seconds[0] % 1 * 1e9)
            clock.publish(message)
            return image_message(pixels, 0)

        # A camera that takes the machine's time, beside a simulation.
        status = sent_until(
            camera,
            tick,
            lambda: next((s for s in diagnostics.of(NAME) if "clocks disagree" in s.message), None),
            "clocks that disagree",
        )
        assert status.level == 1 and "images on /image" in status.message and "days) ahead of /clock" in status.message
        assert "nothing has come on /clock" not in diagnostics.of(NAME)[-1].message

        def simulated() -> bool:
            message = tick()
            set_stamp(message, int(seconds[0] * 1e9))
            camera.publish(message)
            status = diagnostics.of(NAME)[-1]
            return status.level == 0 and status.values["age p50 [ms]"] != ""

        wait_until(simulated, "clocks that agree", every=0.1)
        assert abs(float(diagnostics.of(NAME)[-1].values["age p50 [ms]"])) < 10_000
        assert keypoints
        for text in ("nothing has come on /clock", "clocks disagree"):
            assert len(warnings(node.output, text)) == 1, node.output

        # The simulation is reset, as by a bag that plays in a loop: the node begins anew with it.
        seconds[0] = 5.0
        wait_until(
            lambda: simulated() and any(stamp_of(m.header) < 50 * 10**9 for m in keypoints), "images of then", every=0.1
        )
        node.wait_for("time went back: matching begins anew")
        assert 0 <= float(diagnostics.of(NAME)[-1].values["age p50 [ms]"]) < 10_000
        assert "Traceback" not in node.output


def test_stereo_images_of_different_stamps(client: Client, log: Path, textured: Callable[..., np.ndarray]) -> None:
    from semantic_matcher_msgs.msg import Matches
    from sensor_msgs.msg import Image

    name, late = "/stereo_matcher", 4_000_000
    pixels = textured(100, 140, seed=73)
    matches = client.listen(Matches, f"{name}/matches")
    diagnostics = client.diagnostics()
    alone = "images without a partner"
    with running("stereo_matcher", log, PLAIN_SIFT) as node:
        cameras = [client.publisher(Image, f"/{side}/image") for side in ("left", "right")]

        def pair() -> None:
            stamp = time.time_ns()
            for camera, offset in zip(cameras, (0, late), strict=True):
                camera.publish(image_message(pixels, stamp + offset))

        def published(condition: Callable[[], Any], what: str, timeout: float = 60.0) -> Any:
            def attempt() -> Any:
                pair()
                return condition()

            return wait_until(attempt, what, timeout=timeout, every=0.1)

        published(lambda: len(matches) > 3, "matches")
        assert all(stamp_of(m.header) - stamp_of(m.reference_header) == late for m in matches)
        status = diagnostics.wait_for(name, lambda s: s.values.get("right after left p50 [ms]") == "4.000", "the gap")

        # Equal stamps are asked for: one warning soon, with the gap and what would do.
        assert client.set_parameter(name, "sync", "exact").successful
        begun = time.monotonic()
        status = published(
            lambda: next((s for s in diagnostics.of(name) if "found no partner" in s.message), None), "a warning"
        )
        # Within three seconds at 10 Hz, as promised: the node had no more images by then than come in that time. On a
        # machine that is busy they come more slowly, and so does the warning.
        print(f"warned after {time.monotonic() - begun:.1f} s")
        assert int(status.values[alone]) <= 2 * 3 * 10
        assert status.level == 1 and "4 ms apart (right later)" in status.message
        assert "sync:=approximate" in status.message and "slop:=0.006" in status.message
        refused = client.set_parameter(name, "slop", 0.006)
        assert not refused.successful and "no effect with sync 'exact'" in refused.reason
        assert client.set_parameter(name, "sync", "approximate").successful
        assert client.set_parameter(name, "slop", 0.006).successful
        count = len(matches)
        published(lambda: len(matches) > count + 3 and diagnostics.of(name)[-1].level == 0, "pairs again")
        assert len(warnings(node.output, "found no partner")) == 1

        # What was counted stays counted.
        total = int(diagnostics.of(name)[-1].values[alone])
        assert total > 0
        for label in ("deactivate", "activate"):
            assert client.change_state(name, label)
        before = len(diagnostics.of(name))
        published(lambda: len(diagnostics.of(name)) > before + 3, "diagnostics")
        assert min(int(s.values[alone]) for s in diagnostics.of(name)[before:]) >= total
        assert "Traceback" not in node.output


def test_all_stored_images_reach_a_late_subscriber(client: Client, log: Path, tmp_path: Path) -> None:
    import cv2
    from semantic_matcher_msgs.msg import Keypoints
    from semantic_matcher_msgs.srv import SetReference

    files = []
    for number in range(25):
        path = tmp_path / f"{number}.png"
        picture = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(picture, (160, 120)))
        files.append(str(path))
    name = "/reference_matcher"
    with running("reference_matcher", log, {**PLAIN_SIFT, "reference_images": files}):

        def latecomer() -> list[Any]:
            heard: list[Any] = []
            client.node.create_subscription(
                Keypoints, f"{name}/reference/keypoints", heard.append, profile(50, latched=True)
            )
            return heard

        heard = latecomer()
        wait_until(lambda: len(heard) >= 25, "all stored images")
        assert len(heard) == 25
        # Another reference: those from before are not told any more.
        image = image_message(cv2.imread(files[0]), 1)
        assert client.call(SetReference, f"{name}/set_reference", image=image, name="other").success
        heard = latecomer()
        wait_until(lambda: heard, "the new one")
        time.sleep(0.5)
        assert len(heard) == 1
