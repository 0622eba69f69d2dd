"""A browser that a test drives: chromedriver spoken to over HTTP, as the W3C's WebDriver describes it."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """A headless Chromium; a context."""

    def __init__(self, chromedriver: str, port: int, profile: Path, size: tuple[int, int] = (1440, 1200)) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [chromedriver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        arguments = ["headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"]
        arguments += [f"user-data-dir={profile}", f"window-size={size[0]},{size[1]}"]
        wanted = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        self._session = ""
        try:
            self.wait(lambda: self._ask("GET", "/status")["ready"], "chromedriver")
            session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self._session = f"/session/{session['sessionId']}"
        except BaseException:
            self._process.kill()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ask("DELETE", self._session)
        finally:
            self._process.terminate()
            self._process.wait(60)

    def open(self, address: str) -> None:
        self._ask("POST", f"{self._session}/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def upload(self, selector: str, *files: Path) -> None:
        """Give files to an input."""
        found = self._ask("POST", f"{self._session}/element", {"using": "css selector", "value": selector})
        text = "\n".join(map(str, files))
        self._ask("POST", f"{self._session}/element/{found[_ELEMENT]}/value", {"text": text})

    def text(self, selector: str) -> str:
        """Text of the first element that fits, or "" where there is none."""
        return self.run("const e = document.querySelector(arguments[0]); return e ? e.innerText.trim() : '';", selector)

    def log(self) -> list[dict[str, Any]]:
        """What was logged in the console since the last call."""
        return self._ask("POST", f"{self._session}/se/log", {"type": "browser"})

    def wait(self, answer: Callable[[], Any], what: str, timeout: float = 60.0) -> Any:
        """The first true answer."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                if got := answer():
                    return got
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"no {what} in {timeout:g} s")

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]
