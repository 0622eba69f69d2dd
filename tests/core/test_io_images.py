"""Image files: every depth and channel count, orientation, odd names, damaged files, whole-or-nothing writing."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from semantic_matcher_core.errors import ConfigError, ImageError, OutputError
from semantic_matcher_core.io import decoding
from semantic_matcher_core.io.atomic import atomic_output
from semantic_matcher_core.io.images import decode_image, list_images, read_image, write_image


def gradient(height: int = 21, width: int = 33) -> np.ndarray:
    """An RGB image with no two channels alike."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 7 % 256, y * 11 % 256, (x + 2 * y) * 3 % 256], axis=-1).astype(np.uint8)


def encode(suffix: str, array: np.ndarray) -> bytes:
    encoded, data = cv2.imencode(suffix, array)
    assert encoded
    return data.tobytes()


def with_exif_orientation(jpeg: bytes, orientation: int) -> bytes:
    """The same JPEG with an APP1 segment that holds nothing but the orientation tag."""
    tiff = (
        b"II*\x00" + struct.pack("<IH", 8, 1) + struct.pack("<HHII", 0x0112, 3, 1, orientation) + struct.pack("<I", 0)
    )
    payload = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".tiff", ".webp"])
def test_rgb_order_and_round_trip(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    write_image(path, gradient())
    read = read_image(path)
    assert read.shape == (21, 33, 3) and read.dtype == np.uint8
    # WebP is written with loss; the order of channels still shows.
    tolerance = 40 if suffix == ".webp" else 0
    assert np.abs(read.astype(int) - gradient().astype(int)).mean() <= tolerance
    assert np.array_equal(cv2.imread(str(path))[..., ::-1], read)


def test_grey_is_repeated(tmp_path: Path) -> None:
    grey = gradient()[..., 0]
    write_image(tmp_path / "grey.png", grey)
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, axis=-1))


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_keeps_the_upper_8_bits(tmp_path: Path, channels: int) -> None:
    values = np.array([[0, 255, 256, 32767, 65535]], np.uint16)
    array = values if channels == 1 else np.repeat(values[..., None], 3, axis=-1)
    (tmp_path / "deep.png").write_bytes(encode(".png", array))
    assert np.array_equal(read_image(tmp_path / "deep.png")[0, :, 0], [0, 0, 1, 127, 255])


def test_alpha_is_left_out(tmp_path: Path) -> None:
    bgra = np.dstack([gradient()[..., ::-1], np.zeros((21, 33), np.uint8)])
    (tmp_path / "alpha.png").write_bytes(encode(".png", bgra))
    assert np.array_equal(read_image(tmp_path / "alpha.png"), gradient())


def test_orientation_tag(tmp_path: Path) -> None:
    plain = encode(".jpg", cv2.resize(gradient(), (64, 32))[..., ::-1])
    (tmp_path / "turned.jpg").write_bytes(with_exif_orientation(plain, 6))
    stored = read_image(tmp_path / "turned.jpg", orientation="stored")
    upright = read_image(tmp_path / "turned.jpg")
    assert stored.shape == (32, 64, 3) and upright.shape == (64, 32, 3)
    # Tag 6: the first row of what is stored is the right side of the scene.
    assert np.array_equal(upright, np.rot90(stored, -1))
    with pytest.raises(ConfigError, match=r"'sideways'.*exif, stored"):
        read_image(tmp_path / "turned.jpg", orientation="sideways")


def test_names_beyond_ascii(tmp_path: Path) -> None:
    path = tmp_path / "Bild größe 写真 🦊.png"
    write_image(path, gradient())
    assert np.array_equal(read_image(path), gradient())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such image file"),
        (b"", "is empty"),
        (b"This is text, not an image.", "is text, not a picture"),
        (encode(".jpg", gradient(200, 300))[:4000], "JPEG cut short"),
        (encode(".jpg", gradient(200, 300))[:100], "JPEG cut short"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(path)
    assert "broken.jpg" in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_png_is_told_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    png = encode(".png", gradient(200, 300))
    comment = struct.pack(">I", 4) + b"tEXtword" + b"\0\0\0\0"
    expected = cv2.imdecode(np.frombuffer(png, np.uint8), 1)[..., ::-1]
    # Neither a comment nor the end has pixels, and what is behind is no part of it.
    for harmless in (png[:-12] + comment + png[-12:] + b"behind", png[:-1] + b"?"):
        if cv2.imdecode(np.frombuffer(harmless, np.uint8), 1) is None:
            continue  # an old libpng minds the end
        (tmp_path / "note.png").write_bytes(harmless)
        assert np.array_equal(read_image(tmp_path / "note.png"), expected)
    capfd.readouterr()
    place = len(png) // 2
    for data, words in (
        (png[:place] + bytes(20) + png[place + 20 :], r"damaged within: the checksum of its part b'IDAT' at byte \d+"),
        (png[:-1], rf"cut short \({len(png) - 1} bytes, no end"),
        (png[:30], "cut short"),
    ):
        (tmp_path / "bad.png").write_bytes(data)
        with pytest.raises(ImageError, match=rf"bad\.png is a PNG, but {words}"):
            read_image(tmp_path / "bad.png")
    # libpng has nothing to add.
    assert capfd.readouterr() == ("", "")


def test_complete_jpegs_with_thumbnail_or_trailer_are_read(tmp_path: Path) -> None:
    jpeg = encode(".jpg", gradient(200, 300))
    thumbnail = encode(".jpg", gradient(8, 8))
    app2 = b"\xff\xe2" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    (tmp_path / "whole.jpg").write_bytes(jpeg[:2] + app2 + jpeg[2:] + b"\x00trailer")
    assert read_image(tmp_path / "whole.jpg").shape == (200, 300, 3)
    # The thumbnail's own end marker must not vouch for the picture.
    (tmp_path / "cut.jpg").write_bytes((jpeg[:2] + app2 + jpeg[2:])[: len(app2) + 3000])
    with pytest.raises(ImageError, match="cut short"):
        read_image(tmp_path / "cut.jpg")


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot read image"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4), np.uint8),
    ],
)
def test_write_refuses_what_is_no_image(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(ImageError):
        write_image(tmp_path / "out.png", image)
    assert not list(tmp_path.iterdir())


def test_write_refuses_unknown_suffixes_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"'\.xyz'.*\.png"):
        write_image(tmp_path / "out.xyz", gradient())
    with pytest.raises(OutputError, match="does not exist; create it first"):
        write_image(tmp_path / "missing" / "out.png", gradient())
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_image(tmp_path / "folder.png", gradient())


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "out.png", gradient())
    before = (tmp_path / "out.png").read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        write_image(tmp_path / "out.png", gradient(40, 40))
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]
    assert (tmp_path / "out.png").read_bytes() == before


def test_atomic_output_passes_foreign_errors_and_cleans_up(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic_output(tmp_path / "x.bin") as temporary:
        temporary.write_bytes(b"half")
        raise KeyError("boom")
    assert not list(tmp_path.iterdir())
    with atomic_output(tmp_path / "x.bin") as temporary:
        temporary.write_bytes(b"whole")
        assert not (tmp_path / "x.bin").exists() and temporary.suffix == ".bin"
    assert (tmp_path / "x.bin").read_bytes() == b"whole"


def test_list_images_in_natural_order(tmp_path: Path) -> None:
    for name in ("frame10.png", "frame2.png", "Frame1.PNG", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in list_images(tmp_path)] == ["Frame1.PNG", "frame2.png", "frame10.png"]
    with pytest.raises(ImageError, match=r"no image in folder.*\.png"):
        list_images(tmp_path / "folder.png")
    with pytest.raises(ImageError, match="no such image folder"):
        list_images(tmp_path / "absent")


def test_why_a_folder_shows_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # A data set lies one folder deeper, or is of links to a disk that is not there.
    (tmp_path / "cam0" / "data").mkdir(parents=True)
    with pytest.raises(ImageError, match=r"folders in it are not searched: data$"):
        list_images(tmp_path / "cam0")
    (tmp_path / "1.png").symlink_to("gone.png")
    with pytest.raises(ImageError, match="no image in folder"):
        list_images(tmp_path)
    assert f"passed over in {tmp_path}: 1 link whose file is not there, such as 1.png" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), "is a HEIC picture, .* convert it to JPEG or PNG"),
        (b"\0\0\0\x18ftypmp42" + bytes(50), "is a video"),
        (b"\xff\x0a" + bytes(50), "is a JPEG XL picture"),
        (b"%PDF-1.7\n" + bytes(50), "is a document"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page, .* download failed"),
        (b"\xef\xbb\xbf  <svg xmlns=''/>", "is a drawing"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"PK\x03\x04" + bytes(50), "is an archive"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "is a PNG, but cut short"),
        (b"hello\n", "is text, not a picture"),
        (bytes(50), "is no image that can be decoded"),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"picture.png {message}"):
        read_image(path)


def test_what_may_never_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, kind in ((tmp_path / "pipe.png", "a named pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(ImageError, match=f"{path}: it is {kind}, not a file"):
            read_image(path)


def test_what_a_shell_pipes_is_read(tmp_path: Path) -> None:
    data = encode(".png", gradient())
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    try:
        np.testing.assert_array_equal(read_image(f"/dev/fd/{reader}"), decode_image(data))
    finally:
        os.close(reader)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
@pytest.mark.parametrize("count", [1, 3])
def test_pictures_after_the_first_are_told(
    tmp_path: Path, suffix: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    image = pytest.importorskip("PIL.Image")
    frames = [image.fromarray(np.full((20, 30, 3), 40 * i + 20, np.uint8)) for i in range(count)]
    path = tmp_path / f"several{count}{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({} if suffix == ".tif" else {"loop": 0}))
    try:
        first = read_image(path)
    except ImageError:
        pytest.skip(f"OpenCV here reads no {suffix}")
    assert abs(int(first[0, 0, 0]) - 20) < 3 and np.array_equal(first, decode_image(path.read_bytes(), name=str(path)))
    assert ("more than one picture" in caplog.text) == (count > 1)


def test_a_tiff_of_thousands_of_pages_that_share_their_bytes_is_no_hard_work(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each begins four bytes behind the one before, and has 65535 entries of the same 0xff.
    pages, entries = 3000, 12 * 65535
    following = struct.pack(f"<{pages}I", *(8 + 4 * (page + 1) for page in range(pages)))
    data = b"II*\0" + struct.pack("<I", 8) + b"\xff" * (2 + entries) + following
    places: list[int] = []
    unpack_from = struct.unpack_from
    monkeypatch.setattr(decoding.struct, "unpack_from", lambda *given: places.append(given[2]) or unpack_from(*given))
    assert decoding.holds_several(data)
    assert len(places) < 3 * 65535


def test_a_smaller_copy_in_a_tiff_is_no_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = pytest.importorskip("PIL.Image")
    frames = [image.new("RGB", size) for size in ((30, 20), (15, 10))]
    frames[1].encoderinfo = {}
    path = tmp_path / "copy.tif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    data = path.read_bytes()
    from semantic_matcher_core.io.decoding import holds_several

    assert holds_several(data)
    # Tag 254 of the second directory: a reduced copy. Pillow writes none, so that the least of its tags becomes it.
    second = struct.unpack_from(
        "<I",
        data,
        struct.unpack_from("<I", data, 4)[0]
        + 2
        + 12 * struct.unpack_from("<H", data, struct.unpack_from("<I", data, 4)[0])[0],
    )[0]
    assert not holds_several(data[: second + 2] + struct.pack("<HHII", 254, 4, 1, 1) + data[second + 14 :])
    assert not holds_several(data[:9])


def test_opencv_speaks_again_when_the_last_of_several_threads_has_decoded() -> None:
    logging = cv2.utils.logging
    before = logging.getLogLevel()
    # As two threads interleave: the first to begin is the first to end.
    first, second = decoding._quiet(), decoding._quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert logging.getLogLevel() == logging.LOG_LEVEL_SILENT
    second.__exit__(None, None, None)
    assert logging.getLogLevel() == before
