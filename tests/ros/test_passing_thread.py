"""What computes in a thread that passes leaves no threads of torch behind, and its result or error is the caller's."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

pytest.importorskip("semantic_matcher", reason="the workspace is not built")

from semantic_matcher.passing_thread import in_passing_thread

COUNTED = """
import os, time, torch
from semantic_matcher.passing_thread import in_passing_thread

torch.set_num_threads(3)

def compute():
    torch.rand(1000, 1000).exp_()
    return len(os.listdir("/proc/self/task"))

before = len(os.listdir("/proc/self/task"))
during = in_passing_thread(compute)
end = time.monotonic() + 30
while len(os.listdir("/proc/self/task")) > before and time.monotonic() < end:
    time.sleep(0.01)
print(during - before, len(os.listdir("/proc/self/task")) - before)
"""


def test_the_result_is_returned() -> None:
    name, caller = in_passing_thread(lambda: (threading.current_thread().name, threading.current_thread()))
    assert name == threading.current_thread().name and caller is not threading.current_thread()
    assert not caller.is_alive()


def test_the_error_is_raised() -> None:
    def fail() -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError, match="a defect"):
        in_passing_thread(fail)


def test_no_threads_of_torch_are_left() -> None:
    command = [sys.executable, "-c", COUNTED]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == ["3", "0"]  # its own and two of its team
