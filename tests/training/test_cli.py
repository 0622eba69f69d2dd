"""How training commands end: in a sentence."""

from __future__ import annotations

import os
import signal

import pytest
from torch.utils.data import DataLoader, Dataset

from training.cli import run_command


class _Deadly(Dataset[int]):
    """Kills the process that asks for an item, as the system does where memory is short."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_worker_that_is_killed_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["train"])

    def train() -> None:
        list(DataLoader(_Deadly(), num_workers=1, multiprocessing_context="spawn"))

    with pytest.raises(SystemExit) as ended:
        run_command(train)
    assert ended.value.code == 1
    words = " ".join(capsys.readouterr().err.split())
    assert words.startswith("error: a process that prepares pairs was killed (out of memory?)")
