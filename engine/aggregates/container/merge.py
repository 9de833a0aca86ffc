"""A container's configuration over its image's (CTR-05). Source: moby daemon/commit.go merge."""

from __future__ import annotations

from msgspec.structs import replace

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.values.config import ContainerConfig, HealthConfig


def merge(user: ContainerConfig, image: ContainerConfig) -> ContainerConfig:
    """The effective configuration; `env` of both must be in place. Raises Rejected(INVALID) without any command."""
    merged = inherit(user, image)
    if not merged.entrypoint and not merged.cmd:
        raise Rejected(Reason.INVALID, "no command specified")
    return replace(merged, on_build=None)


def inherit(user: ContainerConfig, image: ContainerConfig) -> ContainerConfig:
    """What the one says, and where it says nothing, the other."""
    entrypoint, cmd = user.entrypoint, user.cmd
    if not entrypoint:
        cmd = cmd or image.cmd
        if entrypoint is None:
            entrypoint = image.entrypoint
    if entrypoint == ("",):
        entrypoint = None  # `--entrypoint ""` drops the image's.
    return replace(
        user,
        entrypoint=entrypoint,
        cmd=cmd,
        user=user.user or image.user,
        env=merge_env(user.env or (), image.env or ()),
        exposed_ports={**(image.exposed_ports or {}), **(user.exposed_ports or {})} or None,
        labels={**(image.labels or {}), **(user.labels or {})},
        volumes={**(image.volumes or {}), **(user.volumes or {})} or None,
        working_dir=user.working_dir or image.working_dir,
        stop_signal=user.stop_signal or image.stop_signal,
        stop_timeout=user.stop_timeout if user.stop_timeout is not None else image.stop_timeout,
        healthcheck=merge_health(user.healthcheck, image.healthcheck),
    )


def merge_env(user: tuple[str, ...], image: tuple[str, ...]) -> tuple[str, ...]:
    """The user's variables, then the image's that the user does not set."""
    given = {variable.partition("=")[0] for variable in user}
    return (*user, *(variable for variable in image if variable.partition("=")[0] not in given))


def merge_health(user: HealthConfig | None, image: HealthConfig | None) -> HealthConfig | None:
    """Field by field: what the user leaves out comes from the image; `NONE` switches it off."""
    if user is None or image is None:
        return user or image
    return HealthConfig(
        test=user.test or image.test,
        interval=user.interval or image.interval,
        timeout=user.timeout or image.timeout,
        start_period=user.start_period or image.start_period,
        start_interval=user.start_interval or image.start_interval,
        retries=user.retries or image.retries,
    )
