"""Who follows CONTRIBUTING's recipes word by word arrives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.recipes import follow, run_in_copy

EXTRACTOR = """
import numpy as np, torch
from semantic_matcher_core import SemanticMatcher, create_extractor, list_extractors
from tests.conftest import make_textured_image
from tests.core.extractor_checks import assert_well_formed

assert "corners" in list_extractors()
extractor = create_extractor("corners", 300, device="cpu")
images = np.stack([make_textured_image(93, 126, seed) for seed in (1, 2)])
batch = extractor.extract(images)
assert_well_formed(batch, 2, (93, 126), 49, 300)
for image, features in zip(images, batch):
    alone = extractor.extract(image)
    assert torch.equal(alone.keypoints, features.keypoints)
assert extractor.extract(images[0], np.zeros((93, 126), np.uint8)).keypoints.shape == (1, 0, 2)
scene = make_textured_image(140, 180, 3)
matcher = SemanticMatcher.from_pretrained("plain:corners", device="cpu", max_keypoints=300)
matches = matcher.match_images(scene[:120, :150].copy(), scene[8:128, 11:161].copy())
shift = matches.keypoints0 - matches.keypoints1
share = float(((shift - torch.tensor([11.0, 8.0])).norm(dim=1) < 1).float().mean())
assert len(matches) > 60 and share > 0.8, (len(matches), share)
"""

ENCODER = """
import torch
from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics import create_semantic_encoder
from tests.conftest import make_textured_image

encoder = create_semantic_encoder("mean_colour", device="cpu")
assert encoder(torch.rand(2, 3, 48, 64)).shape == (2, 3, 3, 4)
torch.manual_seed(0)
reasoner = Reasoner(ReasonerConfig(128, 3, features_dim=32, n_attention_layers=2)).eval()
matcher = SemanticMatcher.from_parts(create_extractor("sift", 200, device="cpu"), encoder, reasoner, device="cpu")
image = make_textured_image(120, 160, 3)
assert len(matcher.match_images(image, image)) > 50
"""

NODE = """
from semantic_matcher_core.options import TABLES
from semantic_matcher.parameter_files import yaml_defaults

assert {"variant", "autostart", "image_transport"} <= {spec.name for spec in TABLES["keypoint_counter"]}
assert "max_keypoints: 2048" in yaml_defaults("keypoint_counter")
"""


@pytest.mark.parametrize(
    ("title", "check"), [("a local feature", EXTRACTOR), ("a semantic encoder", ENCODER), ("a node", NODE)]
)
def test_a_recipe_arrives(title: str, check: str, tmp_path: Path) -> None:
    path = follow(title, tmp_path)["PYTHONPATH"]
    program = f"import semantic_matcher_core; print(semantic_matcher_core.__file__)\n{check}"
    done = run_in_copy(program, tmp_path, path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))


def test_links_and_paths_of_the_pages_for_contributors_lead_somewhere() -> None:
    pages = [
        REPOSITORY / "CONTRIBUTING.md",
        REPOSITORY / "docs" / "architecture.md",
        *(REPOSITORY / "docs" / "decisions").glob("*.md"),
    ]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_room_of_the_core_is_in_the_architecture() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [
        entry
        for entry in (REPOSITORY / "semantic_matcher_core").iterdir()
        if (entry.is_dir() and (entry / "__init__.py").is_file()) or entry.suffix == ".py"
    ]
    small = {"__init__.py", "version.py", "constants.py", "process_pool.py"}
    missing = [r.name for r in rooms if r.name not in small and f"{r.name}{'/' if r.is_dir() else ''}" not in text]
    assert not missing


def test_the_citation_names_both_papers() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    from semantic_matcher_core import __version__

    assert citation["version"] == __version__
    found = [citation["preferred-citation"], *citation["references"]]
    assert [paper["year"] for paper in found] == [2024, 2023]
    assert [paper["identifiers"][0]["value"] for paper in found] == ["arXiv:2410.09533", "arXiv:2304.00583"]
