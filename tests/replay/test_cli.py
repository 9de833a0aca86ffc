"""What `replay` answers about a short history, on a copied file, to people and as JSON."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from engine.aggregates import volume
from engine.aggregates.catalog import ALL_DECIDERS
from engine.application import Application
from engine.codec import EventCodec
from replay.cli import main
from replay.plain import rfc3339
from replay.reader import LogReader
from tests.replay.conftest import Replay
from tests.support.counter import CAUSE, COUNTER, Add, SteppingClock, counters
from tests.support.story import BACKEND, JOB, LONE, SECRET, WEB, Teller


def test_log_tells_everything_in_order(replay: Replay) -> None:
    events = replay.lines("log")
    assert [event["position"] for event in events] == list(range(1, replay.marks["end"] + 1))
    created = next(event for event in events if event["name"] == "container.created")
    assert created["stream"] == f"container:{WEB}"
    assert created["actor"].startswith("uid=1000")
    assert created["data"]["config"]["Cmd"] == ["httpd", "-f"]
    text = replay("log")
    assert len(text.splitlines()) == replay.marks["end"]
    assert "created as 'web' from busybox" in text


def test_log_filters_by_object_actor_name_time_and_number(replay: Replay) -> None:
    assert {event["name"] for event in replay.lines("log", "--object", "web")} >= {
        "container.created",
        "name.reserved",
        "ports.reserved",
        "network.endpoint_allocated",
        "volume.referenced",
    }
    assert not any(JOB in json.dumps(event) for event in replay.lines("log", "--object", "web"))
    assert {event["actor"] for event in replay.lines("log", "--actor", "reactor:networking")} == {"reactor:networking"}
    assert len(replay.lines("log", "--name", "container.exited")) == 2
    assert [event["position"] for event in replay.lines("log", "-n", "3")][-1] == replay.marks["end"]
    assert len(replay.lines("log", "-n", "3")) == 3
    middle = replay.lines("log", "--since", "@10", "--until", "@12")
    assert [event["position"] for event in middle] == [10, 11, 12]
    by_time = replay.lines("log", "--since", middle[0]["time"], "--until", middle[-1]["time"])
    assert [event["position"] for event in by_time] == [10, 11, 12]
    assert replay.lines("log", "--until", "2000-01-01") == []
    correlation = middle[0]["correlation"]
    assert {event["correlation"] for event in replay.lines("log", "--correlation", correlation)} == {correlation}


def test_show_finds_an_object_by_id_part_of_an_id_and_name_also_when_it_is_gone(replay: Replay) -> None:
    for word in (WEB, WEB[:6], "web", "/web", f"container:{WEB}", "container:web"):
        shown = replay.json("show", word)
        assert shown["stream"] == f"container:{WEB}"
        assert shown["ended"] is True
        assert [event["name"] for event in shown["events"]][-1] == "container.removed"
    assert replay.json("show", "busybox")["state"]["platform"]["architecture"] == "amd64"
    assert replay.json("show", "backend")["stream"] == f"network:{BACKEND}"
    assert replay.json("show", "data")["stream"] == "volume:data"
    assert "stopped, as asked" in replay("show", "web")


def test_an_unknown_or_ambiguous_object_is_a_no(replay: Replay) -> None:
    replay("show", "nobody")
    assert (replay.code, "nobody" in replay.complaint) == (1, True)
    replay("show", "4f")
    assert replay.code == 1
    assert "2 ids" in replay.complaint


def test_at_shows_what_docker_would_have_shown_then(replay: Replay) -> None:
    assert "NAMES" in replay("at", "@0", "ps", "-a")
    then = replay("at", f"@{replay.marks['web runs']}", "ps")
    assert "0.0.0.0:8080->80/tcp" in then
    assert "Up 2 seconds" in then
    running = replay.json("at", str(replay.marks["all ran"]), "ps")
    assert {container["name"] for container in running} == {"web", "lone"}
    everything = replay("at", str(replay.marks["all ran"]), "ps", "-a")
    assert "Exited (137)" in everything
    assert [state["name"] for state in replay.json("at", "now", "ps")] == ["lone"]
    assert "busybox" in replay("at", "now", "images")
    assert "172.18.0.0/16" in replay("at", "now", "networks")
    assert "data" in replay("at", "now", "volumes")
    assert replay.json("at", "@1", "networks") == []


def test_at_inspect_is_the_state_then_by_position_or_time(replay: Replay) -> None:
    position = replay.marks["web runs"]
    state = replay.json("at", f"@{position}", "inspect", "web")
    assert (state["status"], state["pid"]) == ("running", 4711)
    time = replay.lines("log", "--since", f"@{position}", "--until", f"@{position}")[0]["time"]
    assert replay.json("at", time, "inspect", "web") == state
    assert replay.json("at", "now", "inspect", LONE)["status"] == "running"
    replay("at", f"@{position}", "inspect", "job")
    assert replay.code == 1, "it did not exist yet"


def test_diff_says_what_came_went_and_changed(replay: Replay) -> None:
    changes = replay.json("diff", f"@{replay.marks['web runs']}", "now")
    kinds = {change["stream"]: change["kind"] for change in changes}
    assert kinds[f"container:{WEB}"] == "removed"
    assert kinds[f"container:{LONE}"] == "added"
    first = replay.json("diff", f"@{replay.marks['web runs'] - 1}", f"@{replay.marks['web runs']}")
    assert [change["stream"] for change in first] == [f"container:{WEB}"]
    fields = {field["path"]: (field["before"], field["after"]) for field in first[0]["fields"]}
    assert fields["status"] == ("starting", "running")
    assert fields["pid"] == (0, 4711)
    assert "nothing changed" in replay("diff", "now", "now")
    replay("diff", "now", "@1")
    assert replay.code == 2


def test_why_names_who_asked_and_why_it_ended(replay: Replay) -> None:
    text = replay("why", "web")
    assert "uid 1000, by /usr/bin/docker (pid 412) asked it to stop with SIGTERM" in text
    assert "reserved for container 4f5eaaaaaaaa: 8080 to 80/tcp" in text
    assert "out of memory" in replay.json("why", "job")["verdict"]
    assert replay.json("why", "lone")["verdict"] == "It runs (pid 4713)."
    story = replay.json("why", "web")
    assert [step["asked_by"].split()[0] for step in story["steps"]][0] == "uid=1000"


@pytest.mark.parametrize(
    "question", [["log"], ["show", "web"], ["at", "20", "inspect", "web"], ["why", "web"], ["diff", "@0", "now"]]
)
def test_sealed_values_are_never_printed(replay: Replay, question: list[str]) -> None:
    for text in (replay(*question), replay(*question, "--json")):
        assert SECRET.decode() not in text
        assert base64.b64encode(SECRET).decode() not in text
    assert "<sealed>" in replay("show", "web")


def test_verify_passes_says_the_head_and_finds_a_flipped_byte(replay: Replay, tmp_path: Path) -> None:
    report = replay.json("verify")
    assert report["whole"] is True
    assert replay.code == 0
    head = f"{report['position']}:{report['seal']}"
    replay("verify", "--expect", head)
    assert replay.code == 0
    damaged = tmp_path / "events.db"
    content = bytearray(replay.path.read_bytes())
    content[content.index(b"httpd")] ^= 1
    damaged.write_bytes(content)
    assert main(["--log", str(damaged), "verify"]) == 1
    assert main(["--log", str(damaged), "verify", "--json"]) == 1


def test_what_can_not_be_read_is_said_in_a_line(replay: Replay, tmp_path: Path, capsys) -> None:
    assert main(["--log", str(tmp_path / "nothing.db"), "log"]) == 2
    (tmp_path / "noise.db").write_bytes(b"noise" * 5000)
    assert main(["--log", str(tmp_path / "noise.db"), "log"]) == 2
    replay("at", "yesterday evening", "ps")
    assert replay.code == 2
    assert "yesterday evening" in replay.complaint
    replay("at", "@4711", "ps")
    assert replay.code == 2


def test_nothing_is_left_beside_the_log_and_a_read_only_directory_is_enough(replay: Replay, tmp_path: Path) -> None:
    path = tmp_path / "shelf" / "events.db"
    path.parent.mkdir()
    shutil.copyfile(replay.path, path)
    path.chmod(0o444)
    path.parent.chmod(0o555)
    environment = {**os.environ, "COLUMNS": "200"}
    command = [sys.executable, "-m", "replay", "--log", str(path), "at", "now", "ps"]
    root = Path(__file__).parents[2]
    unprivileged = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
    for parent in (tmp_path, *tmp_path.parents):
        if unprivileged and str(parent).startswith("/tmp/pytest"):
            parent.chmod(0o755)
    result = subprocess.run([*unprivileged, *command], cwd=root, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "lone" in result.stdout
    assert [entry.name for entry in path.parent.iterdir()] == ["events.db"]


async def test_the_log_of_a_living_engine_is_read_with_what_is_not_yet_in_its_file(tmp_path: Path) -> None:
    codec = EventCodec(COUNTER.events)
    async with counters(tmp_path).running() as application:
        await application.execute(Add(name="a", amount=5), cause=CAUSE)
        with LogReader(tmp_path / "events.db", codec) as reader:
            assert reader.head == 5
        copied = tmp_path / "copied"
        copied.mkdir()
        for name in ("events.db", "events.db-wal"):
            shutil.copyfile(tmp_path / name, copied / name)
        with LogReader(copied / "events.db", codec) as reader:
            assert reader.head == 5
        assert sorted(path.name for path in copied.iterdir()) == ["events.db", "events.db-wal"]


def test_an_event_of_a_newer_engine_is_shown_as_it_was_stored(replay: Replay, tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    shutil.copyfile(replay.path, path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE stored_events SET topic = 'container.teleported@1' WHERE rowid = 35")
    database.close()
    newer = Replay(path, {}, replay._capsys)
    events = newer.lines("log")
    assert events[34]["name"] == "container.teleported"
    assert "teleported" in newer("log")


def test_the_events_of_an_impossible_history_are_still_listed(replay: Replay, tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    shutil.copyfile(replay.path, path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE stored_events SET topic = 'container.paused@1' WHERE rowid = 35")
    database.close()
    broken = Replay(path, {}, replay._capsys)
    assert len(broken.lines("log")) == replay.marks["end"]
    broken("show", "web")
    assert (broken.code, "position 35" in broken.complaint) == (2, True)


async def test_follow_tells_what_a_living_engine_appends(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "replay", "--log", str(tmp_path), "log", "--follow", "--json"]
    root = Path(__file__).parents[2]
    clock = SteppingClock()
    application = Application(tmp_path, deciders=ALL_DECIDERS, clock=clock)
    async with application.running():
        teller = Teller(application, clock)
        await teller.user(create_volume("one"))
        # What was started in the background ignores interrupts, and so do its children unless they are told otherwise.
        heeding = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True, preexec_fn=heeding)
        assert process.stdout is not None
        try:
            with trio.fail_after(30):
                first = json.loads(await trio.to_thread.run_sync(process.stdout.readline))
                assert first["stream"] == "volume:one"
                await teller.user(create_volume("two"))
                second = json.loads(await trio.to_thread.run_sync(process.stdout.readline))
                assert second["stream"] == "volume:two"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)
    assert process.returncode == 130


def test_times_are_printed_with_all_their_nanoseconds() -> None:
    assert rfc3339(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"


def create_volume(name: str) -> volume.CreateVolume:
    return volume.CreateVolume(name=name, at=1, driver="local", options={}, labels={}, anonymous=False)
