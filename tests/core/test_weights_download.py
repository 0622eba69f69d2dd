"""Downloads: resumed, retried, refused; over a local server that misbehaves on purpose."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from semantic_matcher_core.errors import DownloadError
from semantic_matcher_core.weights import download as module
from semantic_matcher_core.weights.download import check_url, discard, download
from tests.core.weights_server import WeightsServer, isolate, weights_server

# More than two read chunks, so that cuts fall between and within them.
CONTENT = np.random.default_rng(0).bytes(2_500_000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WeightsServer]:
    isolate(monkeypatch, tmp_path)
    with weights_server() as running:
        yield running


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "file.part"


def test_a_whole_file_arrives_with_progress(server: WeightsServer, part: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    result = download(server.serve("file", CONTENT), part, size=len(CONTENT), progress=lambda *a: seen.append(a))
    assert result.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(server.requests) == 1


@pytest.mark.parametrize("cuts", [[1], [1_000_000], [700_000, 10, 900_000, 0]])
def test_a_cut_connection_goes_on_within_one_call(server: WeightsServer, part: Path, cuts: list[int]) -> None:
    download(server.serve("file", CONTENT, cut_after=list(cuts)), part)
    assert part.read_bytes() == CONTENT
    assert server.sent == len(CONTENT), "no byte was sent twice"
    ranges = [headers.get("Range") for _, headers in server.requests]
    assert ranges[0] is None
    assert ranges[1] == f"bytes={cuts[0]}-"
    assert all("If-Range" in headers for _, headers in server.requests[1:])


def test_a_failed_call_keeps_what_arrived_for_the_next(
    server: WeightsServer, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    url = server.serve("file", CONTENT, cut_after=[1_500_000])
    with pytest.raises(DownloadError, match=r"ended after 1500000 of 2500000 bytes.*1\.5 MB are kept"):
        download(url, part)
    assert part.read_bytes() == CONTENT[:1_500_000]
    download(url, part)
    assert part.read_bytes() == CONTENT
    assert server.requests[-1][1]["Range"] == "bytes=1500000-"


def test_more_cuts_than_attempts_are_fine_while_bytes_arrive(server: WeightsServer, part: Path) -> None:
    cuts = [100_000] * (3 * module.ATTEMPTS)
    download(server.serve("file", CONTENT, cut_after=cuts), part)
    assert part.read_bytes() == CONTENT


def test_attempts_without_a_byte_end(server: WeightsServer, part: Path) -> None:
    url = server.serve("file", CONTENT, cut_after=[0] * 50)
    with pytest.raises(DownloadError, match=f"tried {module.ATTEMPTS} times"):
        download(url, part)
    assert len(server.requests) == module.ATTEMPTS


def test_attempts_that_all_begin_anew_end(server: WeightsServer, part: Path) -> None:
    cuts = [200_000, 100_000] * 50
    url = server.serve("file", CONTENT, cut_after=cuts, etag=False)
    with pytest.raises(DownloadError, match=f"tried {module.ATTEMPTS} times"):
        download(url, part)
    assert len(server.requests) == module.ATTEMPTS


def test_a_server_that_trickles_is_left(server: WeightsServer, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_S", 0.05)
    url = server.serve("file", CONTENT, pause_s=0.01)
    with pytest.raises(DownloadError, match=r"the server sent \d+ bytes in 0 s \(tried"):
        download(url, part)
    assert part.stat().st_size > 0, "what came is kept"
    assert len(server.requests) == module.ATTEMPTS


def test_a_file_that_changed_meanwhile_is_fetched_anew(
    server: WeightsServer, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    url = server.serve("file", CONTENT, cut_after=[1_000_000])
    with pytest.raises(DownloadError):
        download(url, part)
    newer = CONTENT[::-1]
    server.serve("file", newer)
    download(url, part)
    assert part.read_bytes() == newer


@pytest.mark.parametrize("options", [{"etag": False}, {"ranges": False}])
def test_without_what_resuming_needs_it_starts_over(
    server: WeightsServer, part: Path, options: dict[str, bool]
) -> None:
    download(server.serve("file", CONTENT, cut_after=[1_000_000], **options), part)
    assert part.read_bytes() == CONTENT
    assert server.sent == len(CONTENT) + 1_000_000


def test_another_address_does_not_continue_these_bytes(
    server: WeightsServer, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    with pytest.raises(DownloadError):
        download(server.serve("file", CONTENT, cut_after=[1_000_000]), part)
    download(server.serve("other", CONTENT), part)
    assert "Range" not in server.requests[-1][1]
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_complete_part_is_not_fetched_again(server: WeightsServer, part: Path, size: int | None) -> None:
    url = server.serve("file", CONTENT)
    download(url, part)
    download(url, part, size=size)
    assert server.sent == len(CONTENT)
    assert part.read_bytes() == CONTENT
    discard(part)
    assert list(part.parent.iterdir()) == []


def test_an_overlong_part_is_dropped(server: WeightsServer, part: Path) -> None:
    url = server.serve("file", CONTENT)
    download(url, part)
    with part.open("ab") as file:
        file.write(b"more")
    download(url, part)
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_server_is_asked_again(server: WeightsServer, part: Path, status: int) -> None:
    download(server.serve("file", CONTENT, statuses=[status, status]), part)
    assert part.read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_the_servers_wish_for_patience_is_heard(
    server: WeightsServer, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    download(server.serve("file", CONTENT, statuses=[503], headers={"Retry-After": "7"}), part)
    download(server.serve("file2", CONTENT, statuses=[503], headers={"Retry-After": "86400"}), part)
    assert waits == [7.0, module.MAX_WAIT_S]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final(server: WeightsServer, part: Path, status: int) -> None:
    url = server.serve("file", CONTENT, statuses=[status])
    with pytest.raises(DownloadError, match=f"answers {status}"):
        download(url, part)
    assert len(server.requests) == 1
    assert not part.exists()


def test_nobody_listening_is_one_error(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.0)
    with weights_server() as stopped:
        url = stopped.serve("file", CONTENT)
    with pytest.raises(DownloadError, match=r"could not be downloaded: .*refused"):
        download(url, part)


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("served", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_another_size_than_the_catalogues_is_refused(
    server: WeightsServer, part: Path, length: bool, served: int
) -> None:
    url = server.serve("file", (CONTENT + b"!")[:served], length=length)
    with pytest.raises(DownloadError, match=str(len(CONTENT))):
        download(url, part, size=len(CONTENT))
    if served > len(CONTENT) or length:
        assert not part.exists(), "bytes of another file are not kept for resuming"


def test_a_file_of_unknown_size_arrives(server: WeightsServer, part: Path) -> None:
    download(server.serve("file", CONTENT, length=False), part)
    assert part.read_bytes() == CONTENT


def test_a_full_disk_is_told_before_the_first_byte(
    server: WeightsServer, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 1_000_000))
    with pytest.raises(DownloadError, match=r"not enough room .* 2 MB are needed, 1 MB are free"):
        download(server.serve("file", CONTENT), part)
    assert not part.exists()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/xfeat.pt",
        "http://127.0.0.1.example.com/xfeat.pt",
        "http://10.0.0.1/xfeat.pt",
        "ftp://localhost/xfeat.pt",
        "file:///etc/passwd",
        "https:///xfeat.pt",
        "xfeat.pt",
    ],
)
def test_unprotected_addresses_are_refused(url: str, part: Path) -> None:
    with pytest.raises(DownloadError, match="https://"):
        download(url, part)
    assert not part.parent.exists()


@pytest.mark.parametrize(
    "url", ["https://example.com/a", "http://localhost:8/a", "http://127.0.0.2/a", "http://[::1]/a"]
)
def test_protected_and_local_addresses_pass(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize("target", ["http://example.com/a", "file:///etc/passwd", "ftp://localhost/a"])
def test_a_redirect_out_of_protection_is_refused(server: WeightsServer, part: Path, target: str) -> None:
    with pytest.raises(DownloadError):
        download(server.serve("file", b"", redirect=target), part)
    assert not part.exists()


def test_a_redirect_is_followed_and_resumed(server: WeightsServer, part: Path) -> None:
    target = server.serve("there", CONTENT, cut_after=[1_000_000])
    download(server.serve("here", b"", redirect=target), part)
    assert part.read_bytes() == CONTENT
    assert server.sent == len(CONTENT)


def test_a_configured_proxy_is_not_asked_for_this_machine(
    server: WeightsServer, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    download(server.serve("file", CONTENT), part)
    assert part.read_bytes() == CONTENT
