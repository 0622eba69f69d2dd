"""The Triton kernel, run in Triton's interpreter where there is no GPU, against the written-out matrix."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

# In a process of its own: the interpreter is chosen by an environment variable that triton reads when it is imported.
_PROGRAM = """
import json, sys, torch
from torch.nn.functional import normalize
from semantic_matcher_core.cuda.fused_search import fused_search

device = sys.argv[1]
worst, wrong, cases = 0.0, 0, 0
for n, m, dim, kinds, batch, padded in [
    (70, 130, 40, 2, 1, False), (128, 64, 32, 1, 2, True), (1, 1, 5, 2, 1, False), (65, 63, 33, 2, 2, True)
]:
    generator = torch.Generator().manual_seed(n)
    factors = [
        tuple(normalize(torch.randn(batch, k, dim, generator=generator), dim=-1).to(device) for k in (n, m))
        for _ in range(kinds)
    ]
    valid0 = valid1 = None
    if padded:
        valid0 = (torch.arange(n) < n - 7).expand(batch, n).clone().to(device)
        valid1 = (torch.arange(m) < m - 9).expand(batch, m).clone().to(device)
        valid1[1] = False
    similarity = torch.ones((), device=device)
    for left, right in factors:
        similarity = similarity * (left @ right.transpose(1, 2))
    if padded:
        similarity = similarity.masked_fill(~(valid0[:, :, None] & valid1[:, None, :]), -torch.inf)
    for found, dim_ in zip(fused_search(factors, valid0, valid1), (2, 1)):
        expected = similarity.max(dim_)
        finite = expected.values.isfinite()
        wrong += int((found.value.isfinite() != finite).sum()) + int((found.position != expected.indices)[finite].sum())
        worst = max(worst, float((found.value - expected.values)[finite].abs().max()))
    cases += 1
same = normalize(torch.ones(1, 90, 16), dim=-1).to(device)
ties = [int(best.position.max()) for best in fused_search([(same, same)])]
print(json.dumps({"worst": worst, "wrong": wrong, "cases": cases, "ties": ties}))
"""


def test_kernel_finds_what_the_matrix_shows() -> None:
    gpu = torch.cuda.is_available()
    environment = dict(os.environ) if gpu else {**os.environ, "TRITON_INTERPRET": "1"}
    output = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "cuda" if gpu else "cpu"],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    ).stdout
    result = json.loads(output.strip().splitlines()[-1])
    assert result["cases"] == 4
    assert result["wrong"] == 0
    assert result["worst"] < 1e-6
    assert result["ties"] == [0, 0]
