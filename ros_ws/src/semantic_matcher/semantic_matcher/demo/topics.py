"""Topics of the demo's graph."""

from __future__ import annotations

TOPICS = {"temporal": ("camera/image",), "stereo": ("left/image", "right/image")}
"""Image topics of each sequence; what the user named goes to that of ``temporal``."""
