"""Every command in every status, and what Docker says where it says no."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from engine.aggregates.container import commands as c
from engine.aggregates.container import events as e
from engine.aggregates.container.decide import DECIDER, restarts_at_boot
from engine.aggregates.container.lifecycle import Status
from engine.aggregates.decider import Command, Reason, Rejected
from engine.aggregates.values.config import ContainerConfig, HealthConfig, HostConfig, Resources, RestartPolicy
from engine.aggregates.values.endpoints import NetworkAttachment
from engine.aggregates.values.health import HealthStatus
from tests.aggregates.container.lives import (
    ALWAYS,
    ATTACHED,
    COMMIT,
    COMMIT_FAILED,
    COMMITTED,
    CONNECT,
    CONNECT_FAILED,
    CONNECTED,
    DISCONNECT,
    DISCONNECTED,
    HEALTH,
    HELD,
    ID,
    LIMITS,
    LIVES,
    MS,
    NEW,
    NOTE,
    NOW,
    OTHER,
    OVERDUE,
    PAUSE,
    RENAME,
    REPORT_FREEZE_FAILED,
    REPORT_PAUSED,
    REPORT_REMOVED,
    REPORT_UNPAUSED,
    REPORT_UPDATE_FAILED,
    REPORT_UPDATED,
    RESTART,
    SECOND,
    START,
    UNPAUSE,
    UPDATE,
    WISH,
    create,
    exited,
    failed,
    history,
    kill,
    live,
    remove,
    started,
    stop,
)
from tests.support.memory import Story, outcome

S = Status
CONFLICT, INVALID, FORBIDDEN = Reason.CONFLICT, Reason.INVALID, Reason.FORBIDDEN
NO, UNKNOWN, SAME = "no: conflict", "no: not found", "no: not modified"
COMMANDS: dict[str, Command] = {
    "create": create(),
    "start": START,
    "stop": stop(),
    "restart": RESTART,
    "kill": kill(),
    "hangup": kill(1),
    "pause": PAUSE,
    "unpause": UNPAUSE,
    "rename": RENAME,
    "update": UPDATE,
    "commit": COMMIT,
    "connect": CONNECT,
    "disconnect": DISCONNECT,
    "remove": remove(),
    "remove -f": remove(force=True),
}
# One line a status, one word a command; what is not said is NO.
TABLE: dict[Status, dict[str, str]] = {
    S.ABSENT: dict.fromkeys(COMMANDS, UNKNOWN) | {"create": "created"},
    S.CREATED: {
        "start": "start_requested",
        "stop": SAME,
        "restart": "start_requested",
        "unpause": "no: system",
        "rename": "renamed",
        "update": "updated",
        "commit": "commit_requested",
        "connect": "connected",
        "disconnect": "disconnected",
        "remove": "remove_requested",
        "remove -f": "remove_requested",
    },
    S.STARTING: {
        "start": SAME,
        "stop": SAME,
        "unpause": "no: system",
        "rename": "renamed",
        "update": "updated",
    },
    S.RUNNING: {
        "start": SAME,
        "stop": "stop_requested",
        "restart": "stop_requested",
        "kill": "kill_requested",
        "hangup": "kill_requested",
        "pause": "pause_requested",
        "unpause": "no: system",
        "rename": "renamed",
        "commit": "commit_requested pause_requested",
        "update": "update_requested",
        "connect": "connect_requested",
        "disconnect": "disconnect_requested",
        "remove -f": "kill_requested remove_requested",
    },
    S.PAUSED: {
        "stop": "stop_requested unpause_requested",
        "restart": "stop_requested unpause_requested",
        "kill": "kill_requested unpause_requested",
        "hangup": "kill_requested unpause_requested",
        "unpause": "unpause_requested",
        "rename": "renamed",
        "commit": "commit_requested",
        "update": "update_requested",
        "connect": "connect_requested",
        "disconnect": "disconnect_requested",
        "remove -f": "kill_requested remove_requested",
    },
    S.RESTARTING: {
        "start": "start_requested",
        "stop": "stop_requested stopped",
        "restart": "start_requested",
        "kill": "kill_requested stopped",
        "unpause": "no: system",
        "rename": "renamed",
        "update": "updated",
        "commit": "commit_requested",
        "connect": "connected",
        "disconnect": "disconnected",
        "remove -f": "remove_requested",
    },
    S.REMOVING: {"stop": SAME, "unpause": "no: system"},
    S.REMOVED: dict.fromkeys(COMMANDS, UNKNOWN),
}
TABLE[S.STARTING_AGAIN] = TABLE[S.STARTING]
TABLE[S.EXITED] = TABLE[S.CREATED]
TABLE[S.PAUSING] = TABLE[S.RUNNING] | dict.fromkeys(("start", "pause", "remove -f"), NO)
TABLE[S.PAUSING]["commit"] = "commit_requested"
TABLE[S.UNPAUSING] = TABLE[S.PAUSING]

REPORTS: dict[str, Command] = {
    "started": started(2),
    "failed": failed(2),
    "paused": REPORT_PAUSED,
    "unpaused": REPORT_UNPAUSED,
    "freeze failed": REPORT_FREEZE_FAILED,
    "exited": exited(1),
    "health": HEALTH,
    "updated": REPORT_UPDATED,
    "update failed": REPORT_UPDATE_FAILED,
    "connected": CONNECTED,
    "connect failed": CONNECT_FAILED,
    "disconnected": DISCONNECTED,
    "removed": REPORT_REMOVED,
    "committed": COMMITTED,
    "commit failed": COMMIT_FAILED,
}
TOLD: dict[Status, dict[str, str]] = {
    S.STARTING_AGAIN: {"started": "started", "failed": "start_failed"},
    S.RUNNING: {"exited": "exited", "health": "health_reported"},
    S.PAUSING: {
        "exited": "exited",
        "health": "health_reported",
        "paused": "paused",
        "freeze failed": "freeze_failed",
    },
    S.PAUSED: {"exited": "exited", "health": "health_reported"},
    S.UNPAUSING: {
        "exited": "exited",
        "health": "health_reported",
        "unpaused": "unpaused",
        "freeze failed": "freeze_failed",
    },
    S.REMOVING: {"exited": "exited", "removed": "removed"},
}
"""What is news in each status; every other report is stale, and nothing follows it."""


@pytest.mark.parametrize("status", Status, ids=lambda status: status.value)
def test_a_life_leads_to_every_status(status: Status) -> None:
    assert live(*LIVES[status]).status is status


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("status", Status, ids=lambda status: status.value)
def test_a_wish_is_granted_or_refused_as_the_table_says(status: Status, name: str) -> None:
    assert outcome(DECIDER, live(*LIVES[status]), COMMANDS[name]) == TABLE[status].get(name, NO)


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("status", [s for s in Status if s is not S.ABSENT], ids=lambda status: status.value)
def test_a_report_is_news_once_and_stale_for_ever(status: Status, name: str) -> None:
    state = live(*LIVES[status])
    assert outcome(DECIDER, state, REPORTS[name]) == TOLD.get(status, {}).get(name, "nothing")


def test_what_a_commit_froze_is_thawed_with_its_last_outcome() -> None:
    """CTR-34: an outcome thaws; a user's own pause stays; one that is still being frozen is thawed as soon as it is."""
    running = live(*LIVES[S.RUNNING])
    second = replace(COMMIT, commit_id="c2")
    frozen = live(*LIVES[S.RUNNING], COMMIT, REPORT_PAUSED, second)
    assert outcome(DECIDER, frozen, COMMITTED) == "committed"
    last = live(*LIVES[S.RUNNING], COMMIT, REPORT_PAUSED, second, COMMITTED)
    assert outcome(DECIDER, last, replace(COMMIT_FAILED, commit_id="c2")) == "commit_failed unpause_requested"
    by_user = live(*LIVES[S.PAUSED], COMMIT)
    assert outcome(DECIDER, by_user, COMMITTED) == "committed"
    early = live(*LIVES[S.RUNNING], COMMIT, COMMIT_FAILED)
    assert outcome(DECIDER, early, REPORT_PAUSED) == "paused unpause_requested"
    assert not running.frozen_by_commit and frozen.frozen_by_commit


def test_a_stop_that_is_overdue_becomes_a_kill_once() -> None:
    """CTR-10, EVT-05: the kill is an event of its own; a restart that is overdue still starts again."""
    assert outcome(DECIDER, live(*LIVES[S.RUNNING]), OVERDUE) == "nothing"
    assert outcome(DECIDER, live(*LIVES[S.RUNNING], stop()), OVERDUE) == "kill_requested"
    assert outcome(DECIDER, live(*LIVES[S.RUNNING], stop(), OVERDUE), OVERDUE) == "nothing"
    assert outcome(DECIDER, live(*LIVES[S.RUNNING], RESTART, OVERDUE), exited()) == "exited stopped restart_scheduled"
    assert outcome(DECIDER, live(*LIVES[S.RUNNING], RESTART, exited()), OVERDUE) == "nothing"


def test_a_note_changes_nothing_and_is_dropped_once_there_is_nobody_to_tell_of() -> None:
    """EVT-03."""
    running = live(*LIVES[S.RUNNING])
    assert outcome(DECIDER, running, NOTE) == "noted"
    assert live(*LIVES[S.RUNNING], NOTE) == running
    assert outcome(DECIDER, live(*LIVES[S.REMOVED]), NOTE) == "nothing"


def test_a_report_about_a_container_that_never_was_is_refused() -> None:
    Story(DECIDER, ID).when(REPORT_REMOVED).rejected(Reason.NOT_FOUND, f"No such container: {ID}")


@pytest.mark.parametrize(
    ("status", "command", "reason", "words"),
    [
        (S.CREATED, kill(), CONFLICT, f"cannot kill container: web: container {ID} is not running"),
        (S.CREATED, PAUSE, CONFLICT, f"container {ID} is not running"),
        (S.CREATED, UNPAUSE, Reason.SYSTEM, f"Container {ID} is not paused"),
        (S.CREATED, create(), CONFLICT, f"container {ID} exists already"),
        (S.PAUSED, START, CONFLICT, "cannot start a paused container, try unpause instead"),
        (S.PAUSED, PAUSE, CONFLICT, f"container {ID} is already paused"),
        (S.RESTARTING, PAUSE, CONFLICT, f"Container {ID} is restarting, wait until the container is running"),
        (S.REMOVING, START, CONFLICT, "container is marked for removal and cannot be started"),
        (S.REMOVING, remove(), CONFLICT, f"removal of container {ID} is already in progress"),
        (
            S.REMOVING,
            UPDATE,
            CONFLICT,
            f'Cannot update container {ID}: container is marked for removal and cannot be "update"',
        ),
        (
            S.RUNNING,
            remove(),
            CONFLICT,
            'cannot remove container "web": container is running: stop the container before removing or force remove',
        ),
        (
            S.PAUSED,
            remove(),
            CONFLICT,
            'cannot remove container "web": container is paused and must be unpaused first',
        ),
        (
            S.CREATED,
            c.RenameContainer(container_id=ID, name="web"),
            INVALID,
            "Renaming a container with the same name as its current name",
        ),
        (
            S.RUNNING,
            c.ConnectContainer(container_id=ID, at=NOW, attachment=ATTACHED),
            FORBIDDEN,
            "endpoint with name web already exists in network front",
        ),
        (
            S.CREATED,
            c.DisconnectContainer(container_id=ID, at=NOW, network_id=OTHER),
            Reason.SYSTEM,
            f"container {ID} is not connected to the network {OTHER}",
        ),
        (S.REMOVED, START, Reason.NOT_FOUND, f"No such container: {ID}"),
    ],
)
def test_a_refusal_is_in_dockers_words(status: Status, command: Command, reason: Reason, words: str) -> None:
    Story(DECIDER, ID, *history(*LIVES[status])).when(command).rejected(reason, words)


# -- starts --------------------------------------------------------------------------------------------------------


def test_a_first_start_that_fails_leads_back_to_created_and_a_later_one_to_exited() -> None:
    assert live(create(), START, failed()).status is S.CREATED
    assert live(*LIVES[S.STARTING_AGAIN], failed(2)).status is S.EXITED


def test_a_failed_start_tells_its_error_until_the_next_one_succeeds() -> None:
    state = live(create(), START, failed(exit_code=127))
    assert (state.error, state.exit_code, state.failed_run, state.settled_runs) == ("no such file", 127, 1, 1)
    state = live(create(), START, failed(), START, started(2))
    assert (state.error, state.exit_code, state.settled_runs) == ("", 0, 2)


def test_a_start_that_failed_for_no_said_reason_exits_with_128() -> None:
    assert live(create(), START, failed(exit_code=0)).exit_code == 128


@pytest.mark.parametrize("report", [started(1), failed(1), exited(1)])
def test_a_report_about_an_earlier_run_changes_nothing(report: Command) -> None:
    assert outcome(DECIDER, live(*LIVES[S.STARTING_AGAIN]), report) == "nothing"


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (None, HealthStatus.NONE),
        (HealthConfig(test=("NONE",)), HealthStatus.NONE),
        (HealthConfig(test=("CMD", "true")), HealthStatus.STARTING),
    ],
)
def test_a_container_that_is_probed_starts_out_starting(check: HealthConfig | None, status: HealthStatus) -> None:
    made = replace(create(), config=ContainerConfig(cmd=("x",), healthcheck=check))
    assert live(made, START, started()).health.status is status


# -- ends ----------------------------------------------------------------------------------------------------------


def test_a_stop_is_told_as_stopped_with_the_exit() -> None:
    story = Story(DECIDER, ID, *history(*LIVES[S.RUNNING], stop()))
    state = story.when(exited(code=143)).then(
        e.ContainerExited(run=1, at=NOW, exit_code=143), e.ContainerStopped(at=NOW)
    )
    assert (state.status, state.stop, state.pid, state.endpoints, state.exits) == (S.EXITED, None, 0, (), 1)


def test_a_second_stop_that_is_due_later_waits_for_the_first() -> None:
    state = live(*LIVES[S.RUNNING], stop(deadline=NOW + SECOND))
    assert outcome(DECIDER, state, stop(deadline=NOW + 10 * SECOND)) == "nothing"


def test_a_second_stop_that_is_due_sooner_wins() -> None:
    state = live(*LIVES[S.RUNNING], stop(deadline=NOW + 60 * SECOND), stop(deadline=NOW + SECOND))
    assert state.stop is not None
    assert state.stop.deadline == NOW + SECOND


def test_a_stop_without_a_deadline_gives_way_to_one_with() -> None:
    state = live(*LIVES[S.RUNNING], stop(deadline=0), stop())
    assert state.stop is not None
    assert state.stop.deadline == NOW + 10 * SECOND


def test_a_stop_after_a_restart_calls_the_new_start_off() -> None:
    state = live(*LIVES[S.RUNNING], RESTART, stop(), exited())
    assert (state.status, state.manually_stopped) == (S.EXITED, True)


def test_a_restart_is_one_stop_and_a_start_that_is_due_at_once() -> None:
    story = Story(DECIDER, ID, *history(*LIVES[S.RUNNING], RESTART))
    state = story.when(exited(at=NOW + 5)).then(
        e.ContainerExited(run=1, at=NOW + 5, exit_code=0),
        e.ContainerStopped(at=NOW + 5, restart=True),
        e.ContainerRestartScheduled(due_at=NOW + 5, delay_ms=0, restart_count=0),
    )
    assert (state.status, state.manually_stopped) == (S.RESTARTING, False)


def test_a_restart_does_not_remove_a_container_that_is_removed_at_its_end() -> None:
    assert live(create(auto_remove=True), START, started(), RESTART, exited()).status is S.RESTARTING


@pytest.mark.parametrize("ending", [(), (stop(),), (kill(),)])
def test_the_end_of_a_container_that_is_removed_at_its_end_asks_for_that(ending: tuple[Command, ...]) -> None:
    events = history(create(auto_remove=True), START, started(), *ending, exited())
    assert events[-1] == e.ContainerRemoveRequested(at=NOW, volumes=True, auto=True)


def test_a_failed_start_of_a_container_that_is_removed_at_its_end_removes_it() -> None:
    state = live(create(auto_remove=True), START, failed())
    assert (state.status, state.remove_volumes) == (S.REMOVING, True)


@pytest.mark.parametrize("signal", [9, 15])
def test_a_kill_that_means_an_end_keeps_the_restart_policy_away(signal: int) -> None:
    state = live(create(restart_policy=ALWAYS), START, started(), kill(signal), exited())
    assert (state.status, state.manually_stopped) == (S.EXITED, True)


def test_a_signal_that_is_only_a_message_leaves_the_restart_policy_in_force() -> None:
    assert live(create(restart_policy=ALWAYS), START, started(), kill(1), exited()).status is S.RESTARTING


def test_a_container_with_a_stop_signal_of_its_own_is_ended_by_that() -> None:
    made = replace(create(restart_policy=ALWAYS), config=ContainerConfig(cmd=("x",), stop_signal="SIGUSR1"))
    assert live(made, START, started(), kill(10), exited()).status is S.EXITED
    assert live(made, START, started(), kill(15), exited()).status is S.RESTARTING


def test_only_sigkill_is_repeated_until_the_process_is_gone() -> None:
    assert live(*LIVES[S.RUNNING], kill(15)).kill_signal == 0
    assert live(*LIVES[S.RUNNING], kill(9)).kill_signal == 9
    assert live(*LIVES[S.RUNNING], kill(9), exited()).kill_signal == 0


def test_a_lost_exit_is_told_as_lost() -> None:
    lost = c.ReportExited(container_id=ID, run=1, at=NOW, exit_code=255, oom_killed=False, lost=True)
    assert history(*LIVES[S.RUNNING], lost)[-1] == e.ContainerExited(run=1, at=NOW, exit_code=255, lost=True)


def test_an_end_is_told_no_earlier_than_its_start() -> None:
    """Whoever watches the process may see its end before the start is told."""
    ended = live(create(), START, started(at=NOW + 5), exited(at=NOW + 3))
    assert (ended.started_at, ended.finished_at) == (NOW + 5, NOW + 5)


# -- the freezer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [stop(), kill(), RESTART])
def test_a_container_asked_to_end_while_it_is_being_frozen_is_thawed_again(ending: Command) -> None:
    story = Story(DECIDER, ID, *history(*LIVES[S.PAUSING], ending))
    state = story.when(REPORT_PAUSED).then(e.ContainerPaused(at=NOW), e.ContainerUnpauseRequested(at=NOW))
    assert state.status is S.UNPAUSING


def test_a_pause_that_the_kernel_refused_leaves_the_container_running() -> None:
    state = live(*LIVES[S.PAUSING], REPORT_FREEZE_FAILED)
    assert (state.status, state.freeze_failures, state.freeze_error) == (S.RUNNING, 1, "EBUSY")


def test_an_unpause_that_the_kernel_refused_leaves_the_container_paused() -> None:
    assert live(*LIVES[S.UNPAUSING], REPORT_FREEZE_FAILED).status is S.PAUSED


# -- restart policies ----------------------------------------------------------------------------------------------


def failing(times: int, policy: RestartPolicy, *, ran_ns: int = 0) -> list[Command]:
    """A life of so many runs, each ending with code 1 after `ran_ns`."""
    commands: list[Command] = [create(restart_policy=policy)]
    for run in range(1, times + 1):
        commands += [START, started(run), exited(run, code=1, at=NOW + ran_ns)]
    return commands


def test_a_restart_policy_waits_longer_after_every_short_run_and_counts() -> None:
    scheduled = [event for event in history(*failing(12, ALWAYS)) if isinstance(event, e.ContainerRestartScheduled)]
    assert [event.delay_ms for event in scheduled] == [
        *(100 * 2**n for n in range(10)),
        60_000,
        60_000,
    ]
    assert [event.restart_count for event in scheduled] == list(range(1, 13))
    assert all(event.due_at == NOW + event.delay_ms * MS for event in scheduled)


def test_a_run_of_ten_seconds_gives_the_policy_its_patience_back() -> None:
    state = live(*failing(5, ALWAYS), START, started(6), exited(6, at=NOW + 10 * SECOND))
    assert (state.restart_delay_ms, state.restart_count) == (100, 6)


def test_on_failure_gives_up_after_its_count() -> None:
    state = live(*failing(4, RestartPolicy(name="on-failure", maximum_retry_count=3)))
    assert (state.status, state.restart_count) == (S.EXITED, 3)


def test_a_start_by_a_user_lets_on_failure_count_anew() -> None:
    policy = RestartPolicy(name="on-failure", maximum_retry_count=3)
    state = live(*failing(5, policy))
    assert (state.status, state.restart_count, state.restart_delay_ms) == (S.RESTARTING, 1, 100)


def test_on_failure_leaves_a_success_alone() -> None:
    assert live(create(restart_policy=RestartPolicy(name="on-failure")), START, started(), exited()).status is S.EXITED


def test_a_stop_while_the_policy_waits_calls_the_restart_off() -> None:
    state = live(*LIVES[S.RESTARTING], stop())
    assert (state.status, state.manually_stopped, state.restart_due_at) == (S.EXITED, True, 0)


@pytest.mark.parametrize(
    ("policy", "ending", "again"),
    [
        ("always", (), True),
        ("always", (stop(), exited()), True),
        ("unless-stopped", (), True),
        ("unless-stopped", (stop(), exited()), False),
        ("on-failure", (), False),
        ("no", (), False),
        ("", (), False),
    ],
)
def test_what_starts_again_with_the_engine(policy: str, ending: tuple[Command, ...], again: bool) -> None:
    state = live(create(restart_policy=RestartPolicy(name=policy)), START, started(), *ending)
    assert restarts_at_boot(state) is again


@pytest.mark.parametrize(
    ("ending", "again"),
    [
        ((stop(shutdown=True), exited()), True),
        ((stop(shutdown=True), OVERDUE, exited(code=137)), True),
        ((stop(), stop(shutdown=True), exited()), False),
        ((stop(shutdown=True), stop(), exited()), False),
    ],
)
def test_the_end_of_the_engine_is_no_stop_by_a_user(ending: tuple[Command, ...], again: bool) -> None:
    """SYS-13: it does not start again at once, and with the next engine if nobody else wanted it stopped."""
    state = live(create(restart_policy=RestartPolicy(name="unless-stopped")), START, started(), *ending)
    assert state.status is S.EXITED
    assert restarts_at_boot(state) is again


def test_what_never_ran_does_not_start_with_the_engine() -> None:
    assert not restarts_at_boot(live(create(restart_policy=ALWAYS)))


# -- the rest ------------------------------------------------------------------------------------------------------


def test_an_update_changes_what_it_names_and_keeps_the_rest() -> None:
    state = live(create(cpu_shares=512, memory=32 << 20), UPDATE)
    assert (state.host.memory, state.host.cpu_shares) == (64 << 20, 512)


def test_a_restart_policy_does_not_go_with_removal_at_the_end() -> None:
    command = c.UpdateContainer(container_id=ID, resources=None, restart_policy=ALWAYS)
    Story(DECIDER, ID, *history(create(auto_remove=True))).when(command).rejected(
        CONFLICT,
        f"Cannot update container {ID}: "
        "Restart policy cannot be updated because AutoRemove is enabled for the container",
    )


def test_the_limits_of_a_running_container_wait_for_the_kernel() -> None:
    """CTR-28: an intent, then an outcome; until then the container has the limits it had."""
    state = live(*LIVES[S.RUNNING], UPDATE)
    assert (state.updating is not None, state.host.memory) == (True, 0)
    assert outcome(DECIDER, state, UPDATE) == NO
    assert live(*LIVES[S.RUNNING], UPDATE, REPORT_UPDATED).host.memory == LIMITS.memory
    refused = live(*LIVES[S.RUNNING], UPDATE, REPORT_UPDATE_FAILED)
    assert (refused.host.memory, refused.updating, refused.failed_update) == (0, None, 1)
    assert outcome(DECIDER, refused, REPORT_UPDATED) == "nothing"


def test_limits_on_their_way_when_the_process_ends_are_the_next_runs() -> None:
    state = live(*LIVES[S.RUNNING], UPDATE, exited())
    assert (state.status, state.updating, state.host.memory) == (S.EXITED, None, LIMITS.memory)


def test_a_restart_policy_needs_no_kernel() -> None:
    command = c.UpdateContainer(container_id=ID, resources=None, restart_policy=ALWAYS)
    assert outcome(DECIDER, live(*LIVES[S.RUNNING]), command) == "updated"


@pytest.mark.parametrize(
    ("have", "given", "words"),
    [
        ({"cpu_period": 9000}, {"nano_cpus": 10**9}, "Nano CPUs cannot be updated as CPU Period has already been set"),
        ({"cpu_quota": 9000}, {"nano_cpus": 10**9}, "Nano CPUs cannot be updated as CPU Quota has already been set"),
        ({"nano_cpus": 10**9}, {"cpu_period": 9000}, "CPU Period cannot be updated as NanoCPUs has already been set"),
        ({"nano_cpus": 10**9}, {"cpu_quota": 9000}, "CPU Quota cannot be updated as NanoCPUs has already been set"),
        (
            {"memory": 32 << 20, "memory_swap": 64 << 20},
            {"memory": 65 << 20},
            "Memory limit should be smaller than already set memoryswap limit, "
            "update the memoryswap at the same time",
        ),
    ],
)
def test_an_update_against_what_is_set_is_refused(have: dict, given: dict, words: str) -> None:
    command = c.UpdateContainer(container_id=ID, resources=Resources(**given), restart_policy=None)
    Story(DECIDER, ID, *history(create(**have))).when(command).rejected(
        CONFLICT, f"Cannot update container {ID}: {'Conflicting options: ' if 'CPU' in words else ''}{words}"
    )


def test_an_update_of_nothing_is_nothing() -> None:
    nothing = c.UpdateContainer(container_id=ID, resources=None, restart_policy=None)
    assert outcome(DECIDER, live(create()), nothing) == "nothing"


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("host", "container cannot be disconnected from host network or connected to host network"),
        (
            "container:" + ID,
            "container sharing network namespace with another container or host cannot be connected to any other "
            "network",
        ),
    ],
)
def test_a_container_without_a_network_namespace_of_its_own_joins_no_network(mode: str, words: str) -> None:
    made = replace(create(), host=HostConfig(network_mode=mode))
    Story(DECIDER, ID, *history(made)).when(CONNECT).rejected(INVALID, words)


def test_a_running_container_joins_when_the_kernel_did() -> None:
    state = live(*LIVES[S.RUNNING], CONNECT)
    assert (state.connecting, state.networks, state.endpoints) == ((WISH,), (ATTACHED,), (HELD,))
    state = live(*LIVES[S.RUNNING], CONNECT, CONNECTED)
    assert (state.connecting, state.networks, state.endpoints) == ((), (ATTACHED, WISH), (HELD, NEW))


def test_a_join_that_failed_is_told_until_it_succeeds() -> None:
    state = live(*LIVES[S.RUNNING], CONNECT, CONNECT_FAILED)
    assert (state.connecting, state.connect_errors) == ((), ((OTHER, "no room"),))
    assert live(*LIVES[S.RUNNING], CONNECT, CONNECT_FAILED, CONNECT, CONNECTED).connect_errors == ()


def test_a_running_container_leaves_when_the_kernel_did() -> None:
    state = live(*LIVES[S.RUNNING], DISCONNECT)
    assert (state.disconnecting, state.endpoints) == ((HELD.network_id,), (HELD,))
    state = live(*LIVES[S.RUNNING], DISCONNECT, DISCONNECTED)
    assert (state.disconnecting, state.endpoints, state.networks) == ((), (), ())


def test_wishes_about_networks_end_with_the_process() -> None:
    state = live(*LIVES[S.RUNNING], CONNECT, DISCONNECT, exited())
    assert (state.connecting, state.disconnecting, state.endpoints) == ((), (), ())


def test_the_log_of_health_keeps_five_results() -> None:
    state = live(*LIVES[S.RUNNING], *[HEALTH] * 7)
    assert (len(state.health.log), state.health.status) == (5, HealthStatus.HEALTHY)


def test_a_forced_removal_asks_for_the_kill_and_waits_for_the_exit() -> None:
    state = live(*LIVES[S.REMOVING])
    assert state.alive
    assert not live(*LIVES[S.REMOVING], exited()).alive
    assert live(*LIVES[S.REMOVING], exited(), REPORT_REMOVED).status is S.REMOVED


def test_a_network_that_a_stopped_container_is_on_already_is_kept_as_it_is() -> None:
    """NET-05: as moby, where only a running one has an endpoint to be in the way."""
    again = c.ConnectContainer(container_id=ID, at=NOW, attachment=ATTACHED)
    for status in (S.CREATED, S.EXITED, S.RESTARTING):
        assert DECIDER.decide(live(*LIVES[status]), again) == ()


def test_a_network_that_is_younger_than_its_container_is_left_by_name() -> None:
    """NET-05: a container may wish for a network that is made later."""
    state = replace(live(*LIVES[S.CREATED]), networks=(NetworkAttachment(name="late"),))
    leave = c.DisconnectContainer(container_id=ID, at=NOW, network_id=OTHER, name="late")
    for event in DECIDER.decide(state, leave):
        state = DECIDER.evolve(state, event)
    assert state.networks == ()


def test_a_wish_follows_its_networks_name_until_the_container_has_been_there() -> None:
    """NET-05: connected on paper it knows the network by name; one that follows a network which is gone gives way to a
    new one of the same name, and can be taken back by that name."""
    stopped = live(*LIVES[S.EXITED])
    (told,) = DECIDER.decide(stopped, c.ConnectContainer(container_id=ID, at=NOW, attachment=WISH))
    assert told == e.ContainerConnected(attachment=NetworkAttachment(name=WISH.name))
    old = replace(stopped, networks=(replace(WISH, network_id="d9" * 32),))
    assert DECIDER.evolve(old, told).networks == (NetworkAttachment(name=WISH.name),)
    for network_id in ("", WISH.network_id):
        leave = c.DisconnectContainer(container_id=ID, at=NOW, network_id=network_id, name=WISH.name)
        (left,) = DECIDER.decide(old, leave)
        assert DECIDER.evolve(old, left).networks == ()


def test_leaving_a_network_twice_at_once_is_leaving_it_once() -> None:
    """NET-05: who asks again waits with who asked first."""
    leave = c.DisconnectContainer(container_id=ID, at=NOW, network_id=ATTACHED.network_id)
    state = live(*LIVES[S.RUNNING])
    events = DECIDER.decide(state, leave)
    assert len(events) == 1
    state = DECIDER.evolve(state, events[0])
    assert DECIDER.decide(state, leave) == ()
    assert DECIDER.evolve(state, events[0]).disconnecting == (ATTACHED.network_id,)


def test_the_network_none_is_alone() -> None:
    """NET-05: as moby, 400."""
    state = replace(live(*LIVES[S.CREATED]), networks=(NetworkAttachment(name="none", network_id="e5" * 32),))
    with pytest.raises(Rejected) as refused:
        DECIDER.decide(state, CONNECT)
    assert refused.value.reason is INVALID


def test_what_belongs_to_a_running_container_is_refused_by_any_other() -> None:
    """EXE-04: an exec that is asked for while its container goes is not made."""
    require = c.RequireRunning(container_id=ID, called="web")
    assert DECIDER.decide(live(*LIVES[S.RUNNING]), require) == ()
    for status in set(Status) - {S.RUNNING, S.ABSENT, S.REMOVED}:
        assert outcome(DECIDER, live(*LIVES[status]), require) == NO


def test_a_forced_removal_waits_for_a_process_that_has_no_pid() -> None:
    """CTR-18: an engine that comes back finds the exit of a process it never saw; a removal does not lose the exit."""
    removing = live(create(), START, started(pid=0), remove(force=True))
    assert removing.alive
    assert not live(create(), START, started(pid=0), remove(force=True), exited()).alive
