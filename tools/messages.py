"""How the scripts speak: one line for progress, one sentence for what stops them."""

from __future__ import annotations

import sys
from collections.abc import Callable


class SetupError(Exception):
    """The set-up cannot go on; the message says what is missing and how to get it."""


def say(text: str) -> None:
    """Print one line of progress, shown at once even where the output is a pipe."""
    print(f"semantic_matcher: {text}", flush=True)


def run_main(main: Callable[[], int]) -> None:
    """Run a script's ``main``; a :class:`SetupError` becomes one line and exit code 1."""
    try:
        code = main()
    except SetupError as error:
        sys.stdout.flush()
        print(f"semantic_matcher: error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
