"""ROS 1 bags that were not finished, are cut short or damaged in places: the rest is read, what is lost is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from rosbags.rosbag1 import Writer

from semantic_matcher_core.errors import BagError
from semantic_matcher_core.io.bags import BagReader
from tests.core.test_io_bags import write_ros1

TOPIC, TEXT = "/camera/image", "/chatter"
MODES = {"plain": None, "lz4": Writer.CompressionFormat.LZ4, "bz2": Writer.CompressionFormat.BZ2}
CHUNK, CONNECTION = 5, 7
TEXTS = [f"hello {i}" for i in range(5)]


def records(data: bytes, kind: int) -> list[tuple[int, int, int]]:
    """Where each record of a kind in the file begins, where its data begin and end."""
    found, place = [], data.index(b"\n") + 1
    while place < len(data):
        start = place + 8 + int.from_bytes(data[place : place + 4], "little")
        end = start + int.from_bytes(data[start - 4 : start], "little")
        if data[data.index(b"op=", place) + 3] == kind:
            found.append((place, start, end))
        place = end
    return found


def read(path: Path) -> tuple[tuple[list[int], list[str]], list[str]]:
    """Stamps of the images, texts, and what was reported."""
    problems: list[str] = []
    with BagReader(path, report=problems.append) as bag:
        images = [image.stamp_ns for image in bag.images([TOPIC])]
        texts = [message.message.data for message in bag.messages([TEXT])]
        assert all(image.decode().any() for image in bag.images([TOPIC]))
    return (images, texts), problems


def killed(path: Path, end: int) -> bytearray:
    """What a recorder leaves that was killed: the file ends, and its header knows no place of an index."""
    data = bytearray(path.read_bytes()[:end])
    place = data.index(b"index_pos=") + len(b"index_pos=")
    data[place : place + 8] = bytes(8)
    return data


@pytest.mark.parametrize("mode", MODES)
def test_without_an_index_all_is_read(tmp_path: Path, mode: str) -> None:
    path = write_ros1(tmp_path / "walk.bag", MODES[mode], chunk_bytes=100)
    whole, problems = read(path)
    assert len(whole[0]) == 5 and whole[1] == TEXTS and not problems
    path.write_bytes(killed(path, records(path.read_bytes(), CONNECTION)[0][0]))
    found, problems = read(path)
    assert found == whole
    assert len(problems) == 1 and "no index that can be used (its recorder did not finish" in problems[0]


def test_of_the_chunk_that_was_being_written_the_beginning_is_read(tmp_path: Path) -> None:
    path = write_ros1(tmp_path / "walk.bag")
    ((_, start, end),) = records(path.read_bytes(), CHUNK)
    data = killed(path, end - 5)
    data[start - 4 : start] = bytes(4)
    path.write_bytes(data)
    (images, texts), problems = read(path)
    assert len(images) == 5 and texts == TEXTS[:4] and len(problems) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [0, 2**31])
def test_a_chunk_of_a_wrong_length_does_not_cost_those_behind_it(tmp_path: Path, mode: str, length: int) -> None:
    path = write_ros1(tmp_path / "walk.bag", MODES[mode], chunk_bytes=100)
    whole, _ = read(path)
    data = killed(path, records(path.read_bytes(), CONNECTION)[0][0])
    start = records(path.read_bytes(), CHUNK)[2][1]
    data[start - 4 : start] = length.to_bytes(4, "little")
    path.write_bytes(data)
    assert read(path)[0] == whole


@pytest.mark.parametrize("mode", MODES)
def test_a_damaged_chunk_costs_itself(tmp_path: Path, mode: str) -> None:
    path = write_ros1(tmp_path / "walk.bag", MODES[mode], chunk_bytes=3000)
    (whole, _), _ = read(path)
    data = bytearray(path.read_bytes())
    chunks = records(bytes(data), CHUNK)
    assert len(chunks) > 2
    _, start, end = chunks[1]
    data[start : (start + end) // 2] = b"\xff" * ((start + end) // 2 - start)
    path.write_bytes(data)
    (images, texts), problems = read(path)
    assert 0 < len(images) < 5 and images == [stamp for stamp in whole if stamp in images]
    assert 0 < len(texts) < 5 and texts == [text for text in TEXTS if text in texts]
    assert any(f"the chunk at byte {start}" in text for text in problems)
    assert any(f"it counts 5 messages on {TOPIC}, of which {len(images)} can be read" in text for text in problems)


@pytest.mark.parametrize("mode", MODES)
def test_cut_anywhere_the_rest_is_read_or_the_error_says_why_not(tmp_path: Path, mode: str) -> None:
    path = write_ros1(tmp_path / "walk.bag", MODES[mode], chunk_bytes=100)
    data = path.read_bytes()
    most = 0
    for end in range(0, len(data), len(data) // 13):
        path.write_bytes(data[:end])
        try:
            (images, _), problems = read(path)
        except BagError as error:
            assert "walk.bag" in str(error) and "\n" not in str(error) and most == 0
        else:
            assert problems and len(images) >= most
            most = len(images)
    assert most == 5


def test_encrypted_messages_are_told(tmp_path: Path) -> None:
    path = write_ros1(tmp_path / "walk.bag")
    data = path.read_bytes()
    place = data.index(b"\n") + 1
    length = int.from_bytes(data[place : place + 4], "little")
    field = b"encryptor=rosbag/AesCbcEncryptor"
    header = data[place + 4 : place + 4 + length] + len(field).to_bytes(4, "little") + field
    path.write_bytes(data[:place] + len(header).to_bytes(4, "little") + header + data[place + 4 + length :])
    with pytest.raises(BagError, match=r"encrypted \(rosbag/AesCbcEncryptor"), BagReader(path):
        pass
