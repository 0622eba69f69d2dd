"""One file over HTTPS: resumed, retried, checked for size, and moved into place whole."""

from __future__ import annotations

import errno
import http.client
import ipaddress
import json
import logging
import os
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from semantic_matcher_core.errors import DownloadError
from semantic_matcher_core.version import __version__

# bytes so far, and of the whole file where the server says
Progress = Callable[[int, int | None], None]

TIMEOUT_S = 30.0
ATTEMPTS = 5
BACKOFF_S = 1.0
MAX_WAIT_S = 60.0
# A server that sends less than this in a minute has stalled, and an attempt that brings less has failed.
STALL_S = 60.0
LEAST_BYTES = 60_000
_CHUNK = 2**20
_NO_NETWORK = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
_log = logging.getLogger(__name__)


class _TryAgainError(Exception):
    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class _Part:
    """A download under way: the bytes so far, and what the server said the file is (for resuming)."""

    path: Path

    @property
    def note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def validator(self, url: str) -> str | None:
        """Return what a server must still say for the bytes so far to be of use, or ``None`` where they are of none."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        usable = isinstance(note, dict) and note.get("url") == url and self.size > 0
        return note.get("validator") if usable else None

    def start(self, url: str, validator: str | None) -> None:
        self.path.unlink(missing_ok=True)
        self.note.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def download(url: str, part_path: Path, *, size: int | None = None, progress: Progress | None = None) -> Path:
    """Bring a file here, going on where an earlier call was cut off.

    Args:
        url: ``https://…``; plain ``http://`` only to this machine itself.
        part_path: where the bytes are gathered; what has arrived stays there (with a note beside it) when the download
            fails, for the next call. The caller checks the complete file and moves it to its place.
        size: expected bytes, where known.
        progress: called as bytes arrive.

    Returns:
        ``part_path``, complete and flushed to disk. Until :func:`discard`, a further call returns it again at once, or
        as soon as the server confirms that it is still the same file.

    Raises:
        DownloadError: after retries, or at once where trying again would not help; the message says what and where.
    """
    check_url(url)
    part = _Part(part_path)
    part_path.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    most = part.size
    while True:
        try:
            _transfer(url, part, size, progress)
            return part_path
        except _TryAgainError as error:
            # An attempt that went on is no failure: a long download may be cut off many times. One that began anew, as
            # some servers have it, must come further than all before.
            failures = 1 if part.size - most >= LEAST_BYTES else failures + 1
            most = max(most, part.size)
            if failures >= ATTEMPTS:
                kept = f"; {part.size / 1e6:.1f} MB are kept, the next try goes on from there" if part.size else ""
                raise DownloadError(f"{url} could not be downloaded: {error} (tried {failures} times){kept}") from error
            wait_s = min(MAX_WAIT_S, BACKOFF_S * 2 ** (failures - 1) if error.wait_s is None else error.wait_s)
            _log.warning("download of %s interrupted: %s; trying again in %.0f s", url, error, wait_s)
            time.sleep(wait_s)


def discard(part_path: Path) -> None:
    """Delete what is left of a download: the bytes, unless they were moved away, and the note beside them."""
    _Part(part_path).discard()


def check_url(url: str) -> None:
    """Let only addresses pass whose content cannot be changed on the way.

    Raises:
        DownloadError: neither HTTPS nor this machine.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_loopback(parts.hostname):
        return
    raise DownloadError(f"{url} is refused: weights come over https:// only (http:// from this machine itself)")


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        check_url(newurl)
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise DownloadError(f"{req.full_url} redirects from https:// to {newurl}; refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    handlers: list[urllib.request.BaseHandler] = [_CheckedRedirects()]
    if _is_loopback(urlsplit(url).hostname):
        handlers.append(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers=headers)
    return urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_S)


def _transfer(url: str, part: _Part, size: int | None, progress: Progress | None) -> None:
    validator = part.validator(url)
    if validator is not None and size is not None and part.size == size:
        return
    headers = {"User-Agent": f"semantic-matcher/{__version__}", "Accept-Encoding": "identity"}
    if validator is not None:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": validator}
    try:
        with _open(url, headers) as response:
            _receive(url, response, part, size, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{part.size}":
            _check_size(url, part, part.size, size)
            return  # nothing is left to send
        raise _of_status(url, error, part) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DownloadError(
                f"{url}: the server's certificate is not valid: {error.reason.verify_message}"
            ) from error
        if isinstance(error.reason, socket.gaierror) or getattr(error.reason, "errno", None) in _NO_NETWORK:
            # Seconds of trying do not bring a network.
            kept = f"; {part.size / 1e6:.1f} MB are kept, the next try goes on from there" if part.size else ""
            raise DownloadError(f"{url} could not be reached: {error.reason}; is there a network?{kept}") from error
        raise _TryAgainError(str(error.reason)) from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _TryAgainError(str(error) or type(error).__name__) from error


def _of_status(url: str, error: urllib.error.HTTPError, part: _Part) -> Exception:
    if error.code == 416:  # the bytes so far do not fit what is there now
        part.discard()
        return _TryAgainError("the file there has changed")
    if error.code in (408, 425, 429) or error.code >= 500:
        after = error.headers.get("Retry-After", "")
        return _TryAgainError(
            f"the server answers {error.code} {error.reason}", float(after) if after.isdigit() else None
        )
    return DownloadError(f"{url} cannot be downloaded: the server answers {error.code} {error.reason}")


def _receive(
    url: str, response: http.client.HTTPResponse, part: _Part, size: int | None, progress: Progress | None
) -> None:
    offset = 0
    if response.status == 206:
        offset = part.size
        if not (response.headers.get("Content-Range") or "").startswith(f"bytes {offset}-"):
            part.discard()
            raise _TryAgainError("the server went on at another place than asked")
    else:
        part.start(url, _validator(response))
    length = response.headers.get("Content-Length")
    total = offset + int(length) if length is not None else None
    if total is not None:
        _check_size(url, part, total, size)
    expected = total if total is not None else size
    _check_room(part.path, None if expected is None else expected - offset)
    done = watched = offset
    since = time.monotonic()
    with part.path.open("ab") as file:
        # What has come, without waiting for a whole chunk: nothing of it is lost, and progress shows.
        while chunk := response.read1(_CHUNK):
            _write(file, chunk, part.path)
            done += len(chunk)
            seconds = time.monotonic() - since
            if seconds >= STALL_S:
                if done - watched < LEAST_BYTES:
                    raise _TryAgainError(f"the server sent {done - watched} bytes in {seconds:.0f} s")
                watched, since = done, time.monotonic()
            if size is not None and done > size:
                part.discard()
                raise DownloadError(f"{url} sends more than the {size} bytes that the catalogue says")
            if progress is not None:
                progress(done, expected)
        file.flush()
        os.fsync(file.fileno())
    if expected is not None and done < expected:
        raise _TryAgainError(f"the connection ended after {done} of {expected} bytes")


def _check_size(url: str, part: _Part, total: int, size: int | None) -> None:
    if size is not None and total != size:
        part.discard()
        raise DownloadError(f"{url} has {total} bytes, but the catalogue says {size}; it is not the published file")


def _validator(response: http.client.HTTPResponse) -> str | None:
    etag = response.headers.get("ETag")
    # A weak ETag promises equal meaning, not equal bytes.
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _check_room(path: Path, needed: int | None) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed is not None and needed > free:
        raise DownloadError(
            f"not enough room in {path.parent}: {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free; "
            "make room, or name a cache folder on another disk in SEMANTIC_MATCHER_HOME"
        )


def _write(file: Any, chunk: bytes, path: Path) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                f"no room left in {path.parent}; make room and try again, it goes on from there, "
                "or name a cache folder on another disk in SEMANTIC_MATCHER_HOME"
            ) from error
        raise
