"""What ends the demo with one sentence."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot go on; the message says why, and what to do where something can be done."""
