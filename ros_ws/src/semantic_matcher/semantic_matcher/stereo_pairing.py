"""Left and right images of a node, paired; and what is said when many find no partner."""

from __future__ import annotations

from collections import deque
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from semantic_matcher.messages import stamp_ns
from semantic_matcher_core.streams import StereoSynchronizer, slop_of

if TYPE_CHECKING:
    from semantic_matcher.node_statistics import Statistics

# Of the newest images: warned of from the first share without a partner on, over below the second.
_NEWEST, _AT_LEAST, _BEGIN, _END = 40, 6, 0.25, 0.1
_CLOCKS_S = 10.0
# No clock that counts from 1970 and one that does not, or that stamps nothing, are nearer than this.
_UNSTAMPED_S = 1e8
_PAIRED, _ALONE, _DISORDERED = "paired", "alone", "disordered"
# A lead of one side that is never less than this many gaps of the other remedy is no matter of images that are missing.
_LEADS = 20
_LEAD_S = 0.1


class StereoPairing:
    """Pairs messages as the parameters ask for, counts, and judges how well that goes.

    Args:
        settings: the parameters ``sync``, ``slop`` and ``queue_size``.
        statistics: where images without a partner are counted and gaps are shown.
    """

    def __init__(self, settings: SimpleNamespace, statistics: Statistics) -> None:
        self._statistics = statistics
        self._synchronizer: StereoSynchronizer[Any] = StereoSynchronizer()
        self._fates: deque[str] = deque(maxlen=_NEWEST)
        self._leads: deque[int] = deque(maxlen=_LEADS)
        self._counted = 0
        self._disordered = 0
        self._warned = False
        self.take(settings)

    def take(self, settings: SimpleNamespace) -> None:
        """Take new parameter values; how well it went with the old ones is forgotten."""
        synchronizer = self._synchronizer
        before = synchronizer.slop, synchronizer.queue_size
        synchronizer.slop, synchronizer.queue_size = slop_of(settings.sync, settings.slop), settings.queue_size
        self._settings = settings
        if before != (synchronizer.slop, synchronizer.queue_size):
            self._fates.clear()

    def add(self, side: str, message: Any) -> tuple[Any, Any] | None:
        """Return the (left, right) pair that can be matched now that a message of ``left`` or ``right`` has come."""
        synchronizer = self._synchronizer
        add = synchronizer.add_left if side == "left" else synchronizer.add_right
        pair = add(stamp_ns(message.header), message)
        self._leads.append(synchronizer.lead)
        unpaired = sum(synchronizer.unpaired) - self._counted
        self._counted += unpaired
        self._statistics.count("unpaired", unpaired)
        disordered = sum(synchronizer.disordered) - self._disordered
        self._disordered += disordered
        self._fates.extend(
            [_DISORDERED] * disordered + [_ALONE] * (unpaired - disordered) + [_PAIRED] * (0 if pair is None else 2)
        )
        if synchronizer.gaps:
            gaps = [gap * 1e-6 for gap in synchronizer.gaps]
            self._statistics.set("right after left p50 [ms]", f"{median(gaps):.3f}")
            self._statistics.set("right after left, largest [ms]", f"{max(gaps, key=abs):.3f}")
        return pair

    def clear(self) -> None:
        """Forget what waits for a partner."""
        self._synchronizer.clear()
        self._leads.clear()
        self._fates.clear()
        self._warned = False

    def trouble(self) -> str:
        """Return what is wrong when many images find no partner, how far apart they are, and what would do; empty
        else.
        """
        number = len(self._fates)
        alone = number - self._fates.count(_PAIRED)
        share = alone / max(number, 1)
        self._warned = (alone >= _AT_LEAST and share >= _BEGIN) or (self._warned and share > _END)
        if not (self._warned and alone):
            return ""
        disordered = self._fates.count(_DISORDERED)
        missed = list(self._synchronizer.missed)[-alone:]
        if 2 * disordered > alone or not missed:
            return (
                f"{alone} of the newest {number} images found no partner: of {disordered} the time stamps repeat, or "
                "go back by less than a second; have the drivers stamp each image with the time it was taken at"
            )
        gap = median(missed) * 1e-9
        text = (
            f"{alone} of the newest {number} images found no partner: the stamps of left and right are "
            f"{_gap_text(abs(gap))} apart ({'right' if gap > 0 else 'left'} later); "
        )
        return text + self._remedy(abs(gap))

    def _remedy(self, gap: float) -> str:
        slop = self._synchronizer.slop
        if gap >= _UNSTAMPED_S:
            return "one side has none, or a device's own clock: have its driver stamp with the time of the host"
        if gap >= _CLOCKS_S:
            return "the clocks of the two cameras disagree: synchronise them (chrony, PTP), or use one machine's"
        would_do = f"slop:={max(round(1.5 * gap, 3), 0.001):g}"
        if self._settings.sync == "exact":
            return f"sync:=approximate pairs them, also with {would_do}"
        if slop is not None and gap * 1e9 > slop:
            return f"{would_do} would pair them, and slop:=0 as the frame period allows"
        # A side that is slower, or loses images, is behind now and then; this is what is so all the time.
        lead = min(self._leads, key=abs, default=0) * 1e-9
        if abs(lead) >= _LEAD_S and len(self._leads) == _LEADS:
            return (
                f"of what comes at one time {'right' if lead > 0 else 'left'} is stamped {_gap_text(abs(lead))} later: "
                "synchronise the two cameras' clocks (chrony, PTP), or raise queue_size where one only comes late"
            )
        return (
            "images of one side are missing: see that both cameras send at one rate and that none are lost on the way"
        )


def _gap_text(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.4g} s"
