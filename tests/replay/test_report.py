"""The page that `replay report` makes and `replay serve` shows, looked at by a browser where there is one."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from replay.report.model import Lane, Mark, Picture
from replay.report.page import page
from tests.replay.conftest import Replay

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="the Debian package chromium is not installed")


def browsed(html: Path, tmp_path: Path, fragment: str = "") -> str:
    """The document after its script has run; a picture of it lies beside the file."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1400,900", "--hide-scrollbars", "--virtual-time-budget=3000",
    ]  # fmt: skip
    address = f"file://{html}{fragment}"
    picture = html.with_suffix(".png")
    subprocess.run([*command, f"--screenshot={picture}", address], capture_output=True, timeout=120, check=True)
    assert picture.stat().st_size > 10_000
    done = subprocess.run([*command, "--dump-dom", address], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def text(document: str, element: str) -> str:
    """What one reads in the element with an id."""
    found = re.search(rf'id="{element}"[^>]*>(.*?)</(?:section|aside|output|small)>', document, re.DOTALL)
    assert found is not None, element
    return " ".join(re.sub(r"<[^>]+>", " ", found[1]).split())


@pytest.fixture
def report(replay: Replay, tmp_path: Path) -> Path:
    target = tmp_path / "report.html"
    assert replay("report", "-o", str(target)) == ""
    return target


def test_the_page_is_one_file_that_needs_nobody(report: Path) -> None:
    html = report.read_text()
    assert not re.findall(r"(?:src|href)\s*=|@import|url\(|https?://", html)
    assert "default-src 'none'" in html


@needs_browser
def test_the_page_tells_the_state_at_an_event_and_what_caused_it(
    report: Path, replay: Replay, tmp_path: Path
) -> None:
    exited = replay.lines("log", "--name", "container.exited", "--object", "web")[0]["position"]
    document = browsed(report, tmp_path, f"#@{exited}")
    state = text(document, "state")
    assert "web exited image busybox" in state
    assert "lone running image busybox · address 172.17.0.2" in state
    assert "bridge ready driver bridge · subnet 172.17.0.0/16" in state
    told = text(document, "event")
    assert "web exited with 143, SIGTERM" in told
    assert "who the lifecycle reactor asked by uid 1000, by /usr/bin/docker" in told
    assert "asked to stop with SIGTERM" in told
    assert f"@{exited}" in text(document, "moment")


@needs_browser
def test_at_the_end_what_was_removed_is_gone(report: Path, tmp_path: Path) -> None:
    state = text(browsed(report, tmp_path), "state")
    assert "web" not in state.split()
    assert "job exited" in state


@needs_browser
def test_what_the_log_says_is_never_markup(tmp_path: Path) -> None:
    evil = "</script><img id='evil' src=x onerror='document.title=1'>"
    mark = Mark(
        position=1, time_ms=1.0, lane=0, name=evil, sentence=evil, actor=0, correlation=evil, cause=0, asked=evil,
        status=evil, says=((evil, evil),), ended=False,
    )  # fmt: skip
    lane = Lane(stream="container:x", kind="container", label=evil, names=[evil])
    html = tmp_path / "evil.html"
    html.write_text(page(Picture(lanes=(lane,), actors=(evil,), marks=(mark,), head=1, cut=0)))
    document = browsed(html, tmp_path, "#@1")
    assert "<img" not in document
    assert "&lt;img" in document


def test_a_report_of_a_part_begins_with_what_was_there(replay: Replay) -> None:
    html = replay("report", "--since", str(replay.marks["web runs"] + 1), "--events", "5")
    data = json.loads(re.findall(r'id="data" type="application/json">(.*?)</script>', html)[0])
    assert (len(data["marks"]), data["cut"] > 0) == (5, True)
    assert "web" in {lane["label"] for lane in data["lanes"]}


def test_export_gives_every_event_as_a_line(replay: Replay, tmp_path: Path) -> None:
    target = tmp_path / "events.jsonl"
    replay("export", "-o", str(target))
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert lines == replay.lines("log")
    assert replay("export", "--since", "3", "--until", "7").count("\n") == 5


def test_serve_shows_what_comes_and_answers_no_strange_name(story: tuple[Path, dict[str, int]]) -> None:
    command = [sys.executable, "-m", "replay", "--log", str(story[0]), "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().removeprefix("http://").rstrip("/\n")
        connection = http.client.HTTPConnection(address, timeout=30)

        def get(path: str, **headers: str) -> tuple[int, bytes]:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            return answer.status, body

        assert b"Replay" in get("/")[1]
        head = json.loads(get("/data?after=0")[1])["head"]
        assert json.loads(get("/data?after=30")[1])["marks"][0]["position"] > 30
        assert json.loads(get(f"/data?after={head}")[1])["marks"] == []
        assert get("/elsewhere")[0] == 404
        assert get("/", Host="elsewhere.example")[0] == 403
    finally:
        process.kill()
        process.wait(10)
