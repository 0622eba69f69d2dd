"""Bags of every kind, read and written; damaged ones, and full disks."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from semantic_matcher_core.errors import BagError, ImageError, OutputError
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.mcap import McapWriter
from semantic_matcher_core.io.messages import IMAGE, compressed_image_message, header_message, image_message, typestore

START = 1_700_000_000_000_000_000
PERIOD = 100_000_000
RECORDED = 7_000_000  # recording lags the exposure


def picture(index: int, height: int = 24, width: int = 32) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 6 * index, 50, 200
    return image


def write_ros2(path: Path, storage: StoragePlugin, mode: CompressionMode = CompressionMode.NONE) -> Path:
    store = get_typestore(Stores.ROS2_HUMBLE)
    writer = Ros2Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        raw = writer.add_connection("/camera/image", IMAGE, typestore=store)
        packed = writer.add_connection("/camera/image/compressed", "sensor_msgs/msg/CompressedImage", typestore=store)
        text = writer.add_connection("/chatter", "std_msgs/msg/String", typestore=store)
        writer.add_connection("/empty", IMAGE, typestore=store)
        for i in range(5):
            header = header_message(START + i * PERIOD, "camera_optical")
            stamp = START + i * PERIOD + RECORDED
            for connection, message in (
                (raw, image_message(picture(i), header)),
                (packed, compressed_image_message(picture(i), header)),
                (text, store.types["std_msgs/msg/String"](f"hello {i}")),
            ):
                writer.write(connection, stamp, store.serialize_cdr(message, connection.msgtype))
    return path


def write_ros1(path: Path, mode: Ros1Writer.CompressionFormat | None = None, chunk_bytes: int = 1 << 20) -> Path:
    store = get_typestore(Stores.ROS1_NOETIC)
    types = store.types
    writer = Ros1Writer(path)
    writer.chunk_threshold = chunk_bytes
    if mode is not None:
        writer.set_compression(mode)
    with writer:
        raw = writer.add_connection("/camera/image", IMAGE, typestore=store)
        packed = writer.add_connection("/camera/image/compressed", "sensor_msgs/msg/CompressedImage", typestore=store)
        text = writer.add_connection("/chatter", "std_msgs/msg/String", typestore=store)
        writer.add_connection("/empty", IMAGE, typestore=store)
        for i in range(5):
            seconds, nanoseconds = divmod(START + i * PERIOD, 1_000_000_000)
            header = types["std_msgs/msg/Header"](
                i, types["builtin_interfaces/msg/Time"](seconds, nanoseconds), "camera_optical"
            )
            new_raw, new_packed = image_message(picture(i), None), compressed_image_message(picture(i), None)
            for connection, message in (
                (raw, types[IMAGE](**{**vars(new_raw), "header": header})),
                (packed, types["sensor_msgs/msg/CompressedImage"](**{**vars(new_packed), "header": header})),
                (text, types["std_msgs/msg/String"](f"hello {i}")),
            ):
                stamp = START + i * PERIOD + RECORDED
                writer.write(connection, stamp, store.serialize_ros1(message, connection.msgtype))
    return path


def single_file(folder: Path, suffix: str) -> Path:
    (found,) = folder.glob(f"*{suffix}")
    return found


KINDS: dict[str, Callable[[Path], Path]] = {
    "ros1": lambda p: write_ros1(p / "bag.bag"),
    "ros1-bz2": lambda p: write_ros1(p / "bag.bag", Ros1Writer.CompressionFormat.BZ2),
    "ros1-lz4": lambda p: write_ros1(p / "bag.bag", Ros1Writer.CompressionFormat.LZ4),
    "sqlite3": lambda p: write_ros2(p / "bag", StoragePlugin.SQLITE3),
    "sqlite3-message-zstd": lambda p: write_ros2(p / "bag", StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
    "sqlite3-file-zstd": lambda p: write_ros2(p / "bag", StoragePlugin.SQLITE3, CompressionMode.FILE),
    "db3": lambda p: single_file(write_ros2(p / "bag", StoragePlugin.SQLITE3), ".db3"),
    "mcap": lambda p: write_ros2(p / "bag", StoragePlugin.MCAP),
    "mcap-zstd": lambda p: write_ros2(p / "bag", StoragePlugin.MCAP, CompressionMode.STORAGE),
    "mcap-file": lambda p: single_file(write_ros2(p / "bag", StoragePlugin.MCAP), ".mcap"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_bag(tmp_path: Path, kind: str) -> None:
    with BagReader(KINDS[kind](tmp_path)) as bag:
        assert [(t.name, t.count) for t in bag.image_topics][:2] == [
            ("/camera/image", 5),
            ("/camera/image/compressed", 5),
        ]
        assert bag.start_ns == START + RECORDED and bag.end_ns == START + 4 * PERIOD + RECORDED
        assert "/camera/image (5 of Image)" in bag.describe_topics()
        assert "/chatter (std_msgs/msg/String)" in bag.describe_topics()
        found = list(bag.images(["/camera/image", "/camera/image/compressed"]))
        raw = [i for i in found if i.topic == "/camera/image"]
        packed = [i for i in found if i.topic == "/camera/image/compressed"]
        assert len(raw) == len(packed) == 5
        for i, image in enumerate(raw):
            assert (image.index, image.stamp_ns, image.frame_id) == (i, START + i * PERIOD, "camera_optical")
            assert image.received_ns == image.stamp_ns + RECORDED
            assert np.array_equal(image.decode(), picture(i))
        for i, image in enumerate(packed):
            assert image.index == i and image.stamp_ns == START + i * PERIOD
            assert np.abs(image.decode().astype(int) - picture(i).astype(int)).max() < 8
        texts = list(bag.messages(["/chatter"]))
        assert [m.message.data for m in texts] == [f"hello {i}" for i in range(5)]


def test_errors_list_what_is_there(tmp_path: Path) -> None:
    with BagReader(write_ros2(tmp_path / "bag", StoragePlugin.MCAP)) as bag:
        with pytest.raises(BagError, match=r"no topic '/front'.*/camera/image \(5 of Image\).*/chatter"):
            next(bag.images(["/front"]))
        with pytest.raises(BagError, match=r"topic /chatter of .* carries std_msgs/msg/String; image topics: "):
            bag.require_images(["/chatter"])
        with pytest.raises(BagError, match=r"topic /empty of .* holds no message"):
            bag.require_images(["/empty"])
        assert bag.require_images(["camera/image"])[0].name == "/camera/image"


def test_a_bag_without_images(tmp_path: Path) -> None:
    store = typestore()
    with McapWriter(tmp_path / "text.mcap") as writer:
        writer.write("/chatter", store.types["std_msgs/msg/String"]("hello"), START)
    with BagReader(tmp_path / "text.mcap") as bag:
        assert bag.image_topics == []
        assert bag.describe_topics() == "image topics: none; other topics: /chatter (std_msgs/msg/String)"


def test_an_empty_bag(tmp_path: Path) -> None:
    with McapWriter(tmp_path / "empty.mcap"):
        pass
    with BagReader(tmp_path / "empty.mcap") as bag:
        assert bag.topics == [] and bag.describe_topics() == "the bag is empty"
        assert bag.start_ns == bag.end_ns == 0


def test_what_is_no_bag(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="no such bag"):
        BagReader(tmp_path / "absent.mcap")
    (tmp_path / "notes.txt").write_text("hello, this is text")
    with pytest.raises(BagError, match=r"notes\.txt is no recording.*MCAP"), BagReader(tmp_path / "notes.txt"):
        pass
    with pytest.raises(BagError, match=r"folder without metadata\.yaml"), BagReader(tmp_path):
        pass
    for suffix in (".mcap", ".db3", ".bag"):
        path = tmp_path / f"text{suffix}"
        for content, what in ((b"This is not a bag. " * 100, "no recording"), (b"", "empty"), (bytes(500), "zeros")):
            path.write_bytes(content)
            with pytest.raises(BagError, match=f"cannot read bag .*text{suffix}.*{what}") as caught, BagReader(path):
                pass
            assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("kind", ["mcap-file", "mcap-zstd", "sqlite3-file-zstd"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_of_a_truncated_mcap_the_rest_is_read(tmp_path: Path, kind: str, share: float) -> None:
    path = KINDS[kind](tmp_path)
    target = path
    if path.is_dir():
        (target,) = (p for p in path.iterdir() if p.suffix != ".yaml")
    data = target.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    problems: list[str] = []
    try:
        with BagReader(path, report=problems.append) as bag:
            found = sum(len(list(bag.images([topic.name]))) for topic in bag.image_topics if topic.count)
    except BagError as error:
        assert path.name in str(error) and "\n" not in str(error)
        assert kind == "sqlite3-file-zstd" or share <= 0.1
    else:
        assert problems and all(path.name in text for text in problems) and any("cut short" in t for t in problems)
        assert (found == 10) == (share > 0.98) or share < 0.98


@pytest.mark.parametrize("kind", ["ros1", "db3", "mcap-file"])
def test_damaged_bytes_raise_nothing_but_bag_and_image_errors(tmp_path: Path, kind: str) -> None:
    path = KINDS[kind](tmp_path)
    data = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(data)
        for position in random.integers(0, len(data), 60):
            damaged[position] = int(random.integers(0, 256))
        path.write_bytes(damaged)
        try:
            with BagReader(path) as bag:
                for image in bag.images(["/camera/image"]):
                    image.decode()
        except (BagError, ImageError) as error:
            assert str(error)


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    message = image_message(picture(0), header_message(START))
    message.encoding = "banana8"
    with McapWriter(tmp_path / "bad.mcap") as writer:
        writer.write("/camera/image", message, START)
    with BagReader(tmp_path / "bad.mcap") as bag:
        (image,) = bag.images(["/camera/image"])
        with pytest.raises(ImageError, match=r"image 0 of /camera/image: .*banana8"):
            image.decode()


def test_own_types_are_read_back_by_their_embedded_definitions(tmp_path: Path) -> None:
    definitions = {"robot_msgs/msg/Arm": "std_msgs/Header header\nfloat32[] angles\nJoint[] joints\n",
                   "robot_msgs/msg/Joint": "string name\n"}  # fmt: skip
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, text in definitions.items():
        store.register(get_types_from_msg(text, name))
    arm = store.types["robot_msgs/msg/Arm"](
        header_message(5), np.arange(3, dtype=np.float32), [store.types["robot_msgs/msg/Joint"]("elbow")]
    )
    with McapWriter(tmp_path / "arm.mcap", definitions=definitions) as writer:
        writer.write("/arm", arm, START)
    with BagReader(tmp_path / "arm.mcap") as bag:
        (read,) = bag.messages(["/arm"])
        assert read.msgtype == "robot_msgs/msg/Arm"
        assert read.message.angles.tolist() == [0, 1, 2] and read.message.joints[0].name == "elbow"


def write_some(path: Path, count: int = 40) -> Path:
    with McapWriter(path) as writer:
        for i in range(count):
            writer.write("/camera/image", image_message(picture(i, 100, 200), header_message(START + i)), START + i)
    return path


def test_mcap_bytes_depend_on_content_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert write_some(tmp_path / "a" / "out.mcap").read_bytes() == write_some(tmp_path / "b" / "out.mcap").read_bytes()


def test_mcap_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    with pytest.raises(KeyError), McapWriter(path) as writer:
        writer.write("/camera/image", image_message(picture(0), header_message(0)), 0)
        assert not path.exists()
        raise KeyError("boom")
    assert not list(tmp_path.iterdir())
    write_some(path, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mcap"]
    write_some(path, 2)
    with BagReader(path) as bag:
        assert bag.topics[0].count == 2


def test_mcap_serialized_messages(tmp_path: Path) -> None:
    data = typestore().serialize_cdr(image_message(picture(3), header_message(START)), IMAGE)
    with McapWriter(tmp_path / "out.mcap") as writer:
        writer.write_serialized("/camera/image", IMAGE, bytes(data), START)
    with BagReader(tmp_path / "out.mcap") as bag:
        (image,) = bag.images(["/camera/image"])
        assert np.array_equal(image.decode(), picture(3))
        assert next(bag.serialized(["/camera/image"])) == ("/camera/image", IMAGE, START, bytes(data))


def test_mcap_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"must end in \.mcap"):
        McapWriter(tmp_path / "out.bag")
    with pytest.raises(OutputError, match="create it first"):
        McapWriter(tmp_path / "missing" / "out.mcap")
    writer = McapWriter(tmp_path / "out.mcap")
    with pytest.raises(OutputError, match="not open"):
        writer.write("/t", image_message(picture(0), header_message(0)), 0)
    with writer:
        with pytest.raises(BagError, match="not a message of rosbags"):
            writer.write("/t", "text", 0)
        with pytest.raises(BagError, match="robot_msgs/msg/Arm is not known"):
            writer.write_serialized("/t", "robot_msgs/msg/Arm", b"", 0)
        writer.write("/t", image_message(picture(0), header_message(0)), 0)


class _SmallDisk(BytesIO):
    """A file on a disk of 300 KB."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 300_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_some(tmp_path / "out.mcap", 1)
    before = path.read_bytes()
    real_open = Path.open

    def small_open(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return _SmallDisk() if "x" in mode else real_open(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", small_open)
    noise = np.random.default_rng(0).integers(0, 255, (400, 500, 3), dtype=np.uint8)
    with pytest.raises(OutputError, match=r"cannot write .*out\.mcap: the disk is full"), McapWriter(path) as writer:
        for i in range(8):
            writer.write("/camera/image", image_message(noise, header_message(i)), i)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["out.mcap"] and path.read_bytes() == before


def test_a_missing_split_file_is_named(tmp_path: Path) -> None:
    folder = write_ros2(tmp_path / "bag", StoragePlugin.SQLITE3)
    single_file(folder, ".db3").unlink()
    with pytest.raises(BagError, match=r"that names bag\.db3"), BagReader(folder):
        pass
    shutil.rmtree(folder)


def test_other_readers_read_it(tmp_path: Path) -> None:
    reader = pytest.importorskip("mcap.reader", reason="mcap is not installed")
    decoder = pytest.importorskip("mcap_ros2.decoder", reason="mcap-ros2-support is not installed")
    pytest.importorskip("zstandard", reason="zstandard is not installed")
    with write_some(tmp_path / "out.mcap", 30).open("rb") as file:
        bag = reader.make_reader(file, validate_crcs=True, decoder_factories=[decoder.DecoderFactory()])
        assert bag.get_summary().statistics.message_count == 30
        for i, (schema, channel, message, image) in enumerate(bag.iter_decoded_messages()):
            assert (schema.name, schema.encoding, channel.topic) == (IMAGE, "ros2msg", "/camera/image")
            assert message.log_time == START + i and image.header.frame_id == ""
            assert bytes(image.data) == picture(i, 100, 200).tobytes()
