"""Whether the stamps of images and the node's clock are of one time."""

from __future__ import annotations

from datetime import datetime, timezone

# Images may be as late as a slow network makes them, but hardly come from the future.
_AHEAD_S, _BEHIND_S = 1.0, 10.0
# No model takes longer.
_OLDEST_S = 3600.0
# Stamps below this, some three years, are counted from the start of a machine or of a simulation.
_SINCE_1970_S = 1e8


def clocks_agree(stamp: float, now: float) -> bool:
    """Return whether an image that came at ``now`` can have been taken at ``stamp``, both in seconds."""
    return -_BEHIND_S <= stamp - now <= _AHEAD_S


def is_an_age(seconds: float) -> bool:
    """Return whether a result can be so old; false where its image came while clocks disagreed that agree by now."""
    return -_AHEAD_S <= seconds <= _OLDEST_S


def clock_standing(topic: str = "/clock") -> str:
    """Return what is wrong where simulated time is asked for and nothing has come on its topic."""
    return (
        f"use_sim_time is true, but nothing has come on {topic}, so time stands at 0: start what publishes it "
        "(ros2 bag play --clock, or the simulation), or set use_sim_time to false"
    )


def clock_disagreement(topic: str, stamp: float, now: float, sim_time: bool) -> str:
    """Return which clock is wrong, as far as it can be told; empty where they agree.

    Args:
        topic: of the images.
        stamp: of an image when it came, in seconds.
        now: the node's time then, in seconds.
        sim_time: whether that is the time of ``/clock``.
    """
    ahead = stamp - now
    if clocks_agree(stamp, now):
        return ""
    own = "/clock" if sim_time else "this machine's clock"
    text = (
        f"clocks disagree: images on {topic} are stamped {_duration(abs(ahead))} "
        f"{'ahead of' if ahead > 0 else 'behind'} {own} ({_instant(stamp)} against {_instant(now)}); "
    )
    if sim_time and stamp > _SINCE_1970_S > now:
        return (
            text + "what publishes them does not take its time from /clock: set its use_sim_time, or unset this node's"
        )
    if stamp < _SINCE_1970_S < now:
        return text + (
            "they count from the start of a device or of a simulation: have the driver stamp with the time of its "
            "host, or set use_sim_time to true where that is what /clock tells"
        )
    if ahead < 0 and not sim_time:
        return text + (
            "if a recording is played, set use_sim_time to true and play it with --clock; else synchronise the clocks "
            "(chrony, PTP)"
        )
    return text + "synchronise the clocks (chrony, PTP), and see that both or neither follow /clock"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 86400 else f"{seconds:.4g} s ({seconds / 86400:.0f} days)"


def _instant(seconds: float) -> str:
    if not _SINCE_1970_S < seconds < 4e9:
        return f"{seconds:.3f} s"
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
