"""A local server of weights that can be told to misbehave, and the environment its tests run in."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml


@dataclass
class Served:
    """One file, and what goes wrong with it.

    Attributes:
        content: its bytes.
        cut_after: of the next answers, one each: close the connection after so many bytes of the body.
        statuses: answered instead, one each, before anything else.
        headers: added to every answer.
        etag: whether an ETag is sent (and If-Range understood).
        ranges: whether Range is understood.
        length: whether Content-Length is sent.
        redirect: answer with a redirect to here.
        pause_s: send the body byte by byte, with so long between them; 0 for all of it at once.
    """

    content: bytes
    cut_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    etag: bool = True
    ranges: bool = True
    length: bool = True
    redirect: str | None = None
    pause_s: float = 0.0

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:16]}"'


class WeightsServer:
    """Serves ``files`` by path; ``requests`` has path and headers of each request, ``sent`` the bytes of all bodies."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def serve(self, name: str, content: bytes, **options: Any) -> str:
        """Serve a file; its address."""
        self.files[f"/{name}"] = Served(content, **options)
        return f"{self.url}/{name}"

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append((request.path, dict(request.headers)))
        served = self.files.get(request.path)
        if served is None:
            request.send_error(404)
        elif served.statuses:
            _send_empty(request, served.statuses.pop(0), served.headers)
        elif served.redirect is not None:
            _send_empty(request, 302, {"Location": served.redirect})
        else:
            self._send_file(request, served)

    def _send_file(self, request: BaseHTTPRequestHandler, served: Served) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        unchanged = request.headers.get("If-Range", served.tag) == served.tag
        start = int(asked[1]) if asked and served.ranges and unchanged else 0
        total = len(served.content)
        if start >= total > 0:
            _send_empty(request, 416, {"Content-Range": f"bytes */{total}"})
            return
        body = served.content[start:]
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if served.etag:
            request.send_header("ETag", served.tag)
        if served.length:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if served.cut_after:
            body = body[: served.cut_after.pop(0)]
            request.close_connection = True
        if not served.length:
            request.close_connection = True
        # Counted first: the client may be done before this thread goes on.
        self.sent += len(body)
        # A client that has seen enough (a wrong size, say) hangs up.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for i in range(len(body) if served.pause_s else 0):
                request.wfile.write(body[i : i + 1])
                time.sleep(served.pause_s)
            if not served.pause_s:
                request.wfile.write(body)


def _send_empty(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in {**headers, "Content-Length": "0"}.items():
        request.send_header(name, value)
    request.end_headers()


@contextmanager
def weights_server() -> Iterator[WeightsServer]:
    """A server for the length of a test."""
    server = WeightsServer()
    try:
        yield server
    finally:
        server.stop()


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Nothing of this machine's weights is seen, and nothing outside ``folder`` is written; the cache folder."""
    home = folder / "home"
    monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(home))
    for name in ("SEMANTIC_MATCHER_WEIGHTS", "SEMANTIC_MATCHER_OFFLINE", "SEMANTIC_MATCHER_CATALOGUE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEMANTIC_MATCHER_WHEELS", "0")
    # Retries are tested, waiting is not.
    monkeypatch.setattr("semantic_matcher_core.weights.download.BACKOFF_S", 0.0)
    return home


def write_catalogue(monkeypatch: pytest.MonkeyPatch, folder: Path, entries: dict[str, dict[str, Any]]) -> Path:
    """Entries (or changed fields of published ones) that the library sees besides its own."""
    path = folder / "catalogue.yaml"
    path.write_text(yaml.safe_dump(entries), encoding="utf-8")
    monkeypatch.setenv("SEMANTIC_MATCHER_CATALOGUE", str(path))
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def left_over(home: Path) -> list[str]:
    """Files in the cache besides locks and records of decisions, relative to it."""
    kept = {"trust.json", "licenses.json"}
    files = (p for p in home.rglob("*") if p.is_file() and p.suffix != ".lock" and p.name not in kept)
    return sorted(str(p.relative_to(home)) for p in files)
