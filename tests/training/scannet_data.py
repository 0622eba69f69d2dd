"""A small recording that the tests make: a wall with a step, seen by a camera that moves sideways."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

COLOUR, DEPTH = (96, 128), (48, 64)
CAMERA = np.array([[120.0, 0, 64, 0], [0, 120, 48, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)


def pose(frame: int) -> np.ndarray:
    matrix = np.eye(4, dtype=np.float32)
    matrix[0, 3] = 0.02 * frame
    return matrix


def depth(frame: int) -> np.ndarray:
    metres = np.full(DEPTH, 2.0)
    edge = int(DEPTH[1] * 0.5 - 0.02 * frame * 120 / 1.5 / 2)
    metres[:, : max(0, edge)] = 1.5
    return (metres * 1000).astype(np.uint16)


def write_recording(path: Path, frames: int = 61, *, lost: tuple[int, ...] = ()) -> Path:
    rng = np.random.default_rng(0)
    texture = cv2.resize(rng.integers(0, 255, (24, 64, 3), dtype=np.uint8), (512, 96), interpolation=cv2.INTER_CUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        name = b"StructureSensor"
        file.write(struct.pack("<IQ", 4, len(name)) + name)
        for matrix in (CAMERA, np.eye(4, dtype=np.float32), CAMERA, np.eye(4, dtype=np.float32)):
            file.write(matrix.astype("<f4").tobytes())
        file.write(struct.pack("<2i4IfQ", 2, 1, COLOUR[1], COLOUR[0], DEPTH[1], DEPTH[0], 1000.0, frames))
        for frame in range(frames):
            colour = cv2.imencode(".jpg", texture[:, frame : frame + COLOUR[1]])[1].tobytes()
            measured = zlib.compress(depth(frame).tobytes())
            where = np.full((4, 4), -np.inf, np.float32) if frame in lost else pose(frame)
            file.write(
                where.tobytes() + struct.pack("<4Q", frame, frame, len(colour), len(measured)) + colour + measured
            )
    return path
