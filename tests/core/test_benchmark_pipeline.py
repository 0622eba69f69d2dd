"""The benchmark programs run and write what they say; how long anything takes is not tested."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch

from benchmarks import backends, gpu, knobs, pipeline, switches
from benchmarks.floor import Ceilings, Work, stage_work
from benchmarks.models import Case, build_matcher, textured_pair
from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.extractors.superpoint import SuperPoint
from semantic_matcher_core.io.images import write_image
from semantic_matcher_core.optimisations import NAMES, VARIABLE
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics.dinov2 import DinoV2

SMALL = ["--size", "128x96", "--semantic-size", "56", "--repeats", "1", "--warmup", "0", "--device", "cpu"]
CPU = torch.device("cpu")
needs_kornias_xfeat = pytest.mark.skipif(
    importlib.util.find_spec("kornia.feature.xfeat") is None, reason="kornia has XFeat from 0.8.3 and Python 3.11 on"
)


def test_floor_is_the_slower_of_operations_and_bytes() -> None:
    ceilings = Ceilings({"fp32": 1e9, "bf16": 4e9}, bandwidth=1e8)
    assert ceilings.milliseconds(Work(2e6, 0)) == pytest.approx(2)
    assert ceilings.milliseconds(Work(2e6, 0, "bf16")) == pytest.approx(0.5)
    assert ceilings.milliseconds(Work(2e6, 1e6)) == pytest.approx(10)


def test_work_of_the_encoder_is_that_of_its_layers() -> None:
    case = Case(size=(96, 128), keypoints=100, semantic_size=56)
    work = stage_work(build_matcher(case, CPU)[0], case, 100)
    tokens = 1 + 3 * 4  # 96 x 128 at 56 is 42 x 56
    per_block = 2 * tokens * 384 * (3 * 384 + 384 + 8 * 384) + 2 * 2 * tokens**2 * 384
    assert work["encode"].flops == 12 * per_block + 2 * tokens * 384 * 3 * 14 * 14
    assert work["match"].flops == 2 * 2 * 100 * 100 * 256
    twice = stage_work(build_matcher(case, CPU)[0], case.with_(batch=2), 100)
    assert twice["extract"].flops == 2 * work["extract"].flops > 0


@needs_kornias_xfeat
def test_compared_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--keypoints", "60", "--compare", "--precision", "fp32", "--json", str(tmp_path / "a.json")]
    assert pipeline.main([*SMALL, *arguments, "--markdown", str(tmp_path / "a.md")]) == 0
    result = json.loads((tmp_path / "a.json").read_text())["results"][0]
    assert {"extract", "encode", "sample", "reason", "match", "isolated pair"} <= set(result["timings"])
    assert set(result["timings"]["isolated pair"]) == {"ours", "reference", "lightglue"}
    assert 0.5 < result["agreement"] <= 1
    assert capsys.readouterr().out == (tmp_path / "a.md").read_text()
    assert "| new frame of a stream |" in (tmp_path / "a.md").read_text()


@needs_kornias_xfeat
def test_the_bare_command_gives_the_ratio_to_the_straightforward_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pipeline.main([*SMALL, "--keypoints", "60", "--json", str(tmp_path / "a.json")]) == 0
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    assert rows[0] == ["stage", "ours, ms", "straightforward, ms", "ratio", "floor, ms", "of the floor"]
    timings = json.loads((tmp_path / "a.json").read_text())["results"][0]["timings"]
    for name in pipeline.WHOLE:
        (row,) = [row for row in rows if row[0] == name]
        ratio = timings[name]["reference"]["median_ms"] / timings[name]["ours"]["median_ms"]
        assert row[3] == f"{ratio:.2f}×"
    assert not any("lightglue" in ways for ways in timings.values())
    assert "Matches of the straightforward way (fp32) found identically" in printed


def test_ours_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipeline.main([*SMALL, "--keypoints", "60", "--alone", "--json", str(tmp_path / "a.json")]) == 0
    assert "straightforward" not in capsys.readouterr().out
    result = json.loads((tmp_path / "a.json").read_text())["results"][0]
    assert all(set(ways) == {"ours"} for ways in result["timings"].values())
    assert result["agreement"] is None


def test_sweep_and_its_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Case(size=(96, 128), keypoints=60, semantic_size=56)
    cases = list(pipeline.sweep_cases(Case(), ("fp32", "bf16"), quick=False))
    assert len(cases) == len(set(cases)) == 2 * (len(pipeline.KEYPOINTS) + len(pipeline.SIZES))
    assert Case(batch=2) in cases and base not in cases
    monkeypatch.setattr(pipeline, "SIZES", ((64, 96), (96, 160)))
    arguments = ["--keypoints", "60", "--sweep", "--quick", "--precisions", "fp32", "--plots", str(tmp_path)]
    assert pipeline.main([*SMALL, *arguments, "--json", str(tmp_path / "a.json")]) == 0
    assert len(json.loads((tmp_path / "a.json").read_text())["results"]) == 5
    for name in ("time_over_keypoints.svg", "time_over_size.svg"):
        assert (tmp_path / name).read_text().startswith("<?xml")


@pytest.mark.parametrize("way", ["ours", pytest.param("reference", marks=needs_kornias_xfeat)])
def test_peak_memory_is_a_number(way: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipeline.main([*SMALL, "--keypoints", "60", "--peak-of", way]) == 0
    assert float(capsys.readouterr().out) >= 0


def test_cpu_clock_counts_one_thread(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pipeline.parse_arguments(["--clock", "cpu", "--threads", "2"])
    assert "counts one thread" in capsys.readouterr().err


@pytest.mark.slow
def test_knobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    few = [knobs.Knob("plain", semantic_size=56, keypoints=60), knobs.Knob("other", "bf16", 56, 2, 60)]
    monkeypatch.setattr(knobs, "knobs", lambda device: few)
    for index, image in enumerate(textured_pair(96, 128)):
        write_image(tmp_path / f"{index}.png", image)
    assert knobs.main(["--frames", str(tmp_path), "--device", "cpu"]) == 0
    table = capsys.readouterr().out
    assert "| plain |" in table and "100.0%" in table and "| other |" in table


def test_switches_of_the_gpu_are_all_tried() -> None:
    assert set(gpu.SWITCHES) == {"cuda_graphs", "single_wait", "streams"}


def test_switches(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--size", "96x64", "--repeats", "1", "--device", "cpu"]
    assert switches.main([*small, "--only", "channels_last", "sliding_maximum"]) == 0
    table = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    assert [row[1].strip() for row in table] == ["`channels_last`", "`channels_last`", "`sliding_maximum`"]
    assert all(float(row[3]) > 0 and float(row[4]) > 0 for row in table)
    with pytest.raises(SystemExit):
        switches.main([*small, "--only", "no_such"])


def test_every_optimisation_has_its_work() -> None:
    images = textured_pair(64, 96)
    works = [set(switches.Suite(torch.device(name), None, images).works()) for name in ("cpu", "cuda")]
    assert works[0] | works[1] == set(NAMES) and not works[0] & works[1]


def test_a_switch_is_off_for_its_own_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    call = switches._as(("streams",), lambda: os.environ[VARIABLE])
    assert call() == "streams" and VARIABLE not in os.environ


@pytest.mark.slow
def test_backends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    # What is compiled and what is int8 is tested with them, and takes half a minute each.
    ways = [way for way in backends.ways(CPU) if way.backend != "compile" and not way.int8]
    monkeypatch.setattr(backends, "ways", lambda device: ways)

    def build_small(case: Case, device: torch.device, weights: str | None) -> tuple[SemanticMatcher, dict[str, str]]:
        torch.manual_seed(0)
        extractor, encoder = SuperPoint(case.keypoints, detection_threshold=0.0), DinoV2()
        encoder.blocks = encoder.blocks[:1]  # each layer takes seconds to trace
        config = ReasonerConfig(256, 384, features_dim=64, n_attention_layers=1, semantic_conditioning=False)
        reasoner = Reasoner(config)
        options = {"precision": case.precision, "semantic_size": case.semantic_size}
        return SemanticMatcher.from_parts(extractor, encoder, reasoner, device=device, **options), {}

    monkeypatch.setattr(backends, "build_matcher", build_small)
    small = ["--size", "128x96", "--semantic-sizes", "56", "--keypoints", "60", "--repeats", "1", "--device", "cpu"]
    assert backends.main(small) == 0
    printed = capsys.readouterr().out
    for way in ("eager, fp32", "eager, bf16", "onnx, fp32"):
        assert f"| {way} |" in printed
    assert "100.00%" in printed
