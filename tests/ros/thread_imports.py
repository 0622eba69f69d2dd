"""Finding out what a process imports in threads other than its first."""

from __future__ import annotations

import re

MARK = "imported in thread"
PRELUDE = f"""
import sys, threading
def _audit(event, arguments):
    if event == "import" and threading.current_thread() is not threading.main_thread():
        print(f"{MARK} {{threading.current_thread().name}}: {{arguments[0]}}", file=sys.stderr, flush=True)
sys.addaudithook(_audit)
"""
"""Code that, run first, has a process print each import of each thread but its first; a module counts once."""


def imports_of(printed: str, *, except_in: tuple[str, ...] = ()) -> list[str]:
    """``thread: module`` of each import that a process with :data:`PRELUDE` printed, apart from those threads."""
    found = re.findall(rf"^{MARK} (.*): (.*)$", printed, re.MULTILINE)
    return [f"{thread}: {module}" for thread, module in found if thread not in except_in]
