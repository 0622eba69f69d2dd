"""The app in a real browser: pictures dropped, results read from the page, and what it refuses."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from semantic_matcher_core.io.images import write_image
from tests.core.webdriver import Browser

# Gradio is large and wants other versions of some packages: continuous integration has it in an environment beside.
PYTHON = os.environ.get("SEMANTIC_MATCHER_APP_PYTHON") or (sys.executable if importlib.util.find_spec("gradio") else "")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="no gradio: pip install gradio"),
    pytest.mark.skipif(DRIVER is None, reason="no chromedriver: its Debian package is chromium-driver"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command = [PYTHON, "-m", "semantic_matcher_core.cli", "app", "--variant", "plain:sift", "--port", "0"]
    command += ["--device", "cpu", "--max-upload-mb", "5"]
    log = tmp_path_factory.mktemp("app") / "log"
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=output, text=True, env=environment, cwd=log.parent
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + log.read_text()
        yield found[0]
        process.terminate()
        process.wait(240)
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture
def browser(tmp_path: Path, address: str) -> Iterator[Browser]:
    with Browser(str(DRIVER), free_port(), tmp_path / "profile") as browser:
        browser.open(address)
        browser.wait(lambda: browser.run("return !!document.querySelector('#files input[type=file]')"), "page")
        yield browser


def give(browser: Browser, *files: Path) -> None:
    browser.upload("#files input[type=file]", *files)
    names = [file.stem[:4] for file in files]
    browser.wait(lambda: all(name in browser.text("#files") for name in names), "uploaded files")


def press(browser: Browser) -> None:
    browser.run("document.querySelector('#match').click()")


def test_two_pictures_dropped_and_the_result_read_from_the_page(
    browser: Browser, tmp_path: Path, textured_image: np.ndarray
) -> None:
    write_image(tmp_path / "first.png", textured_image[100:300, 150:410])
    write_image(tmp_path / "second.png", textured_image[110:310, 130:390])
    give(browser, tmp_path / "first.png", tmp_path / "second.png")
    press(browser)
    text = browser.wait(lambda: browser.text("#text0"), "result")
    found = re.match(r"plain:sift: (\d+) matches between .*, (\d+) inliers of a fundamental matrix", text)
    assert found and int(found[2]) > 50, text
    browser.wait(lambda: browser.run("return document.querySelector('#picture0 img')?.naturalWidth > 800"), "picture")
    assert [entry for entry in browser.log() if entry["level"] == "SEVERE"] == []

    # Two files that are none of what was asked for, with a sentence each; then it goes on.
    browser.run("location.reload()")
    browser.wait(lambda: not browser.text("#text0") and browser.text("#match"), "a fresh page")
    (tmp_path / "text.png").write_text("no picture at all")
    give(browser, tmp_path / "first.png", tmp_path / "text.png")
    press(browser)
    browser.wait(lambda: browser.text("#status").startswith("text.png is text, not a picture"), "a refusal in words")


def test_what_is_refused_and_that_it_stays_up(address: str) -> None:
    for path in ("/etc/passwd", str(Path(__file__)), "../../../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"{address}/gradio_api/file={path}", timeout=30)
        assert refusal.value.code in (403, 404) and b"root:" not in refusal.value.read()
    boundary = "x" * 20
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="large.mp4"\r\n\r\n'.encode()
    body = head + bytes(6 << 20) + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(
        f"{address}/gradio_api/upload", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )
    try:
        urllib.request.urlopen(request, timeout=30)
        raise AssertionError("a file above the limit was taken")
    except urllib.error.HTTPError as error:
        assert error.code == 413 and b"size" in error.read()
    except (ConnectionError, urllib.error.URLError):
        pass  # hung up on while still sending
    with urllib.request.urlopen(address, timeout=30) as page:
        assert page.status == 200
