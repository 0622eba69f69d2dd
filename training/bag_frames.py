"""``python -m training.bag_frames BAG… --output photos``: frames of recordings as a folder of training photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.cli import run_command

console = Console(stderr=True)


def extract_frames(bag: Path, output: Path, topics: list[str], every: int) -> int:
    """Write every ``every``-th image of a bag's topics as PNG files; how many.

    Args:
        bag: ROS 1 bag, rosbag2 folder or MCAP file.
        output: folder; files are named ``<bag>_<topic>_<stamp ns>.png``, so that a repeated run writes the same names.
        topics: image topics, raw or compressed; empty for all.
        every: of the images of each topic.

    Raises:
        BagError: the bag is damaged, or has no such topic (the message lists what is there).
        ImageError: an image cannot be decoded.
    """
    from semantic_matcher_core.io.bags import BagReader
    from semantic_matcher_core.io.images import write_image

    output.mkdir(parents=True, exist_ok=True)
    written = 0
    with BagReader(bag) as reader:
        chosen = reader.require_images(topics or [topic.name for topic in reader.image_topics])
        for image in reader.images([topic.name for topic in chosen]):
            if image.index % every == 0:
                place = image.topic.strip("/").replace("/", "-")
                write_image(output / f"{bag.stem}_{place}_{image.stamp_ns}.png", image.decode())
                written += 1
    return written


def command(
    bags: Annotated[list[Path], typer.Argument(help="ROS 1 bags, rosbag2 folders or MCAP files.")],
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    topic: Annotated[list[str] | None, typer.Option(help="Image topic; may be repeated. All without it.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Take every so many-th image of a topic.")] = 10,
) -> None:
    """Frames of recordings as photos to train from."""
    for bag in bags:
        console.print(f"{bag}: {extract_frames(bag, output, topic or [], every)} images to {output}")


if __name__ == "__main__":
    run_command(command)
