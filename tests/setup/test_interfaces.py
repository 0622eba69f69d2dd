"""The message package: the fields other people's code leans on, their comments, and that they build."""

from __future__ import annotations

import array
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "ros_ws" / "src" / "semantic_matcher_msgs"
HEADER = "std_msgs/Header"

MESSAGES = {
    "Keypoints": {
        "header": HEADER,
        "width": "uint32",
        "height": "uint32",
        "xy": "float32[]",
        "scores": "float32[]",
        "image_name": "string",
    },
    "Descriptors": {
        "header": HEADER,
        "variant": "string",
        "dim": "uint32",
        "data": "float32[]",
        "semantic_dim": "uint32",
        "semantic_data": "float32[]",
        "image_name": "string",
        "dtype": "string",
        "data16": "uint16[]",
        "semantic_data16": "uint16[]",
    },
    "Matches": {
        "header": HEADER,
        "reference_header": HEADER,
        "mode": "string",
        "index0": "uint32[]",
        "index1": "uint32[]",
        "xy0": "float32[]",
        "xy1": "float32[]",
        "confidence": "float32[]",
        "inlier": "uint8[]",
        "model": "float64[9]",
        "model_type": "string",
        "reference_name": "string",
    },
    "TemplateTrack": {
        "header": HEADER,
        "template_name": "string",
        "template_width": "uint32",
        "template_height": "uint32",
        "tracked": "bool",
        "confidence": "float32",
        "matches": "uint32",
        "inliers": "uint32",
        "residual_px": "float32",
        "error": "float32",
        "coverage": "float32",
        "rows": "uint32",
        "columns": "uint32",
        "xy": "float32[]",
        "known": "uint8[]",
    },
}
REQUEST = {"image": "sensor_msgs/Image", "name": "string"}
RESPONSE = {"success": "bool", "message": "string", "keypoints": "uint32"}
FILES = sorted([*PACKAGE.glob("msg/*.msg"), *PACKAGE.glob("srv/*.srv")])


def fields(text: str) -> dict[str, str]:
    lines = [line.split("#")[0].split() for line in text.splitlines()]
    return {line[1]: line[0] for line in lines if line}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_have_exactly_these_fields(name: str) -> None:
    found = fields((PACKAGE / "msg" / f"{name}.msg").read_text())
    assert list(found.items()) == list(MESSAGES[name].items())


def test_the_service_has_exactly_these_fields() -> None:
    request, response = (PACKAGE / "srv" / "SetReference.srv").read_text().split("\n---\n")
    assert (fields(request), fields(response)) == (REQUEST, RESPONSE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_field_is_explained(path: Path) -> None:
    blocks = [block for part in path.read_text().split("\n---\n") for block in part.strip().split("\n\n")]
    with_fields = [block for block in blocks if fields(block)]
    assert len(with_fields) >= 4
    assert [block for block in with_fields if not block.startswith("# ")] == []


def test_every_file_is_built() -> None:
    built = (PACKAGE / "CMakeLists.txt").read_text()
    assert [path.name for path in FILES if f'"{path.parent.name}/{path.name}"' not in built] == []


@pytest.mark.ros
@pytest.mark.parametrize("name", MESSAGES)
def test_built_messages_take_arrays_and_survive_the_wire(name: str) -> None:
    rclpy_serialization = pytest.importorskip("rclpy.serialization")
    module = pytest.importorskip("semantic_matcher_msgs.msg")
    message_type = getattr(module, name)
    message = message_type()
    assert set(message.get_fields_and_field_types()) == set(MESSAGES[name])
    codes = {"float32[]": "f", "uint32[]": "I", "uint8[]": "B"}
    for field, kind in MESSAGES[name].items():
        if kind in codes:
            # The only form that rclpy takes without looking at every element.
            setattr(message, field, array.array(codes[kind], [1, 2, 3]))
    message.header.frame_id = "camera_optical_frame"
    back = rclpy_serialization.deserialize_message(rclpy_serialization.serialize_message(message), message_type)
    assert back == message


@pytest.mark.ros
def test_the_built_service() -> None:
    module = pytest.importorskip("semantic_matcher_msgs.srv")
    assert set(module.SetReference.Request.get_fields_and_field_types()) == set(REQUEST)
    assert set(module.SetReference.Response.get_fields_and_field_types()) == set(RESPONSE)
