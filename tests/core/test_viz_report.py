"""The report: its numbers, that it needs nothing from outside, and how a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semantic_matcher_core.cli import main
from semantic_matcher_core.errors import BagError, OutputError
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.mcap import McapWriter
from semantic_matcher_core.io.messages import (
    header_message,
    image_message,
    keypoints_message,
    matches_message,
    stamp_of,
    typestore,
)
from semantic_matcher_core.types import Features, Matches
from semantic_matcher_core.viz.charts import Curve, nice_ceiling, thin_out, time_chart
from semantic_matcher_core.viz.report import heat_map, render, write_report
from semantic_matcher_core.viz.report_data import collect, histogram
from semantic_matcher_core.viz.trajectory import Track, Truth, path_data, trajectory_figures

START = 1_700_000_000_000_000_000
PERIOD = 50_000_000
SIZE = (120, 160)
# Matches of each pair, and how many of them are inliers.
COUNTS = [(40, 30), (10, 5), (50, 45), (0, 0), (30, 12), (44, 40)]


def features(count: int, seed: int) -> Features:
    points = torch.rand(1, count, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([160.0, 120.0])
    return Features(points, torch.ones(1, count), torch.zeros(1, count, 1), SIZE)


def write_recording(
    path: Path,
    *,
    checked: bool = True,
    images: bool = True,
    topics: tuple[str, ...] = ("/temporal_matcher",),
    path_of_camera: bool = False,
) -> Path:
    """What a recorder makes of a running node: matches come 20 + i ms after image i."""
    picture = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    with McapWriter(path) as writer:
        for topic in topics:
            for i, (count, good) in enumerate([(60, 0), *COUNTS]):
                stamp = START + i * PERIOD
                header = header_message(stamp, f"camera{topic}")
                received = stamp + (20 + i) * 1_000_000
                if images:
                    writer.write(f"{topic}/image", image_message(picture, header), received)
                current = features(60, i)
                writer.write(f"{topic}/keypoints", keypoints_message(current, header), received)
                if i == 0:
                    continue
                rows = torch.arange(count)
                matches = Matches(
                    torch.stack([rows, rows], dim=1),
                    features(60, i - 1).keypoints[0, :count],
                    current.keypoints[0, :count],
                    torch.linspace(0.6, 0.9, count),
                    inlier=rows < good if checked else None,
                    model=torch.eye(3, dtype=torch.float64) if checked and count else None,
                    model_type="homography" if checked and count else "",
                )
                reference = header_message(stamp - PERIOD, f"camera{topic}")
                writer.write(f"{topic}/matches", matches_message(matches, "temporal", header, reference), received)
                if path_of_camera:
                    place = (0.1 * i, 0.05 * i * i, 0.01 * i)
                    writer.write("/odometry", odometry(header, place), received)
    return path


def odometry(header: Any, place: tuple[float, float, float]) -> Any:
    kinds = typestore().types
    vector, zeros = kinds["geometry_msgs/msg/Vector3"], np.zeros(36)
    pose = kinds["geometry_msgs/msg/Pose"](
        kinds["geometry_msgs/msg/Point"](*place), kinds["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    )
    still = kinds["geometry_msgs/msg/Twist"](vector(0.0, 0.0, 0.0), vector(0.0, 0.0, 0.0))
    return kinds["nav_msgs/msg/Odometry"](
        header,
        "camera",
        kinds["geometry_msgs/msg/PoseWithCovariance"](pose, zeros),
        kinds["geometry_msgs/msg/TwistWithCovariance"](still, zeros),
    )


def test_numbers(tmp_path: Path) -> None:
    data = collect(write_recording(tmp_path / "results.mcap"))
    assert data.run is None and data.keypoints == {"/temporal_matcher/keypoints": 60}
    (stream,) = data.streams
    assert (stream.topic, stream.mode, stream.model_type) == ("/temporal_matcher/matches", "temporal", "homography")
    assert stream.size == (160, 120) and stream.checked
    assert stream.series.matches == [m for m, _ in COUNTS]
    # Without a match there is nothing to check.
    assert stream.series.inliers == [30, 5, 45, -1, 12, 40]
    share = stream.inlier_share
    assert share[[0, 1, 2, 4, 5]] == pytest.approx([0.75, 0.5, 0.9, 0.4, 40 / 44]) and np.isnan(share[3])
    assert stream.latency == pytest.approx([0.021, 0.022, 0.023, 0.024, 0.025, 0.026], abs=1e-6)
    assert stream.heat.sum() == sum(good for _, good in COUNTS)
    assert [(pair.rank, pair.number) for pair in stream.pairs] == [("best", 2), ("median", 4), ("worst", 3)]
    best = stream.pairs[0]
    assert len(best.matches) == 50 and best.matches.inlier is not None and int(best.matches.inlier.sum()) == 45
    assert [key[0] for key in best.keys] == [START + 2 * PERIOD, START + 3 * PERIOD]
    assert all(image is not None and image.shape == (120, 160, 3) for image in best.images)
    assert best.features[1] is not None and torch.equal(best.features[1].keypoints, features(60, 3).keypoints)


def test_coverage_and_histogram() -> None:
    points = np.array([[0, 0], [0.4, 0.4], [159, 119], [159.4, 119.4], [80, 0]])
    counts = histogram(points, (160, 120), 3, 4)
    assert counts.tolist() == [[2, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 2]]
    assert histogram(np.zeros((0, 2)), (160, 120), 3, 4).sum() == 0
    # A keypoint a little outside (sub-pixel) belongs to the border's cell.
    assert histogram(np.array([[-0.6, 120.2]]), (160, 120), 3, 4)[2, 0] == 1


def test_without_a_check_matches_decide(tmp_path: Path) -> None:
    data = collect(write_recording(tmp_path / "results.mcap", checked=False))
    (stream,) = data.streams
    assert not stream.checked and set(stream.series.inliers) == {-1} and stream.model_type == ""
    assert [(p.rank, p.number) for p in stream.pairs] == [("best", 2), ("median", 4), ("worst", 3)]
    page = render(data)
    assert "no geometric check" in page and "Inlier share" not in page and "Best pair by matches" in page


def test_one_pair_is_best_median_and_worst(tmp_path: Path) -> None:
    matches = Matches(torch.tensor([[0, 0]]), torch.ones(1, 2), torch.ones(1, 2), torch.ones(1))
    with McapWriter(tmp_path / "one.mcap") as writer:
        message = matches_message(matches, "stereo", header_message(2, "right"), header_message(2, "left"))
        writer.write("/stereo_matcher/matches", message, 5)
    data = collect(tmp_path / "one.mcap")
    assert [p.rank for p in data.streams[0].pairs] == ["best and median and worst"]
    page = render(data)
    assert "Best and median and worst pair by matches (its images are not in the file)" in page
    assert 'class="chart' not in page and parse(page).counts.get("svg", 0) == 0, "one pair has no course over time"
    assert '<div class="controls line" hidden>' in page, "and nothing to scrub"


def test_left_and_right_of_the_same_stamp_and_frame_are_told_apart(tmp_path: Path) -> None:
    matches = Matches(torch.tensor([[0, 0]]), torch.ones(1, 2), torch.ones(1, 2), torch.ones(1))
    header = header_message(START, "rig")
    with McapWriter(tmp_path / "stereo.mcap") as writer:
        for value, side in enumerate(("left", "right"), start=1):
            image = np.full((*SIZE, 3), 50 * value, np.uint8)
            writer.write(f"/stereo/{side}/image_rect", image_message(image, header), START)
            writer.write(f"/stereo_matcher/{side}/keypoints", keypoints_message(features(value, 0), header), START)
        writer.write("/stereo_matcher/matches", matches_message(matches, "stereo", header, header), START)
    pair = collect(tmp_path / "stereo.mcap").streams[0].pairs[0]
    assert [int(image[0, 0, 0]) for image in pair.images if image is not None] == [50, 100]
    assert [item.keypoints.shape[1] for item in pair.features if item is not None] == [1, 2]


class _Page(HTMLParser):
    """Which elements there are, whether they are closed, and what they point to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.links: list[str] = []
        self.text = ""
        self.polylines: list[str] = []
        self.canvases = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        values = dict(attrs)
        self.links += [str(values[name]) for name in ("src", "href") if name in values]
        if tag == "polyline":
            self.polylines.append(str(values["points"]))
        if tag == "canvas":
            self.canvases += 1
        if tag not in ("meta", "link", "img", "line", "polyline", "polygon", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(page: str) -> _Page:
    parser = _Page()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    write_report(write_recording(tmp_path / "results.mcap"), tmp_path / "report.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "results.mcap"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = parse(text)
    assert page.links and all(link.startswith("data:") for link in page.links)
    assert "url(" not in text and "@import" not in text and "http" not in text.replace("http-equiv", "")
    assert page.counts["script"] == 2  # the data, and what the policy names by its hash
    assert page.counts["svg"] == 6 and page.counts["img"] == 4  # the heat map and three pairs
    for expected in (
        "6pairs",
        "35matches per pair, median",
        "75%inlier share, median",
        "24 msimage to matches, median",
    ):
        assert expected in page.text, expected
    assert "a recording of the running nodes" in page.text and "60 keypoints per image (median)" in page.text


def test_curves_hold_the_values(tmp_path: Path) -> None:
    page = parse(render(collect(write_recording(tmp_path / "results.mcap"))))
    # 50 matches at most: the scale ends at 50, the height is 300.
    points = [tuple(map(float, p.split(","))) for p in page.polylines[0].split()]
    assert [y for _, y in points] == pytest.approx([300 * (1 - m / 50) for m, _ in COUNTS], abs=0.06)
    # Recorded 51 ms apart each.
    assert [x for x, _ in points] == pytest.approx([i * 200 for i in range(6)], abs=0.1)
    # Where nothing was checked there is a gap, not a zero.
    inliers = [len(p.split()) for p in page.polylines[1:3]]
    assert inliers == [3, 2]


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "results.mcap")
    assert render(collect(path)) == render(collect(path))


def test_several_streams_are_kept_apart(tmp_path: Path) -> None:
    data = collect(write_recording(tmp_path / "two.mcap", topics=("/front", "/rear")))
    assert [s.topic for s in data.streams] == ["/front/matches", "/rear/matches"]
    assert all(len(s.series.matches) == len(COUNTS) for s in data.streams)
    assert render(data).count("<h2>") == 2


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "<b onload=x>&.mcap")
    page = render(collect(path))
    assert "<b onload" not in page and "&lt;b onload=x&gt;&amp;.mcap" in page


def test_refusals(tmp_path: Path) -> None:
    with McapWriter(tmp_path / "text.mcap") as writer:
        writer.write("/chatter", typestore().types["std_msgs/msg/String"]("hello"), 1)
    with pytest.raises(BagError, match=r"holds no semantic_matcher_msgs/Matches; .*/chatter"):
        collect(tmp_path / "text.mcap")
    with pytest.raises(BagError, match="no such bag"):
        collect(tmp_path / "absent.mcap")
    results = write_recording(tmp_path / "results.mcap")
    with pytest.raises(OutputError, match="create it first"):
        write_report(results, tmp_path / "missing" / "report.html")
    (tmp_path / "cut.mcap").write_bytes(results.read_bytes()[:5000])
    with pytest.raises(BagError, match=r"cut\.mcap"):
        write_report(tmp_path / "cut.mcap", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_what_is_wrong_with_a_file_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write_recording(tmp_path / "results.mcap").read_bytes()
    (tmp_path / "cut.mcap").write_bytes(whole[:-100])
    collect(tmp_path / "cut.mcap")
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        f"it is cut short after {len(whole) - 100} bytes: its end is missing"
    ]


def test_charts() -> None:
    assert [nice_ceiling(v) for v in (0, float("nan"), 1, 7.9, 8.01, 95, 1030)] == [1, 1, 1, 8, 10, 100, 1500]
    x, mean, low, high = thin_out(np.arange(1000.0), np.arange(1000.0) % 10, 100)
    assert len(x) == 100 and set(mean) == {4.5} and set(low) == {0} and set(high) == {9}
    # Nothing to draw is no chart.
    assert time_chart("t", np.zeros(0), [Curve("c", np.zeros(0), "blue")]) == ""
    assert time_chart("t", np.arange(2.0), [Curve("c", np.full(2, np.nan), "blue")]) == ""
    single = parse(time_chart("t", np.array([5.0]), [Curve("c", np.array([2.0]), "blue")]))
    assert single.polylines == ["0.0,0.0 0.0,0.0"]
    long = parse(time_chart("t", np.arange(5000.0), [Curve("c", np.arange(5000.0), "blue")]))
    assert long.counts["polygon"] == 1 and len(long.polylines[0].split()) == 400


def test_heat_map_is_bright_where_matches_are(tmp_path: Path) -> None:
    (stream,) = collect(write_recording(tmp_path / "results.mcap", images=False)).streams
    stream.heat[:] = 0
    stream.heat[:18, 24:] = 5
    picture = heat_map(stream).astype(int)
    assert picture.shape == (480, 640, 3)
    assert picture[100, 500].sum() > 400 > picture[400, 100].sum() + 150


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write_recording(tmp_path / "results.mcap")
    assert main(["report", str(results)]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'results.html'}\n"
    assert main(["report", str(results), "-o", str(tmp_path / "report.pdf")]) == 2
    assert "must end in .html" in capsys.readouterr().err


# In a browser.

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_DRIVER = Path(__file__).with_name("report_driver.html")


class _Server(ThreadingHTTPServer):
    requested: list[str]


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/wait":
            time.sleep(0.02)
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()

    def log_request(self, *arguments: Any) -> None:
        assert isinstance(self.server, _Server)
        self.server.requested.append(self.path)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[_Server]:
    serving = _Server(("127.0.0.1", 0), lambda *a: _Handler(*a, directory=str(tmp_path)))
    serving.requested = []
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    yield serving
    serving.shutdown()
    serving.server_close()
    thread.join()


@pytest.mark.skipif(BROWSER is None, reason="no chromium: its Debian package is chromium")
@pytest.mark.parametrize("width", [390, 1440])
def test_in_a_browser(tmp_path: Path, server: _Server, width: int) -> None:
    results = write_recording(tmp_path / "a_rather_long_name_of_results.mcap", path_of_camera=True)
    write_report(results, tmp_path / "report.html")
    # Of the last pair, on the current image alone, as shares of it.
    last = collect(results).streams[0].timeline.pairs[-1]
    good = np.flatnonzero(last.inlier)
    target = ((last.points[good[0], 2:] + 0.5) / (SIZE[1], SIZE[0])).tolist()
    driver = _DRIVER.read_text(encoding="utf-8").replace("WIDTH", str(width)).replace("TARGET", str(target))
    (tmp_path / "measure.html").write_text(driver, encoding="utf-8")
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1500,1000",
        "--virtual-time-budget=20000",
        "--enable-logging=stderr",
        "--dump-dom",
        f"http://127.0.0.1:{server.server_port}/measure.html",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    # Scripts' messages, and violations of the page's own policy, are logged as CONSOLE.
    assert "CONSOLE" not in done.stderr, done.stderr
    assert set(server.requested) <= {"/measure.html", "/report.html", "/favicon.ico", "/wait"}
    result = json.loads(done.stdout.partition('<pre id="result">')[2].partition("</pre>")[0])
    assert result["title"] == "Report on a_rather_long_name_of_results.mcap"
    assert result["width"] == width and result["widest"] <= width  # nothing to scroll sideways
    assert result["smallest"] >= 12 and min(result["touch"]) >= 30
    assert len(result["charts"]) == 7 and all(w > 250 and h > 150 for w, h in result["charts"])
    assert len(result["curves"]) >= 7 and all(w > 10 or h > 1 for w, h in result["curves"])
    assert len(result["images"]) == 4 and all(
        done and natural >= 600 and w > 250 for done, natural, w in result["images"]
    )
    across = [w for w, _ in result["charts"]]
    assert max(across) <= (width if width == 390 else width / 2)

    seen = result["seen"]
    captions = {
        "first": "Pair 3 of 6, 0.102 s: 50 matches, 45 inliers; 50 shown",  # the best
        "scrubbed": "Pair 1 of 6, 0 s: 40 matches, 30 inliers; 40 shown",
        "right": "Pair 2 of 6, 0.051 s: 10 matches, 5 inliers; 10 shown",
        "end": "Pair 6 of 6, 0.255 s: 44 matches, 40 inliers; 44 shown",
        "inliers": "Pair 6 of 6, 0.255 s: 44 matches, 40 inliers; 40 shown",
        "threshold": "Pair 6 of 6, 0.255 s: 44 matches, 40 inliers; 18 shown",
        "clicked": "Pair 3 of 6, 0.102 s: 50 matches, 45 inliers; 45 shown",
    }
    assert {name: seen[name] for name in captions} == captions
    assert seen["level"] == "0.75" and seen["readout"] == "0.102 s: 50 matches, 45 inliers"
    assert len(set(result["drawn"])) >= 7  # each step drew something else
    (w, h), (lines_w, lines_h) = seen["arrows_canvas"], seen["lines_canvas"]
    assert w / h == pytest.approx(4 / 3, rel=0.01)
    # Side by side, and one below the other on a phone.
    assert lines_w / lines_h == pytest.approx(4 / 6 if width == 390 else 8 / 3, rel=0.03)
    assert "compared 0." in seen["chosen"] and seen["unchosen"] == ["", True]
    x, y = last.points[good[0], 2:]
    # The mark stands where the camera was: at the start, and 0.5 of 0.5 m to the right, 1.75 of 1.75 m up at the end.
    assert seen["path_start"] == pytest.approx([20, 620], abs=0.2)
    assert seen["path_end"] == pytest.approx([20 + 600 * 0.5 / 1.75, 20], abs=0.2)
    assert seen["hint"] and f"({x:.1f}, {y:.1f})" in seen["hovered"] and "inlier" in seen["hovered"]


def track(positions: np.ndarray) -> Track:
    stamps = START + np.arange(len(positions)) * PERIOD
    return Track(stamps + 5, stamps, np.hstack([positions, np.tile([0.0, 0, 0, 1], (len(positions), 1))]))


def test_a_trajectory_is_drawn_from_above_and_its_height_over_time() -> None:
    angle = np.linspace(0, np.pi, 4000)
    way = np.stack([np.cos(angle), 2 * np.sin(angle), -3 + 0 * angle], axis=1)
    figure = trajectory_figures("/odom<b>", 0, track(way))
    assert "x to the right, y up" in figure and "&lt;b&gt;" in figure and "4.84 m long" in figure
    assert "Height (z)" in figure and "-3 m" in figure and 'class="curve truth"' not in figure
    data = path_data(START, track(way))
    assert len(data["x"]) == len(data["seconds"]) == 1500
    assert min(data["x"]) == min(data["y"]) == 20 and max(data["x"]) == pytest.approx(620) == max(data["y"])
    assert trajectory_figures("/odom", 0, track(np.array([[1.0, 2, 3]]))) == ""
    assert trajectory_figures("/odom", 0, track(np.full((5, 3), np.nan))) == ""
    assert path_data(0, track(np.full((5, 3), np.nan)))["x"] == []
    assert "0 m long" in trajectory_figures("/odom", 0, track(np.ones((5, 3))))


def test_the_true_trajectory_is_drawn_beside_it_in_its_frame() -> None:
    way = np.stack([np.linspace(0, 2, 9), np.linspace(0, 1, 9) ** 2, 0.1 * np.arange(9)], axis=1)
    odometry = track(way)
    # Elsewhere, turned by 90 degrees about z, and recorded at other times.
    turned = way @ np.array([[0, 1.0, 0], [-1, 0, 0], [0, 0, 1]]) + (5, 6, 7)
    quaternion = np.tile([0, 0, np.sqrt(0.5), np.sqrt(0.5)], (9, 1))
    truth = Truth("true.txt", odometry.stamps, np.hstack([turned, quaternion]))
    figure = trajectory_figures("/odom", 0, odometry, truth)
    assert "Dashed: true.txt, aligned" in figure and "over 9 of 9 poses" in figure
    lines = re.findall(r'<polyline class="curve (?:truth|neutral)" points="([^"]*)"/>', figure)
    assert len(lines) == 4 and lines[2] == lines[3] and lines[0] == lines[1]
    off = trajectory_figures("/odom", 0, track(way + 0.1 * (np.arange(9) % 2)[:, None] * (1, 0, 0)), truth)
    assert "cm (ATE)" in off and "mm and 0° (RPE)" in off
    late = Truth("late.txt", odometry.stamps + 10**12, truth.poses)
    assert "of 0 of 9 poses" in trajectory_figures("/odom", 0, odometry, late)


def test_the_command_takes_the_truth_from_text_and_bags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write_recording(tmp_path / "a.mcap", path_of_camera=True)
    with BagReader(results) as bag:
        found = [stamp_of(m.message.header) for m in bag.messages(["/odometry"])]
    rows = "".join(f"{s / 1e9:.6f} {0.1 * i} {0.3 * i} 0 0 0 0 1\n" for i, s in enumerate(found))
    (tmp_path / "true.txt").write_text(rows)
    assert main(["report", str(results), "--ground-truth", str(tmp_path / "true.txt")]) == 0
    assert "true.txt, aligned" in (tmp_path / "a.html").read_text()
    more = ["--ground-truth", str(results), "--ground-truth-topic", "/odometry"]
    assert main(["report", str(results), *more]) == 0
    assert "a.mcap /odometry, aligned. Root mean square error 0 cm" in (tmp_path / "a.html").read_text()
    without = write_recording(tmp_path / "b.mcap")
    for arguments, named in (
        ([str(results), "--ground-truth", str(tmp_path / "none.txt")], "no such trajectory"),
        ([str(results), "--ground-truth", str(without)], "0 topics of poses"),
        ([str(results), "--ground-truth", str(results), "--ground-truth-topic", "/od"], "of poses are: /odometry"),
        ([str(results), "--ground-truth-topic", "/odometry"], "--ground-truth"),
        ([str(without), "--ground-truth", str(tmp_path / "true.txt")], "no odometry to compare"),
    ):
        assert main(["report", *arguments]) != 0
        assert named in " ".join(capsys.readouterr().err.split())


def test_scales_that_do_not_begin_at_zero_hold_all_values() -> None:
    for values in ([-3.0, -2.9], [0.97, 2.03], [5.0, 5.0], [-1e-3, 4e5]):
        chart = time_chart("h", np.arange(2.0), [Curve("h", np.array(values), "neutral")], from_zero=False)
        heights = [float(y) for y in re.findall(r"[\d.]+,([\d.]+)", chart.split('class="curve neutral"')[1])]
        assert all(0 <= y <= 300 for y in heights)
        assert len(set(heights)) == len(set(values))
