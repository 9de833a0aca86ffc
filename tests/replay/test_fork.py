"""WIN-08: `replay fork`: histories that might have been, over a model of the host; nothing is written or done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.aggregates.catalog import ALL_DECIDERS
from replay.fork.fork import fork
from replay.plain import plain
from replay.reader import LogReader
from replay.world import World, world_at
from tests.replay.conftest import Replay
from tests.simulation.checkers import CODEC
from tests.simulation.machine import Behaviour
from tests.simulation.test_mended import World as Engine
from tests.simulation.test_mended import play
from tests.support.story import JOB, LONE, WEB


def changed(answer: dict[str, Any], stream: str) -> dict[str, tuple[Any, Any]]:
    """What became of an object: field -> without the change, with it."""
    (change,) = (change for change in answer["changes"] if change["stream"] == stream)
    return {field["path"]: (field["before"], field["after"]) for field in change["fields"]}


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["name"] for event in events]


# -- left out ----------------------------------------------------------------------------------------------------------


def test_without_a_stop_the_container_runs_on_and_its_removal_is_refused(replay: Replay) -> None:
    stop = next(event for event in replay.lines("log") if event["name"] == "container.stop_requested")
    answer = replay.json("fork", "--without", f"@{stop['position']}")
    assert answer["at"] == stop["position"] - 1
    assert answer["would"] == []
    assert {"container.exited", "container.removed", "name.released"} <= set(names(answer["would_not"]))
    (refused,) = answer["refused"]
    assert refused["recorded"]["name"] == "container.remove_requested"
    assert refused["message"].startswith('cannot remove container "web": container is running')
    assert [(each["kind"], each["stream"]) for each in answer["changes"]][0] == ("added", f"container:{WEB}")
    assert "What would have been refused" in replay("fork", "--without", f"@{stop['position']}")


def test_without_a_container_the_others_have_its_address_and_its_requests_have_no_object(replay: Replay) -> None:
    created = next(event for event in replay.lines("log") if event["name"] == "container.created")
    answer = replay.json("fork", "--without", str(created["position"]))
    assert {each["message"] for each in answer["refused"]} == {f"No such container: {WEB}"}
    given = [each["data"] for each in answer["would"] if each["name"] == "network.endpoint_allocated"]
    assert [(each["endpoint"]["container_id"], each["endpoint"]["ipv4_address"]) for each in given] == [
        (JOB, "172.17.0.2"),
        (LONE, "172.17.0.3"),
    ]


# -- asked for besides -------------------------------------------------------------------------------------------------


def test_with_a_restart_policy_the_container_that_ran_out_of_memory_is_started_again(replay: Replay) -> None:
    before = next(event for event in replay.lines("log") if event["name"] == "container.exited")["position"] - 1
    answer = replay.json("fork", f"@{before}", "--what-if", "update --restart always job", "--until", "now")
    assert answer["refused"] == []
    assert {"container.restart_scheduled", "container.start_requested", "container.started"} <= set(
        names(answer["would"])
    )
    assert changed(answer, f"container:{JOB}")["status"] == ("exited", "running")
    assert changed(answer, f"container:{JOB}")["restart_count"] == (0, 1)


def test_commands_are_given_one_after_the_other_and_refused_in_dockers_words(replay: Replay) -> None:
    wishes = ("rm lone", "stop lone", "rename lone alone", "rm alone", "pause alone", "update --pids-limit 7 job")
    answer = replay.json("fork", *(word for wish in wishes for word in ("--what-if", wish)))
    assert [(each["wish"], each["message"][:38]) for each in answer["refused"]] == [
        ("rm lone", 'cannot remove container "lone": contai'),
        ("pause alone", f"No such container: {LONE}"[:38]),
    ]
    assert names(answer["would"])[:3] == ["container.stop_requested", "container.exited", "container.stopped"]
    assert names(answer["would"])[-1] == "container.updated"
    assert ("removed", f"container:{LONE}") in [(each["kind"], each["stream"]) for each in answer["changes"]]
    assert changed(answer, f"container:{JOB}")["host.PidsLimit"] == (None, 7)


def test_a_network_that_is_used_stays_and_a_container_can_join_another(replay: Replay) -> None:
    wishes = ("network rm backend", "network connect bridge job", "network rm bridge", "volume rm data")
    answer = replay.json("fork", *(word for wish in wishes for word in ("--what-if", wish)))
    messages = [each["message"] for each in answer["refused"]]
    assert messages == [messages[0]]
    assert "has active endpoints" in messages[0]
    assert [(each["kind"], each["label"]) for each in answer["changes"]] == [
        ("removed", "network backend (d2d2d2d2d2d2)"),
        ("removed", "volume data"),
    ]


def test_nothing_asked_is_nothing_changed(replay: Replay) -> None:
    for moment in ("1", "@16", "@30", "now"):
        answer = replay.json("fork", moment)
        assert [answer[key] for key in ("would", "would_not", "refused", "changes")] == [[], [], [], []]
    assert "nothing changed" in replay("fork")


@pytest.mark.parametrize(
    ("question", "code", "complaint"),
    [
        (("--what-if", "start nobody"), 1, "nothing that is called 'nobody'"),
        (("--what-if", "login"), 2, "invalid choice: 'login'"),
        (("--what-if", "update --memory much lone"), 2, "--memory"),
        (("--what-if", "kill -s NONE lone"), 2, "invalid signal: NONE"),
        (("--what-if", "rm 'lone"), 2, "No closing quotation"),
        (("30", "--without", "@29"), 2, "history parts at 33"),
        (("--without", "@999"), 2, "past the end of the log"),
    ],
)
def test_what_nobody_can_answer_is_said_so(
    replay: Replay, question: tuple[str, ...], code: int, complaint: str
) -> None:
    assert replay("fork", *question) == ""
    assert replay.code == code
    assert complaint in replay.complaint


def test_nothing_is_written(replay: Replay) -> None:
    before = replay.path.read_bytes(), sorted(replay.path.parent.iterdir())
    replay("fork", "--what-if", "rm -f lone")
    assert (replay.path.read_bytes(), sorted(replay.path.parent.iterdir())) == before


# -- the model --------------------------------------------------------------------------------------------------------


def states(world: World) -> dict[str, Any]:
    """Everything that lives, without where the next address is looked for."""
    found = {}
    for kind in ("container", "image", "network", "volume"):
        for state in world.living(kind):
            found[f"{kind}:{getattr(state, 'name', '') or plain(state)[f'{kind}_id']}"] = {
                key: value for key, value in plain(state).items() if key != "cursors"
            }
    return found


def test_the_model_of_the_host_makes_of_an_engines_requests_what_the_engine_made_of_them(tmp_path: Path) -> None:
    """From the end of each transaction of a life on: the same containers, addresses, ports, exits and volumes."""

    async def story(engine: Engine) -> None:
        await engine.ask("POST", "/networks/create", {"Name": "front"}, status=201)
        await engine.create("web", NetworkMode="front", PortBindings={"80/tcp": [{"HostPort": ""}]}, Binds=["data:/d"])
        await engine.create("job", Behaviour(after_s=0.5, code=3), RestartPolicy={"Name": "on-failure"})
        await engine.create("once", Behaviour(after_s=0.1), AutoRemove=True)
        for name in ("web", "job", "once"):
            await engine.ask("POST", f"/containers/{name}/start", status=204)
        await engine.ask("POST", "/networks/bridge/connect", {"Container": "web"}, status=200)
        await engine.ask("POST", "/networks/bridge/disconnect", {"Container": "web"}, status=200)
        await engine.ask("POST", "/containers/web/pause", status=204)
        await engine.ask("POST", "/containers/web/unpause", status=204)
        await engine.ask("POST", "/containers/web/update", {"PidsLimit": 9}, status=200)
        await engine.ask("POST", "/containers/web/restart", status=204)
        await engine.ask("POST", "/containers/web/rename?name=site", status=204)
        await engine.ask("POST", "/containers/job/stop", status=204)
        await engine.ask("DELETE", "/containers/job?v=1", status=204)
        await engine.create("late", NetworkMode="front")
        await engine.ask("POST", "/containers/late/start", status=204)
        await engine.ask("DELETE", "/containers/late?force=1", status=204)
        await engine.at_rest()

    play(tmp_path, story)
    (log,) = tmp_path.glob("*/events.db")
    with LogReader(log, CODEC) as reader:
        events = list(reader.events())
        real = states(world_at(reader, ALL_DECIDERS, reader.head))
        for here, there in zip(events, events[1:], strict=False):
            if (here.cause, here.time_ns) == (there.cause, there.time_ns):
                continue  # within a transaction
            world = world_at(reader, ALL_DECIDERS, here.position)
            told = fork(world, (), time_ns=here.time_ns, rest=events[here.position :])
            assert states(world) == real, here.position
            assert not told.refused
