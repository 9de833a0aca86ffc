"""What health checks mean: schedules, commands and judgements, without running anything."""

from __future__ import annotations

import pytest

from engine.aggregates.container.state import ContainerState
from engine.aggregates.values.config import ContainerConfig, HealthConfig
from engine.aggregates.values.health import Health, HealthResult, HealthStatus
from engine.aggregates.values.ids import ContainerID
from engine.reactors.health import judge, probe_command, schedule

S = HealthStatus


def result(exit_code: int) -> HealthResult:
    return HealthResult(started_at=1, finished_at=2, exit_code=exit_code, output="")


def container(*test: str, shell: tuple[str, ...] | None = None) -> ContainerState:
    config = ContainerConfig(healthcheck=HealthConfig(test=test), shell=shell)
    return ContainerState(container_id=ContainerID("c" * 64), config=config)


def test_unsaid_times_are_dockers_defaults() -> None:
    plan = schedule(HealthConfig(test=("CMD", "true")))
    assert (plan.interval_s, plan.timeout_s, plan.retries) == (30, 30, 3)
    assert (plan.start_period_s, plan.start_interval_s) == (0, 5)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("CMD", "curl", "-f", "x"), ("curl", "-f", "x")),
        (("CMD-SHELL", "curl -f x || exit 1"), ("/bin/sh", "-c", "curl -f x || exit 1")),
        (("NONE",), ()),
        ((), ()),
    ],
)
def test_the_test_says_what_is_run(given: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert probe_command(container(*given)) == expected


def test_a_shell_test_is_run_by_the_containers_own_shell() -> None:
    assert probe_command(container("CMD-SHELL", "x", shell=("/bin/bash", "-ec"))) == ("/bin/bash", "-ec", "x")


def test_a_container_without_a_health_check_is_not_probed() -> None:
    assert probe_command(ContainerState(container_id=ContainerID("c"))) == ()


def test_one_success_makes_healthy_even_in_the_start_period() -> None:
    starting = Health(status=S.STARTING)
    assert judge(starting, result(0), in_start_period=True, retries=3) == (S.HEALTHY, 0)


def test_failures_in_the_start_period_do_not_count() -> None:
    starting = Health(status=S.STARTING)
    assert judge(starting, result(1), in_start_period=True, retries=1) == (S.STARTING, 0)


def test_a_container_that_was_healthy_can_fail_in_its_start_period() -> None:
    healthy = Health(status=S.HEALTHY)
    assert judge(healthy, result(1), in_start_period=True, retries=1) == (S.UNHEALTHY, 1)


def test_as_many_failures_in_a_row_as_retries_make_unhealthy() -> None:
    health = Health(status=S.HEALTHY)
    seen = []
    for _ in range(3):
        status, streak = judge(health, result(-1), in_start_period=False, retries=3)
        health = Health(status=status, failing_streak=streak)
        seen.append((status, streak))
    assert seen == [(S.HEALTHY, 1), (S.HEALTHY, 2), (S.UNHEALTHY, 3)]


def test_a_success_ends_the_streak() -> None:
    sick = Health(status=S.UNHEALTHY, failing_streak=9)
    assert judge(sick, result(0), in_start_period=False, retries=3) == (S.HEALTHY, 0)
