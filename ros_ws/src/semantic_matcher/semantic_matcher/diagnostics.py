"""What a node tells on /diagnostics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

if TYPE_CHECKING:
    from builtin_interfaces.msg import Time

    from semantic_matcher.node_statistics import Statistics

# Events of the statistics that are shown, with the words they are shown under.
_COUNTERS = {
    "received": "images received",
    "processed": "images processed",
    "dropped": "images dropped (a newer one came first)",
    "unwanted": "images not needed (no output had a subscriber)",
    "lost": "images lost on the way (message_lost)",
    "overrun": "images that newer ones replaced before they were taken",
    "stale": "images skipped (older than max_image_age)",
    "out of order": "images skipped (time stamp repeated or late)",
    "unpaired": "images without a partner",
    "without depth": "images without depth",
    "refused": "images refused",
    "failed": "failures",
    "published": "match messages published",
}

# Events that are counted for each camera as well, under "<event>:<camera>".
_PER_SOURCE = {"received:": "rate in", "processed:": "rate out"}


def diagnostic_array(
    stamp: Time,
    node_name: str,
    statistics: Statistics,
    *,
    state: str,
    idle: bool,
    problems: list[str],
    errors: list[str],
) -> DiagnosticArray:
    """Return one status: level and message from ``errors`` and ``problems``, and the statistics as key-value pairs.

    Args:
        stamp: now.
        node_name: the fully qualified name of the node, without the first slash.
        statistics: what is shown.
        state: the lifecycle state.
        idle: no output has a subscriber, so no images are taken.
        problems: what makes it a warning.
        errors: what makes it an error.
    """
    level = DiagnosticStatus.ERROR if errors else DiagnosticStatus.WARN if problems else DiagnosticStatus.OK
    active = "idle: no output has a subscriber" if idle else f"{statistics.rate('processed'):.1f} images/s"
    message = "; ".join([*errors, *problems]) or (active if state == "active" else state)
    status = DiagnosticStatus(level=level, name=node_name, message=message, hardware_id="semantic_matcher")
    pairs = {"state": state, **statistics.values()}
    pairs |= {
        "rate in [Hz]": f"{statistics.rate('received'):.2f}",
        "rate out [Hz]": f"{statistics.rate('processed'):.2f}",
        "age p50 [ms]": _milliseconds(statistics.age(50)),
        "age p95 [ms]": _milliseconds(statistics.age(95)),
    }
    for event in sorted(e for e in statistics.events() if e.startswith(tuple(_PER_SOURCE))):
        kind, name = event.split(":", 1)
        if name not in ("", "image"):
            pairs[f"{name} {_PER_SOURCE[f'{kind}:']} [Hz]"] = f"{statistics.rate(event):.2f}"
    pairs |= {text: str(statistics.total(event)) for event, text in _COUNTERS.items()}
    pairs["last error"] = statistics.last_error
    if math.isfinite(statistics.error_age()):
        pairs["last error was [s] ago"] = f"{statistics.error_age():.1f}"
    status.values = [KeyValue(key=key, value=value) for key, value in pairs.items()]
    array = DiagnosticArray(status=[status])
    array.header.stamp = stamp
    return array


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.1f}"
