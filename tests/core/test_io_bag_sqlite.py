"""sqlite3 files that are cut short or damaged in places: what is whole is read, what is lost is told."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from semantic_matcher_core.errors import BagError
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.messages import IMAGE, typestore
from tests.core.mcap_files import TOPIC, image_bytes
from tests.core.recordings import PERIOD_NS, START_NS

COUNT = 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("sqlite") / "bag"
    picture = np.random.default_rng(0).integers(0, 256, (400, 500, 3)).astype(np.uint8)
    with Writer(folder, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection(TOPIC, IMAGE, typestore=typestore())
        for i in range(COUNT):
            writer.write(connection, START_NS + i * PERIOD_NS, image_bytes(picture, i))
    (file,) = folder.glob("*.db3")
    return file.read_bytes()


def read(path: Path) -> tuple[list[int], list[str]]:
    problems: list[str] = []
    with BagReader(path, report=problems.append) as bag:
        images = list(bag.images([TOPIC]))
        assert all(image.decode().any() for image in images)
    return [(image.stamp_ns - START_NS) // PERIOD_NS for image in images], problems


def test_cut_anywhere_the_beginning_is_read(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "cut.db3"
    most = 0
    for share in (0.0005, 0.01, 0.3, 0.6, 0.8, 0.95, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        try:
            numbers, problems = read(path)
        except BagError as error:
            assert "cut.db3" in str(error) and "is cut short" in str(error) and most == 0
            continue
        assert any("cut.db3 is cut short: " in text and "bytes of it are missing" in text for text in problems)
        assert numbers == list(range(len(numbers))) and len(numbers) >= most
        most = len(numbers)
    assert most >= COUNT - 1


def test_a_damaged_place_costs_its_images(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "damaged.db3"
    data = bytearray(whole)
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(data)
    numbers, problems = read(path)
    assert COUNT - 12 <= len(numbers) < COUNT and numbers == sorted(set(numbers))
    assert {0, COUNT - 1} <= set(numbers)
    assert any(f"counts {COUNT} messages on {TOPIC}, of which {len(numbers)} can be read" in text for text in problems)


def test_a_database_of_something_else_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "other.db3"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE wishes (id INTEGER)")
    database.close()
    with pytest.raises(BagError, match="a sqlite3 file, but no recording") as caught, BagReader(path):
        pass
    assert "damaged" not in str(caught.value)
