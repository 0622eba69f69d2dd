"""Match two pictures and save the figure.

    python examples/match_pair.py A.jpg B.jpg                            # plain:compact, which comes with the package
    python examples/match_pair.py A.jpg B.jpg --variant xfeat --fetch    # a published variant; downloads it once

The same from a shell, with more choices: ``semantic-matcher match A.jpg B.jpg -o matches.png``.
"""

from __future__ import annotations

import argparse
import sys

import semantic_matcher_core as smc
from semantic_matcher_core.errors import SemanticMatcherError
from semantic_matcher_core.io.images import read_image, write_image
from semantic_matcher_core.matching.verification import verify
from semantic_matcher_core.viz.matches import draw_matches


def main() -> None:
    parser = argparse.ArgumentParser(description="Match two pictures and save the figure.")
    parser.add_argument("image0")
    parser.add_argument("image1")
    parser.add_argument("--output", default="matches.png", help="figure to write (default: %(default)s)")
    parser.add_argument(
        "--variant", default="plain:compact", help="see `semantic-matcher variants` (default: %(default)s)"
    )
    parser.add_argument("--fetch", action="store_true", help="download weights that are not here")
    arguments = parser.parse_args()

    matcher = smc.SemanticMatcher.from_pretrained(arguments.variant, fetch=arguments.fetch)
    image0, image1 = read_image(arguments.image0), read_image(arguments.image1)

    # Features are computed once for each image, and can be matched with any number of others.
    features0, features1 = matcher.extract(image0), matcher.extract(image1)
    matches = matcher.match(features0, features1)

    # Which matches agree with one rigid motion of the camera? Leave this out for scenes that bend or move.
    matches = verify(matches, "fundamental", threshold_px=2.0)

    figure = draw_matches(
        image0, image1, matches, features0=features0, features1=features1, title=f"semantic_matcher, {matcher.variant}"
    )
    write_image(arguments.output, figure)
    print(f"{len(matches)} matches, {int(matches.inlier.sum())} agree with one motion: {arguments.output}")


if __name__ == "__main__":
    try:
        main()
    except SemanticMatcherError as error:
        sys.exit(f"error: {error}")
