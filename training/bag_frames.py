"""``python -m training.bag_frames BAG… --output photos``: frames of recordings as a folder of training photos."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from semantic_matcher_core.io.atomic import make_folder
from training.cli import console, run_command

_log = logging.getLogger(__name__)


def extract_frames(
    bag: Path, output: Path, topics: list[str], every: int, report: Callable[[str], None] = _log.warning
) -> int:
    """Write every ``every``-th image of a bag's topics as PNG files; how many.

    Args:
        bag: ROS 1 bag, rosbag2 folder or MCAP file.
        output: folder; files are named ``<bag>_<topic>_<stamp ns>.png``, so that a repeated run writes the same names;
            of images of one stamp (drivers without a clock) the later ones have their number behind it.
        topics: image topics, raw or compressed; empty for all.
        every: of the images of each topic.
        report: is told what is missing of the bag, and which images cannot be decoded; these are left out.

    Raises:
        BagError: nothing of the bag can be read, it has no such topic (the message lists what is there), or not one
            image of it can be decoded.
    """
    from semantic_matcher_core.errors import BagError, ImageError
    from semantic_matcher_core.io.bags import BagReader
    from semantic_matcher_core.io.images import write_image

    make_folder(output)
    left_out = 0
    names: set[str] = set()
    with BagReader(bag, report=report) as reader:
        wanted = topics or [topic.name for topic in reader.image_topics if topic.count]
        if not wanted:
            raise BagError(f"{bag} holds no images; {reader.describe_topics()}")
        chosen = reader.require_images(wanted)
        for image in reader.images([topic.name for topic in chosen]):
            if image.index % every:
                continue
            try:
                pixels = image.decode()
            except ImageError as error:
                report(f"left out: {error}")
                left_out += 1
                continue
            place = image.topic.strip("/").replace("/", "-")
            name = f"{bag.stem}_{place}_{image.stamp_ns}"
            name = f"{name}_{image.index}" if name in names else name
            names.add(name)
            write_image(output / f"{name}.png", pixels)
    if left_out and not names:
        raise BagError(f"{bag}: none of {left_out} images can be decoded")
    return len(names)


def command(
    bags: Annotated[list[Path], typer.Argument(help="ROS 1 bags, rosbag2 folders or MCAP files.")],
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    topic: Annotated[list[str] | None, typer.Option(help="Image topic; may be repeated. All without it.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Take every N-th image of a topic.")] = 10,
) -> None:
    """Write frames of recordings as photos to train from."""
    for bag in bags:
        written = extract_frames(bag, output, topic or [], every, report=console.print)
        console.print(f"{bag}: {written} images to {output}")


if __name__ == "__main__":
    run_command(command)
