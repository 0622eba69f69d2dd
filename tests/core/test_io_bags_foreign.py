"""Bags that other tools wrote, single files out of bags, folders without metadata; nothing is lost in silence."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType, Writer
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from semantic_matcher_core.errors import BagError, ImageError
from semantic_matcher_core.io.bag_mcap import McapPart
from semantic_matcher_core.io.bags import BagReader
from tests.core.mcap_files import TOPIC, VARIANTS, image_bytes, without_footer, write_mcap
from tests.core.recordings import PERIOD_NS, START_NS, view, write_camera_bag
from tests.core.test_io_bags import single_file, write_ros2


def stamps(path: Path, problems: list[str] | None = None) -> list[int]:
    """Numbers of the images that are read, in the order they come."""
    found: list[str] = []
    with BagReader(path, report=found.append) as bag:
        numbers = [(image.stamp_ns - START_NS) // PERIOD_NS for image in bag.images([bag.only_image_topic().name])]
    if problems is None:
        assert not found
    else:
        problems += found
    return numbers


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layout_of_mcap_gives_every_image(tmp_path: Path, textured_image: np.ndarray, variant: str) -> None:
    path = write_mcap(tmp_path / "in.mcap", textured_image, **VARIANTS[variant])
    assert stamps(path) == list(range(8))
    with BagReader(path) as bag:
        assert bag.only_image_topic().count == 8 and bag.end_ns - bag.start_ns == 7 * PERIOD_NS
        for i, image in enumerate(bag.images([TOPIC])):
            assert image.frame_id == "camera_optical" and np.array_equal(image.decode(), view(textured_image, i))


@pytest.mark.parametrize("name", ["UP.MCAP", "no_suffix", "data.bin"])
def test_names_decide_nothing(tmp_path: Path, textured_image: np.ndarray, name: str) -> None:
    assert stamps(write_mcap(tmp_path / name, textured_image)) == list(range(8))
    folder = write_ros2(tmp_path / "bag", StoragePlugin.SQLITE3)
    moved = tmp_path / name.replace("MCAP", "DB3")
    single_file(folder, ".db3").rename(moved)
    with BagReader(moved) as bag:
        assert len(list(bag.images(["/camera/image"]))) == 5


def test_where_no_image_is_left_the_error_says_what_is_missing(tmp_path: Path, textured_image: np.ndarray) -> None:
    path = write_mcap(tmp_path / "in.mcap", textured_image, compression=CompressionType.NONE)
    data = path.read_bytes()
    # The channel is there, its first message is not whole.
    path.write_bytes(data[: data.index(image_bytes(textured_image, 0)) + 1000])
    with pytest.raises(BagError, match=r"\(0 of Image\); it is cut short after \d+ bytes"), BagReader(path) as bag:
        bag.only_image_topic()


def test_foreign_channels_are_described_as_they_are(tmp_path: Path, textured_image: np.ndarray) -> None:
    path = write_mcap(tmp_path / "in.mcap", textured_image, foreign=True)
    with BagReader(path) as bag:
        assert bag.describe_topics() == (
            "image topics: /camera/image (8 of Image); other topics: /raw (no type in no encoding), "
            "/status (status in json)"
        )
        with pytest.raises(BagError, match="carries status in json"):
            bag.require_images(["/status"])


@pytest.mark.parametrize("storage", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_one_file_out_of_a_compressed_bag(tmp_path: Path, storage: StoragePlugin, mode: CompressionMode) -> None:
    folder = write_ros2(tmp_path / "bag", storage, mode)
    (file,) = (p for p in folder.iterdir() if p.suffix != ".yaml")
    for path in (file, folder):
        with BagReader(path) as bag:
            assert [t.count for t in bag.image_topics][:2] == [5, 5]
            assert len(list(bag.images(["/camera/image"]))) == 5 and not bag.problems
            assert [m.message.data for m in bag.messages(["/chatter"])] == [f"hello {i}" for i in range(5)]
    (folder / "metadata.yaml").unlink()
    with BagReader(folder) as bag:
        assert len(list(bag.images(["/camera/image"]))) == 5
        assert not bag.problems


def test_a_split_bag_without_metadata_is_read_and_not_called_incomplete(
    tmp_path: Path, textured_image: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "drive"
    folder.mkdir()
    # Ten and more: natural order, not that of characters.
    for i in range(12):
        write_mcap(folder / f"drive_{i}.mcap", textured_image, order=[2 * i, 2 * i + 1])
    assert stamps(folder) == list(range(24)) and "no metadata.yaml that can be read" in caplog.text
    for damaged in ("rosbag2_bagfile_information:\n  version", "", "[" * 3000):
        (folder / "metadata.yaml").write_text(damaged)
        assert stamps(folder) == list(range(24))
    (folder / "metadata.yaml").unlink()
    shutil.copy(folder / "drive_0.mcap", folder / "other.mcap")
    with pytest.raises(BagError, match=r"several bags; name one: drive_0\.mcap, .*other\.mcap"), BagReader(folder):
        pass


def test_a_folder_is_read_as_far_as_it_is_there(
    tmp_path: Path, textured_image: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "drive"
    folder.mkdir()
    for i in range(3):
        write_mcap(folder / f"drive_{i}.mcap", textured_image, order=[2 * i, 2 * i + 1])

    def with_metadata(*names: str) -> None:
        text = f"rosbag2_bagfile_information:\n  relative_file_paths: [{', '.join(names)}]\n"
        (folder / "metadata.yaml").write_text(text)

    # A file that was not copied, and one that the recorder did not get to write, cost themselves.
    problems: list[str] = []
    with_metadata("drive_0.mcap", "drive_1.mcap", "drive_2.mcap", "drive_3.mcap")
    assert stamps(folder, problems) == list(range(6))
    assert len(problems) == 1 and "these are missing: drive_3.mcap" in problems[0]
    with_metadata("drive_0.mcap", "drive_1.mcap", "drive_2.mcap")
    (folder / "drive_1.mcap").rename(tmp_path / "aside")
    (folder / "drive_1.mcap").touch()
    problems.clear()
    assert stamps(folder, problems) == [0, 1, 4, 5]
    assert len(problems) == 1 and "drive_1.mcap is empty (0 bytes); this file of it is left out" in problems[0]
    (tmp_path / "aside").rename(folder / "drive_1.mcap")
    # Files that are not named, and files under other names, lose nothing of the recording, but it is said.
    with_metadata("drive_0.mcap")
    assert stamps(folder) == [0, 1] and "which are not read: drive_1.mcap, drive_2.mcap" in caplog.text
    with_metadata("before_0.mcap", "before_1.mcap")
    assert stamps(folder) == list(range(6)) and "names none of its files" in caplog.text
    for path in folder.glob("*.mcap"):
        path.write_bytes(b"")
    with pytest.raises(BagError, match=r"no message of it can be read: drive_0\.mcap is empty"), BagReader(folder):
        pass


def test_metadata_that_would_fill_the_memory_is_left(tmp_path: Path, textured_image: np.ndarray) -> None:
    write_camera_bag(tmp_path / "walk_0.mcap", textured_image, count=3)
    lines = ["rosbag2_bagfile_information:", "  relative_file_paths: [walk_0.mcap]", "  a0: &a0 [x]"]
    lines += [f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    lines += ["  topics_with_message_count: [{topic_metadata: {name: *a9}, message_count: 1}]"]
    (tmp_path / "metadata.yaml").write_text("\n".join(lines), encoding="utf-8")
    with BagReader(tmp_path) as bag:
        assert len(list(bag.images(["/camera/image"]))) == 3


def test_thousands_of_channels_are_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, path = 300, tmp_path / "many.mcap"
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=1000)
        writer.start(profile="ros2", library="x")
        for i in range(count):
            schema = writer.register_schema(name=f"a/msg/T{i}", encoding="ros2msg", data=b"uint8 x")
            writer.add_message(writer.register_channel(f"/topic{i}", "cdr", schema), i, b"", i)
        writer.finish()
    named: list[int] = []
    channel_of = McapPart._channel_of
    monkeypatch.setattr(McapPart, "_channel_of", lambda self, c: named.append(c.id) or channel_of(self, c))
    with BagReader(path) as bag:
        assert len(bag.topics) == count
    assert len(named) <= 3 * count


def test_what_follows_the_end_of_a_file(tmp_path: Path, textured_image: np.ndarray) -> None:
    path = write_mcap(tmp_path / "in.mcap", textured_image)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(3000))
    assert stamps(path) == list(range(8))
    path.write_bytes(whole + whole)
    problems: list[str] = []
    assert stamps(path, problems) == list(range(8))
    assert len(problems) == 1 and f"{len(whole)} bytes follow its end" in problems[0]


def test_files_that_overlap_in_time_are_merged(tmp_path: Path, textured_image: np.ndarray) -> None:
    folder = tmp_path / "drive"
    folder.mkdir()
    write_mcap(folder / "drive_0.mcap", textured_image, order=[0, 2, 4, 6])
    write_mcap(folder / "drive_1.mcap", textured_image, order=[1, 3, 5, 7])
    assert stamps(folder) == list(range(8))


def test_metadata_that_counts_more_than_the_files_hold_is_said(tmp_path: Path) -> None:
    folder = write_ros2(tmp_path / "bag", StoragePlugin.MCAP)
    metadata = folder / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("message_count: 5", "message_count: 9"))
    with BagReader(folder) as bag:
        assert any("counts 9 messages on /camera/image, its files 5" in text for text in bag.problems)


def test_a_recorder_that_was_killed(tmp_path: Path, textured_image: np.ndarray) -> None:
    path = write_mcap(tmp_path / "in.mcap", textured_image)
    path.write_bytes(without_footer(path.read_bytes()))
    problems: list[str] = []
    assert stamps(path, problems) == list(range(8))
    assert len(problems) == 1 and "cut short" in problems[0] and "its end is missing" in problems[0]


@pytest.mark.parametrize("variant", ["one-chunk", "lz4", "uncompressed", "no-chunks"])
def test_of_a_file_cut_in_the_middle_the_first_images_are_read(
    tmp_path: Path, textured_image: np.ndarray, variant: str
) -> None:
    options = VARIANTS[variant] if variant != "uncompressed" else {**VARIANTS[variant], "chunk_size": 1 << 30}
    path = write_mcap(tmp_path / "in.mcap", textured_image, **options)
    data = path.read_bytes()
    # zstd gives what it has in blocks of 128 KB, of which the first is most of the file: frames repeat each other.
    path.write_bytes(data[: len(data) * (9 if variant == "one-chunk" else 6) // 10])
    problems: list[str] = []
    found = stamps(path, problems)
    assert found == list(range(len(found))) and 2 <= len(found) <= 7
    assert any("cut short" in text for text in problems)


def test_a_damaged_chunk_costs_itself(tmp_path: Path, textured_image: np.ndarray) -> None:
    path = write_mcap(tmp_path / "in.mcap", textured_image, chunk_size=1, compression=VARIANTS["lz4"]["compression"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    problems: list[str] = []
    assert len(stamps(path, problems)) == 7
    assert any("chunk at byte" in text and "damaged" in text for text in problems)
    assert any("counts 8 messages on /camera/image, of which 7 can be read" in text for text in problems)


def test_a_log_beside_a_sqlite_file_is_read(tmp_path: Path) -> None:
    import sqlite3

    file = single_file(write_ros2(tmp_path / "bag", StoragePlugin.SQLITE3), ".db3")
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA wal_autocheckpoint = 0")
    database.execute("INSERT INTO messages (topic_id, timestamp, data) SELECT topic_id, timestamp, data FROM messages")
    database.commit()
    killed = tmp_path / "killed"
    killed.mkdir()
    for path in (file, file.with_name(f"{file.name}-wal")):
        shutil.copy(path, killed / path.name)
    database.close()
    before = {p.name: p.read_bytes() for p in killed.iterdir()}
    with BagReader(killed / file.name) as bag:
        assert len(list(bag.images(["/camera/image"]))) == 10
    assert {p.name: p.read_bytes() for p in killed.iterdir()} == before


def test_a_message_that_is_none_costs_itself(tmp_path: Path, textured_image: np.ndarray) -> None:
    broken = {2: b"\x00\x01\x00\x00" + b"\xff" * 9, 5: image_bytes(textured_image, 5)[:-40_000]}
    path = write_mcap(tmp_path / "in.mcap", textured_image, messages=broken)
    with BagReader(path) as bag:
        images = list(bag.images([TOPIC]))
    assert len(images) == 8
    for i in broken:
        with pytest.raises(ImageError, match=f"image {i} of /camera/image"):
            images[i].decode()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, textured_image: np.ndarray) -> dict[str, bytes]:
    """Small files: the bytes of several layouts, and of one compressed as a whole."""
    folder = tmp_path_factory.mktemp("sound")
    files = {
        name: write_mcap(
            folder / f"{name}.mcap", textured_image, 3, **{**VARIANTS[name], "order": [0, 1, 2]}
        ).read_bytes()
        for name in ("foreign-channels", "no-index", "lz4", "uncompressed")
    }
    files["file-zstd"] = zstandard.ZstdCompressor(write_checksum=True).compress(files["lz4"])
    return files


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(data=st.data())
def test_whatever_happens_to_the_bytes_nothing_is_lost_in_silence(
    data: st.DataObject, sound: dict[str, bytes], tmp_path: Path
) -> None:
    content = bytearray(sound[data.draw(st.sampled_from(sorted(sound)))])
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    places = st.integers(0, max(len(content) - 1, 0))
    # The ends of a file hold its header, footer and summary: hit them as often as the bulk between.
    edges = st.integers(0, 300).map(lambda n: n if n < 150 else len(content) - 1 - (n - 150))
    for _ in range(data.draw(st.integers(0, 3)) if content else 0):
        place = data.draw(st.one_of(places, edges))
        if 0 <= place < len(content):
            content[place] ^= data.draw(st.integers(1, 255))
    if bytes(content) in sound.values():
        return
    path = tmp_path / "fuzzed.mcap"
    path.write_bytes(content)
    try:
        with BagReader(path, report=lambda text: None) as bag:
            topics = {topic.name for topic in bag.topics}
            images = list(bag.images([TOPIC])) if TOPIC in topics else []
            whole = TOPIC in topics and len(images) == 3
            for image in images:
                try:
                    image.decode()
                except ImageError:
                    pass
            # Where less came out than went in, it was said; a topic whose name was hit is still listed.
            assert whole or bag.problems or sum(topic.count for topic in bag.topics) >= 3
    except BagError as error:
        assert "\n" not in str(error) and str(error)
