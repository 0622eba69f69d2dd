"""``python -m semantic_matcher_core.cli``: the command line without an installed script."""

from __future__ import annotations

import sys

from semantic_matcher_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
