"""Register a photo of a bent surface onto a flat picture of it, with DALF.

    python examples/dalf_pair.py poster.jpg photo.jpg -o registered.png
    python examples/dalf_pair.py                     # a photograph that this script bends itself

With --fetch it downloads the weights, once. The same from a shell: semantic-matcher register A.jpg B.jpg -o out.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

import semantic_matcher_core as smc
from semantic_matcher_core.errors import SemanticMatcherError
from semantic_matcher_core.geometry.thin_plate import ThinPlateSpline
from semantic_matcher_core.io.images import read_image, write_image
from semantic_matcher_core.registration import register_pair
from semantic_matcher_core.viz.registration import draw_registration

PHOTOGRAPH = Path(__file__).parents[1] / "ros_ws/src/semantic_matcher/semantic_matcher/demo/grace_hopper.jpg"


def bent_photograph() -> tuple[np.ndarray, np.ndarray]:
    """Return a photograph (the demo's), and the same bent by a spline: 16 points, each moved by up to 30 px."""
    flat = read_image(PHOTOGRAPH)
    height, width = flat.shape[:2]
    y, x = torch.meshgrid(torch.linspace(0, height - 1, 4), torch.linspace(0, width - 1, 4), indexing="ij")
    control = torch.stack([x, y], dim=-1).reshape(-1, 2)
    moved = control + (torch.rand(control.shape, generator=torch.Generator().manual_seed(4)) - 0.5) * 60
    bent = ThinPlateSpline.fit(control, moved).warp_image(
        torch.from_numpy(flat).permute(2, 0, 1).float(), (height, width)
    )
    return flat, bent.permute(1, 2, 0).round().to(torch.uint8).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("template", nargs="?", type=Path, help="a flat picture of the surface")
    parser.add_argument("image", nargs="?", type=Path, help="an image that shows it bent")
    parser.add_argument("-o", "--output", type=Path, default=Path("registered.png"))
    parser.add_argument("--weights", type=Path, help="a folder to search for weights first")
    parser.add_argument("--fetch", action="store_true", help="download weights that are not here")
    args = parser.parse_args()
    if args.template is not None and args.image is None:
        parser.error("give two images, or none")
    template, image = (
        bent_photograph() if args.template is None else (read_image(args.template), read_image(args.image))
    )

    # Three lines to features: keypoints as OpenCV has them, descriptors as an array.
    extractor = smc.create_extractor("dalf", weights=args.weights, fetch=args.fetch)
    keypoints, descriptors = extractor.detectAndCompute(template)
    print(f"{len(keypoints)} keypoints with descriptors of {descriptors.shape[1]} numbers")

    # Mutual matches, those that agree with one smooth deformation, a spline through them, the image warped.
    matcher = smc.SemanticMatcher.from_pretrained("plain:dalf", weights=args.weights, fetch=args.fetch)
    result = register_pair(matcher, template, image)
    fit, agreement = result.fit, result.agreement
    print(
        f"{fit.inliers} of {len(fit.matches)} matches agree; they lie {fit.residual_px:.2f} px from the spline (median)"
    )
    print(f"mean grey-level difference {agreement.error_before:.1f} before, {agreement.error:.1f} after")
    print(f"bending energy {fit.bending_energy:.3f}, {agreement.coverage:.0%} of the template covered")

    # Points go both ways.
    corner = torch.tensor([[0.0, 0.0]])
    print(f"the template's corner lies at {result.to_image(corner)[0].tolist()} in the image")

    write_image(args.output, draw_registration(template, image, agreement, fit.lattice))
    print(f"wrote {args.output}")


if __name__ == "__main__":
    try:
        main()
    except SemanticMatcherError as error:
        sys.exit(f"error: {error}")
