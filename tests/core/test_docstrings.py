"""Docstrings of functions begin with a verb; ruff's D401 sees most that do not, and this what it passes over."""

from __future__ import annotations

import ast
import re

from tests.conftest import REPOSITORY

FOLDERS = ("semantic_matcher_core", "training", "benchmarks", "tools", "ros_ws/src/semantic_matcher/semantic_matcher")
# A shape, a number, a question word, an article, a preposition, or what functions here return.
NO_VERB = re.compile(
    r"``|[(\d:]|(?:The|A|An|As|What|Whether|How|Where|Which|Who|Why|When|All|Each|Every|Some|No|One|Two|True|False|"
    r"Called|Indices|Names|Places|Values|Points|Pixels|Rows|Of|From|In|At|On|To|For|Before|After|Another|More|Best|Mutual|"
    r"Figures|Features|Keypoints|Masks|Maxima|Scores|Residuals|Numbers|Dimensions|Losses|Megabytes|Windows|Text|Args)\b"
)


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    found, seen = [], 0
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                text = ast.get_docstring(node)
                if text is None or any("property" in ast.unparse(d) for d in node.decorator_list):
                    continue
                seen += 1
                if NO_VERB.match(text):
                    found.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}: {text.splitlines()[0]}")
    assert seen > 1000
    assert not found, "\n".join(found)
