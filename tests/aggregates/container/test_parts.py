"""The small parts of a container's rules: merging with the image, restart arithmetic."""

from __future__ import annotations

import pytest

from engine.aggregates.container.merge import merge, merge_env, merge_health
from engine.aggregates.container.restart import next_delay_ms, wants_restart
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import ContainerConfig, HealthConfig, RestartPolicy

IMAGE = ContainerConfig(
    entrypoint=("entry",),
    cmd=("default",),
    env=("PATH=/bin", "A=image"),
    user="daemon",
    working_dir="/srv",
    labels={"a": "image", "b": "image"},
    exposed_ports={"80/tcp": {}},
    volumes={"/data": {}},
    stop_signal="SIGQUIT",
    stop_timeout=3,
    healthcheck=HealthConfig(test=("CMD", "probe"), interval=5_000_000, retries=2),
    on_build=("RUN x",),
)
SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "words"),
    [
        (None, None, (("entry",), ("default",))),
        (None, ("mine",), (("entry",), ("mine",))),
        (("own",), None, (("own",), None)),
        (("own",), ("mine",), (("own",), ("mine",))),
        (("",), ("mine",), (None, ("mine",))),
        ((), ("mine",), ((), ("mine",))),
    ],
)
def test_a_command_is_the_users_over_the_images(entrypoint: tuple | None, cmd: tuple | None, words: tuple) -> None:
    merged = merge(ContainerConfig(entrypoint=entrypoint, cmd=cmd), IMAGE)
    assert (merged.entrypoint, merged.cmd) == words


@pytest.mark.parametrize(
    ("user", "image"),
    [(ContainerConfig(), ContainerConfig()), (ContainerConfig(entrypoint=("",)), ContainerConfig(entrypoint=("x",)))],
)
def test_a_container_without_any_command_is_refused(user: ContainerConfig, image: ContainerConfig) -> None:
    with pytest.raises(Rejected, match="no command specified") as caught:
        merge(user, image)
    assert caught.value.reason is Reason.INVALID


def test_what_the_user_leaves_out_is_the_images() -> None:
    merged = merge(ContainerConfig(), IMAGE)
    assert (merged.user, merged.working_dir, merged.stop_signal, merged.stop_timeout) == (
        "daemon",
        "/srv",
        "SIGQUIT",
        3,
    )
    assert (merged.exposed_ports, merged.volumes, merged.on_build) == ({"80/tcp": {}}, {"/data": {}}, None)


def test_what_the_user_says_wins_and_maps_are_joined() -> None:
    user = ContainerConfig(user="me", stop_timeout=0, labels={"a": "mine"}, exposed_ports={"81/tcp": {}})
    merged = merge(user, IMAGE)
    assert (merged.user, merged.stop_timeout) == ("me", 0)
    assert merged.labels == {"a": "mine", "b": "image"}
    assert set(merged.exposed_ports or {}) == {"80/tcp", "81/tcp"}


@pytest.mark.parametrize(
    ("user", "merged"),
    [
        ((), ("PATH=/bin", "A=image")),
        (("A=mine",), ("A=mine", "PATH=/bin")),
        (("A",), ("A", "PATH=/bin")),
        (("AB=1",), ("AB=1", "PATH=/bin", "A=image")),
    ],
)
def test_variables_of_the_image_come_after_the_users(user: tuple[str, ...], merged: tuple[str, ...]) -> None:
    assert merge_env(user, IMAGE.env or ()) == merged


def test_a_health_check_is_merged_field_by_field() -> None:
    assert merge_health(None, IMAGE.healthcheck) == IMAGE.healthcheck
    assert merge_health(HealthConfig(retries=9), None) == HealthConfig(retries=9)
    merged = merge_health(HealthConfig(retries=9, timeout=7_000_000), IMAGE.healthcheck)
    assert merged == HealthConfig(test=("CMD", "probe"), interval=5_000_000, retries=9, timeout=7_000_000)
    off = merge_health(HealthConfig(test=("NONE",)), IMAGE.healthcheck)
    assert off is not None
    assert off.test == ("NONE",)


def test_the_backoff_doubles_from_100_ms_to_a_minute() -> None:
    delays, delay = [], 0
    for _ in range(12):
        delay = next_delay_ms(delay, ran_for_ns=0)
        delays.append(delay)
    assert delays == [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]


@pytest.mark.parametrize(("ran_ns", "delay"), [(10 * SECOND - 1, 60_000), (10 * SECOND, 100), (3600 * SECOND, 100)])
def test_a_run_of_ten_seconds_starts_the_backoff_over(ran_ns: int, delay: int) -> None:
    assert next_delay_ms(51_200, ran_ns) == delay


@pytest.mark.parametrize(
    ("policy", "maximum", "code", "count", "stopped", "again"),
    [
        ("", 0, 1, 0, False, False),
        ("no", 0, 1, 0, False, False),
        ("always", 0, 0, 99, False, True),
        ("always", 0, 0, 0, True, False),
        ("unless-stopped", 0, 1, 0, False, True),
        ("unless-stopped", 0, 1, 0, True, False),
        ("on-failure", 0, 0, 0, False, False),
        ("on-failure", 0, 1, 99, False, True),
        ("on-failure", 3, 1, 2, False, True),
        ("on-failure", 3, 1, 3, False, False),
        ("on-failure", 3, 0, 0, False, False),
        ("on-failure", 0, 1, 0, True, False),
    ],
)
def test_which_exits_a_policy_answers_with_a_start(
    policy: str, maximum: int, code: int, count: int, stopped: bool, again: bool
) -> None:
    assert wants_restart(RestartPolicy(name=policy, maximum_retry_count=maximum), code, count, stopped) is again
