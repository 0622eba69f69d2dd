"""The rules by which nodes judge a graph, without a graph."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.ros.conftest import _require_ros


@pytest.fixture(autouse=True)
def needs_ros() -> None:
    _require_ros()


def test_the_calibration_is_beside_the_images() -> None:
    from semantic_matcher.image_input import info_topic

    assert info_topic("/camera/image_raw") == "/camera/camera_info"
    assert info_topic("/rig/left/image_rect") == "/rig/left/camera_info"
    assert info_topic("/image") == "/camera_info"


@pytest.mark.parametrize(
    ("stamp", "now", "sim_time", "text"),
    [
        (1.7e9, 1.7e9 + 0.2, False, ""),
        (1.7e9 + 0.5, 1.7e9, False, ""),
        (1.7e9, 1.7e9 + 8.0, False, ""),
        (1.7e9 + 2.0, 1.7e9, False, "2.0 s ahead of this machine's clock"),
        (1.6e9, 1.7e9, False, "set use_sim_time to true and play it with --clock"),
        (12.5, 1.7e9, False, "count from the start of a device"),
        (1.7e9, 50.0, True, "does not take its time from /clock"),
        (20.0, 50.0, True, "30.0 s behind /clock"),
        (49.0, 50.0, True, ""),
    ],
)
def test_which_clock_disagrees(stamp: float, now: float, sim_time: bool, text: str) -> None:
    from semantic_matcher.clocks import clock_disagreement

    said = clock_disagreement("/image", stamp, now, sim_time)
    assert (text in said and "/image" in said) if text else said == ""


def test_a_problem_is_logged_once_and_its_end_too() -> None:
    from semantic_matcher.problems import Problems

    logged: list[tuple[str, str]] = []
    logger: Any = SimpleNamespace(
        warning=lambda text: logged.append(("warning", text)), info=lambda text: logged.append(("info", text))
    )
    problems = Problems(logger)
    for seconds in range(5, 8):
        problems.set("silence", f"no image for {seconds} s", kind="nobody publishes")
    assert problems.now() == ["no image for 7 s"] and problems.has("silence")
    problems.set("silence", "no image for 8 s: 1 publisher", kind="1 publisher")
    problems.set("silence", "")
    problems.set("silence", "")
    assert problems.now() == [] and not problems.has("silence")
    # Back within seconds: shown again, not logged again.
    problems.set("silence", "no image for 5 s: 1 publisher", kind="1 publisher")
    assert problems.now() == ["no image for 5 s: 1 publisher"]
    # What keeps two things from being made is said once, and is over when it is over for both.
    for subject in ("points", "odometry"):
        problems.set(subject, "no camera_info")
    assert problems.now()[1:] == ["no camera_info"]
    problems.set("points", "")
    assert problems.now()[1:] == ["no camera_info"]
    problems.set("odometry", "")
    assert logged[3:] == [("warning", "no camera_info"), ("info", "over: no camera_info")]
    assert logged[:3] == [
        ("warning", "no image for 5 s"),
        ("warning", "no image for 8 s: 1 publisher"),
        ("info", "over: no image for 8 s: 1 publisher"),
    ]


@pytest.mark.parametrize(
    ("images", "rectified", "words"),
    [
        (
            "/camera/image_rect",
            False,
            "rectified is false, but images on /camera/image_rect are rectified by their name",
        ),
        ("/zed/rgb/color/rect/image", False, "set rectified to true"),
        ("/camera/image_raw", True, "images on /camera/image_raw are raw by their name"),
        ("/camera/image_rect_color", True, ""),
        ("/camera/infra1/image_rect_raw", True, ""),
        ("/camera/image_raw", False, ""),
        ("/rectory/rawhide", False, ""),
        ("/rectory/rawhide", True, ""),
    ],
)
def test_images_that_are_named_otherwise_than_they_are_taken_are_told(images: str, rectified: bool, words: str) -> None:
    from semantic_matcher.calibration import rectification_doubt

    doubt = rectification_doubt(images, "/camera/camera_info", rectified)
    assert words in doubt and bool(words) == bool(doubt)


def test_the_quality_of_service_is_what_all_publishers_offer() -> None:
    from rclpy.qos import QoSProfile

    from semantic_matcher.qos import input_qos, mismatch

    def offer(reliability: str, durability: str = "volatile") -> QoSProfile:
        from rclpy.qos import QoSDurabilityPolicy, QoSReliabilityPolicy

        return QoSProfile(
            depth=1,
            reliability=QoSReliabilityPolicy[reliability.upper()],
            durability=QoSDurabilityPolicy[durability.upper()],
        )

    reliable, best_effort, latched = offer("reliable"), offer("best_effort"), offer("reliable", "transient_local")
    for offers, expected in (
        ([], best_effort),
        ([reliable], reliable),
        ([best_effort], best_effort),
        ([latched], latched),
        ([latched, reliable], reliable),
        ([latched, best_effort], best_effort),
        ([offer("best_effort", "transient_local")], best_effort),
    ):
        chosen = input_qos(5, offers)
        assert (chosen.reliability, chosen.durability) == (expected.reliability, expected.durability)
        assert all(mismatch(given, chosen) == "" for given in offers)
    assert mismatch(best_effort, reliable) == "reliability"
    assert mismatch(reliable, latched) == "durability"


class _Input:
    """An ``ImageInput`` of a node that nobody sees, whose subscription is described by hand."""

    def __new__(cls, reliable: bool, offers: list[str], problems: dict[str, str]) -> Any:
        from rclpy.qos import QoSReliabilityPolicy

        from semantic_matcher.image_input import ImageInput
        from semantic_matcher.node_statistics import Statistics

        infos = [SimpleNamespace(qos_profile=SimpleNamespace(reliability=QoSReliabilityPolicy[o])) for o in offers]
        image_input = ImageInput.__new__(ImageInput)
        image_input.topic, image_input._name = "/image", "image"
        image_input._subscription = SimpleNamespace(
            publishers=lambda: infos,
            qos=SimpleNamespace(reliability=QoSReliabilityPolicy["RELIABLE" if reliable else "BEST_EFFORT"]),
        )
        image_input._node = SimpleNamespace(
            statistics=Statistics(),
            set_problem=lambda subject, text, kind="": problems.__setitem__(subject, text),
            has_problem=lambda subject: bool(problems.get(subject)),
        )
        return image_input


@pytest.mark.parametrize(
    ("reliable", "offers", "remedy"),
    [
        (False, ["RELIABLE"], "image_reliability:=auto"),
        (False, ["BEST_EFFORT"], "have it publish reliably"),
        (True, ["RELIABLE"], "fastdds_large_messages.xml"),
    ],
)
def test_losses_are_told_with_their_number_and_remedy(reliable: bool, offers: list[str], remedy: str) -> None:
    problems: dict[str, str] = {}
    image_input = _Input(reliable, offers, problems)
    statistics = image_input._node.statistics
    statistics.count("received:image", 40)
    image_input._count_lost(1)
    image_input._warn_of_losses()
    assert problems == {"losses of /image": ""}
    image_input._count_lost(9)
    image_input._warn_of_losses()
    text = problems["losses of /image"]
    assert text.startswith("10 of 50 images on /image were lost on the way") and remedy in text
    assert statistics.total("lost") == 10
    # Over when hardly any are lost, not at the first sign of it.
    statistics.count("received:image", 200)
    image_input._warn_of_losses()
    assert problems["losses of /image"]
    statistics.count("received:image", 800)
    image_input._warn_of_losses()
    assert problems == {"losses of /image": ""}


def test_nodes_receive_through_sockets_that_hold_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    from xml.etree import ElementTree

    from semantic_matcher.fastdds_profile import (
        NODE_PROFILE_NAME,
        PROFILE_NAME,
        SOCKET_BUFFER,
        node_environment,
        profile_path,
    )

    jazzy = "FASTRTPS_DEFAULT_PROFILES_FILE"
    assert node_environment({}, SOCKET_BUFFER)[jazzy] == str(profile_path(NODE_PROFILE_NAME))
    assert node_environment({}, SOCKET_BUFFER - 1)[jazzy] == str(profile_path(PROFILE_NAME))
    # What launch files set for all they start is no choice of the user's; another file is.
    assert node_environment({jazzy: str(profile_path())}, SOCKET_BUFFER)[jazzy].endswith(NODE_PROFILE_NAME)
    assert node_environment({jazzy: "/home/me/profile.xml"}, SOCKET_BUFFER) == {}
    assert node_environment({"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}, SOCKET_BUFFER) == {}
    ElementTree.parse(profile_path(NODE_PROFILE_NAME))


@pytest.mark.parametrize("rate", [2, 10, 60])
def test_stamps_four_milliseconds_apart_are_named_within_three_seconds(rate: int) -> None:
    from std_msgs.msg import Header

    from semantic_matcher.matcher_node import _REVIEW_S
    from semantic_matcher.node_statistics import Statistics
    from semantic_matcher.stereo_pairing import StereoPairing

    settings = SimpleNamespace(sync="exact", slop=0.0, queue_size=10)
    pairing = StereoPairing(settings, Statistics())
    # What has come when the node looks at it for the last time within three seconds.
    for i in range(int((3.0 - _REVIEW_S) * rate)):
        for side, late in (("left", 0), ("right", 4_000_000)):
            stamp = 1_000_000_000 + i * 1_000_000_000 // rate + late
            header = Header()
            header.stamp.sec, header.stamp.nanosec = divmod(stamp, 1_000_000_000)
            assert pairing.add(side, SimpleNamespace(header=header)) is None
    assert "4 ms apart (right later); sync:=approximate pairs them, also with slop:=0.006" in pairing.trouble()
    settings = SimpleNamespace(sync="approximate", slop=0.002, queue_size=10)
    pairing.take(settings)
    assert pairing.trouble() == ""


@pytest.mark.parametrize(
    ("offset_s", "text"),
    [
        (0.9, "right is stamped 867 ms later: synchronise the two cameras' clocks"),
        (-5.0, "left is stamped 5 s later: synchronise the two cameras' clocks"),
        (-1e9, "one side has none, or a device's own clock: have its driver stamp with the time of the host"),
    ],
)
def test_clocks_of_two_cameras_that_differ_are_told_as_such(offset_s: float, text: str) -> None:
    from std_msgs.msg import Header

    from semantic_matcher.node_statistics import Statistics
    from semantic_matcher.stereo_pairing import StereoPairing

    pairing = StereoPairing(SimpleNamespace(sync="approximate", slop=0.0, queue_size=10), Statistics())
    # Longer than what the synchroniser remembers, so that of each stamp there was a like one of the other side.
    for i in range(400):
        for side, late in (("left", 0), ("right", round(offset_s * 1e9))):
            header = Header()
            header.stamp.sec, header.stamp.nanosec = divmod(1_700_000_000 * 10**9 + i * 33_000_000 + late, 10**9)
            pairing.add(side, SimpleNamespace(header=header))
    assert text in pairing.trouble()


def test_an_error_holds_until_an_image_is_processed() -> None:
    from semantic_matcher.node_statistics import Statistics

    now = [100.0]
    statistics = Statistics(lambda: now[0])
    assert not statistics.error_holds(1.0)
    statistics.count("processed")
    now[0] += 1
    statistics.error("image refused")
    # Of a camera of one image in five seconds, all of which are refused.
    now[0] += 5
    assert statistics.error_holds(1.0)
    statistics.count("processed")
    assert not statistics.error_holds(1.0)
    statistics.error("image refused")
    now[0] += 0.5
    statistics.count("processed")
    assert statistics.error_holds(1.0)
    statistics.error("image refused")
    now[0] += 11
    assert not statistics.error_holds(1.0)


def test_an_error_is_logged_again_after_a_while_and_another_at_once() -> None:
    from semantic_matcher.problems import Throttle

    now = [10.0]
    throttle = Throttle(5.0, different=3, clock=lambda: now[0])
    assert throttle.passes("a") and not throttle.passes("a")
    now[0] += 1
    # Of two cameras' errors neither hides the other; those that are another each time do not flood the log.
    assert throttle.passes("b") and throttle.passes("c") and not throttle.passes("d")
    now[0] += 4
    assert throttle.passes("a") and not throttle.passes("b") and not throttle.passes("d")
    now[0] += 5
    assert throttle.passes("d")


def test_what_a_publisher_numbered_and_nobody_took_is_counted_once() -> None:
    from semantic_matcher.sequence_gaps import SequenceGaps

    there = [{b"a"}]
    gaps = SequenceGaps(lambda: frozenset(there[0]))

    def after(*numbers: int | None) -> int:
        for number in numbers:
            gaps.note(number)
        return gaps.newly_unexplained()

    # Where it began is no gap; one of three and one of two are, until the middleware explains them.
    assert after(7, 8) == 0 and after(12) == 3 and after(13, 15) == 1 and after(16) == 0
    gaps.explained += 3
    assert gaps.newly_unexplained() == -3
    gaps.explained += 2
    # Of a loss the middleware may tell before the next message comes.
    assert gaps.newly_unexplained() == -1 and after(18) == 0
    # One that comes again (kept for who subscribes later), a driver that starts anew, two at once, no numbers.
    assert after(18, 3, 1) == 0
    there[0] = {b"b"}
    assert after(5, 6) == 0 and after(8) == 1
    there[0] = {b"b", b"c"}
    assert after(500, 9, 501, 10, 600) == 0
    assert after(None, 0, 2**64 - 1, 601) == 0
    there[0] = {b"b"}
    gaps.begin()
    assert after(900, 901) == 0
    # The graph may know of a publisher later than its first messages come.
    known: set[bytes] = set()
    gaps = SequenceGaps(lambda: frozenset(known))
    assert after(1) == 0
    known.add(b"a")
    assert after(2, 9) == 6


class _Judged:
    """What the rules ask of a node: statistics under a clock of one's own, parameters, and the problems it has."""

    def __init__(self, **parameters: Any) -> None:
        from semantic_matcher.node_statistics import Statistics

        self.seconds = 100.0
        self.statistics = Statistics(lambda: self.seconds)
        self.parameters = SimpleNamespace(values=SimpleNamespace(**parameters))
        self.problems: dict[str, str] = {}

    def set_problem(self, subject: str, text: str, kind: str = "", *, error: bool = False) -> None:
        self.problems[subject] = text

    def has_problem(self, subject: str) -> bool:
        return bool(self.problems.get(subject))

    def resolve_topic_name(self, name: str) -> str:
        return f"/{name}"

    def texts(self) -> list[str]:
        return [text for text in self.problems.values() if text]


@pytest.mark.parametrize(
    ("why", "words"),
    [("out of order", "their time stamps repeat"), ("stale", "they were older than max_image_age (0.5 s)")],
)
def test_images_that_are_skipped_are_told_with_their_share(why: str, words: str) -> None:
    from semantic_matcher.skipped import warn_of_skipped

    node = _Judged(max_image_age=0.5)

    def come(skipped: int, processed: int, source: str) -> None:
        for event, count in ((why, skipped), ("processed", processed)):
            node.statistics.count(event, count)
            node.statistics.count(f"{event}:{source}", count)
        warn_of_skipped(node)

    # One now and then is no trouble, nor are few of many; of two cameras each has its own share.
    come(2, 1, "front")
    come(5, 100, "front")
    assert node.texts() == []
    come(9, 0, "rear")
    (text,) = node.texts()
    assert text.startswith("9 of 9 images of rear in the last 10 s were skipped") and words in text
    # Over when hardly any are; and when none come any more.
    come(0, 60, "rear")
    assert node.texts()
    come(0, 60, "rear")
    assert node.texts() == []
    come(40, 0, "rear")
    assert node.texts()
    node.seconds += 11
    come(0, 0, "rear")
    assert node.texts() == []


def test_cameras_that_stamp_all_images_alike_are_told_as_such() -> None:
    from std_msgs.msg import Header

    from semantic_matcher.node_statistics import Statistics
    from semantic_matcher.stereo_pairing import StereoPairing

    pairing = StereoPairing(SimpleNamespace(sync="approximate", slop=0.0, queue_size=10), Statistics())
    header = Header()
    header.stamp.sec = 1_700_000_000
    for _ in range(10):
        for side in ("left", "right"):
            pairing.add(side, SimpleNamespace(header=header))
    assert "of 18 the time stamps repeat" in pairing.trouble()


@pytest.mark.parametrize("every", [2, 0])
def test_images_without_depth_are_told_with_their_share(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from std_msgs.msg import Header

    from semantic_matcher import depth_input

    subscription = SimpleNamespace(topic="/depth", is_open=False, review=lambda: None, publishers=lambda: [1])
    subscription.open = lambda: vars(subscription).update(is_open=True)
    subscription.close = lambda: vars(subscription).update(is_open=False)
    monkeypatch.setattr(depth_input, "FollowingSubscription", lambda *_, **__: subscription)
    node, pairs, wanted = _Judged(), [], [True]
    depths = depth_input.DepthInput(node, pairs.append, lambda: wanted[0])
    depths.review()
    # Half as many depth images as images, or none; their stamps are the images'.
    for i in range(40):
        header = Header()
        header.stamp.sec, header.stamp.nanosec = divmod(10**18 + i * 33_000_000, 10**9)
        node.statistics.count("received:image")
        depths.add_image(SimpleNamespace(header=header))
        if every and i % every == 0:
            depths._add_depth(SimpleNamespace(header=header))
    depths.review()
    (text,) = node.texts()
    if every:
        # The last one may still get its depth.
        assert text.startswith("19 of 40 images in the last 10 s were left out") and "(20 depth images came)" in text
        assert len(pairs) == 20
    else:
        assert text.startswith("no depth on /depth for 40 images")
    # Nobody listens: depth is not taken either.
    assert subscription.is_open
    wanted[0] = False
    depths.review()
    assert not subscription.is_open


def test_of_several_publishers_is_told_whatever_they_publish() -> None:
    from rclpy.qos import QoSProfile

    from semantic_matcher.following import FollowingSubscription
    from semantic_matcher.sequence_gaps import SequenceGaps

    node = _Judged()
    infos = [
        SimpleNamespace(topic_type="T", qos_profile=QoSProfile(depth=1), node_name=name, node_namespace="/")
        for name in ("one", "two")
    ]
    following = FollowingSubscription.__new__(FollowingSubscription)
    vars(following).update(
        topic="/camera_info", _node=node, _type_name="T", _what="calibrations", _overrides={}, _reliability="auto",
        _depth=1, _destroyed=False, _subscription=None, _qos=QoSProfile(depth=1), _overrun=lambda number: None,
        _gaps=SequenceGaps(frozenset), _endpoints=lambda: infos,
    )  # fmt: skip
    following.review()
    assert node.texts() == ["2 publishers on /camera_info: their calibrations are mixed (/one, /two)"]
    following.leave()
    assert node.texts() == []


@pytest.mark.parametrize(
    ("frame", "child", "words"),
    [("", "dock", "no frame_id"), ("odom", "", "no frame_id"), ("map", "map", "both are 'map'"), ("cam", "dock", "")],
)
def test_transforms_without_frames_are_not_published(frame: str, child: str, words: str) -> None:
    from std_msgs.msg import Header

    from semantic_matcher.tf_output import TransformOutput
    from semantic_matcher_core.motion.pose import Pose

    sent: list[Any] = []
    output = TransformOutput.__new__(TransformOutput)
    output._node = node = _Judged()
    output._publisher = SimpleNamespace(publish=sent.append)
    output._messages = SimpleNamespace(TFMessage=lambda transforms: transforms)
    output.publish(Header(frame_id=frame), child, Pose())
    assert (len(sent), len(node.texts())) == ((0, 1) if words else (1, 0))
    assert not words or words in node.texts()[0]


@pytest.mark.parametrize(
    ("base", "topic", "kind", "hint"),
    [
        ("/camera/image", "/camera/image/compressed", "CompressedImage", "image_transport:=compressed"),
        ("/camera/image", "/camera/image/ffmpeg", "FFMPEGPacket", "/camera/image/ffmpeg has them: decompress it with"),
        ("/camera/image", "/camera/image/depth", "PointCloud2", ""),
        ("/camera/image/compressed", "/camera/image", "Image", "image_transport:=raw"),
        ("/camera/image", "/camera/image_rect", "PointCloud2", ""),
    ],
)
def test_images_of_another_transport_are_named_with_the_remedy(base: str, topic: str, kind: str, hint: str) -> None:
    from semantic_matcher.image_input import ImageInput

    node = _Judged(no_image_warning_period=5.0)
    published = {topic: [SimpleNamespace(topic_type=f"sensor_msgs/msg/{kind}")]}
    vars(node).update(
        get_publishers_info_by_topic=lambda name: published.get(name, []),
        get_fully_qualified_name=lambda: "/node",
        count_publishers=lambda name: name in published,
        get_topic_names_and_types=lambda: [(name, [info.topic_type]) for name, (info,) in published.items()],
    )
    images = ImageInput.__new__(ImageInput)
    vars(images).update(
        _node=node, _name="image", base=base.removesuffix("/compressed"), topic=base, _opened_at=0.0,
        _subscription=SimpleNamespace(is_open=True, publishers=list),
    )  # fmt: skip
    node.seconds += 60.0
    images._warn_of_silence()
    (text,) = node.texts()
    assert text.startswith(f"no image on {base} for ") and "it has no publisher" in text
    assert (hint in text and topic in text) if hint else "remap it" in text


@pytest.mark.parametrize(
    ("given", "values", "said"),
    [
        ({"publish_tf": True, "mount": "0 0 1 0 0 0"}, {"odometry": False}, "unless odometry is set"),
        ({"odom_frame": "odom"}, {"odometry": False}, ""),  # the default, as launch files give it
        ({"every_nth": 3}, {"reference_policy": "keyframe"}, "unless reference_policy is every_nth"),
        ({"publish_tf": True}, {"odometry": True}, ""),
        ({"publish_tf": False}, {"odometry": False}, ""),
        ({"publish_tf": True}, {"reference_width": 0.0}, "unless reference_width is set"),
        ({"variant": "xfeat", "descriptor": "alike-t"}, {"variant": "xfeat"}, "descriptor 'alike-t' is without effect"),
    ],
)
def test_parameters_that_do_nothing_because_of_others_are_named(
    given: dict[str, Any], values: dict[str, Any], said: str
) -> None:
    from semantic_matcher.declared_parameters import ignored
    from semantic_matcher_core.options import TABLES

    node: Any = SimpleNamespace(_parameter_overrides={n: SimpleNamespace(value=v) for n, v in given.items()})
    tables = {spec.name: spec for table in TABLES.values() for spec in table}
    texts = ignored(node, SimpleNamespace(**values), tables.values())
    assert len(texts) == (len(given) - ("variant" in given) if said else 0)
    assert all(said in text for text in texts)
    assert "variant" in given or all(text.split()[0] in given for text in texts)


def test_what_a_lowered_queue_size_gives_up_is_counted() -> None:
    from std_msgs.msg import Header

    from semantic_matcher.node_statistics import Statistics
    from semantic_matcher.stereo_pairing import StereoPairing

    def image(number: int) -> Any:
        header = Header()
        header.stamp.sec, header.stamp.nanosec = divmod(10**18 + number * 33_000_000, 10**9)
        return SimpleNamespace(header=header, number=number)

    statistics = Statistics()
    pairing = StereoPairing(SimpleNamespace(sync="exact", slop=0.0, queue_size=10), statistics)
    for number in range(8):
        assert pairing.add("left", image(number)) is None
    assert statistics.recent("unpaired") == 0
    pairing.take(SimpleNamespace(sync="exact", slop=0.0, queue_size=3))
    pairing.add("left", image(8))
    assert statistics.recent("unpaired") == 6
    # The newest three still wait.
    pair = pairing.add("right", image(7))
    assert pair is not None and pair[0].number == 7


def test_a_geometric_check_that_cannot_be_made_is_refused_before_the_first_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from semantic_matcher.matching_model import geometry_refusal
    from semantic_matcher_core.geometry import robust

    def asked(**settings: str) -> str:
        return geometry_refusal(SimpleNamespace(**settings))

    monkeypatch.setattr(robust, "poselib", None)
    assert "take geometry_backend magsac" in asked(geometry="homography", geometry_backend="poselib")
    assert asked(geometry="homography", geometry_backend="magsac") == ""
    assert asked(geometry="none", geometry_backend="poselib") == asked() == ""
