"""`--change`: instructions and the configuration they make."""

from __future__ import annotations

import pytest

from engine.aggregates.decider import Rejected
from engine.aggregates.values.config import ContainerConfig, HealthConfig
from engine.aggregates.values.instructions import apply_instructions


def after(*instructions: str, config: ContainerConfig | None = None) -> ContainerConfig:
    return apply_instructions(config or ContainerConfig(), instructions)


def test_commands_have_a_list_form_and_a_shell_form() -> None:
    assert after('CMD ["sh", "-c", "x"]').cmd == ("sh", "-c", "x")
    assert after("cmd echo $HOME").cmd == ("/bin/sh", "-c", "echo $HOME")
    assert after('ENTRYPOINT ["/init"]').entrypoint == ("/init",)
    assert after("ENTRYPOINT [not a list").entrypoint == ("/bin/sh", "-c", "[not a list")


def test_environment_is_set_replaced_and_expanded() -> None:
    config = after("ENV A=1 B='two words' C=\"$A x\"", "ENV A=3", "ENV OLD the old form", "ENV P=${PATH:-/bin}:/x")
    assert config.env == ("A=3", "B=two words", "C= x", "OLD=the old form", "P=/bin:/x")
    assert after("ENV D=${A}-$A", config=config).env[-1] == "D=3-3"  # type: ignore[index]  # it is set


def test_labels_ports_volumes_and_the_rest() -> None:
    config = after(
        'LABEL a=b "c d"="e f"', "EXPOSE 80 53/udp 8000-8002", 'VOLUME ["/data"]', "VOLUME /x /y", "USER 1:2",
        "WORKDIR /srv", "WORKDIR app", "STOPSIGNAL SIGQUIT", "ONBUILD RUN make",
    )  # fmt: skip
    assert config.labels == {"a": "b", "c d": "e f"}
    assert config.exposed_ports == {f"{port}/tcp": {} for port in (80, 8000, 8001, 8002)} | {"53/udp": {}}
    assert config.volumes == {"/data": {}, "/x": {}, "/y": {}}
    assert (config.user, config.working_dir, config.stop_signal) == ("1:2", "/srv/app", "SIGQUIT")
    assert config.on_build == ("RUN make",)


def test_health_checks() -> None:
    assert after("HEALTHCHECK --interval=1m30s --retries=2 CMD curl -f x").healthcheck == HealthConfig(
        test=("CMD-SHELL", "curl -f x"), interval=90_000_000_000, retries=2
    )
    assert after('HEALTHCHECK CMD ["true"]').healthcheck == HealthConfig(test=("CMD", "true"))
    assert after("HEALTHCHECK NONE").healthcheck == HealthConfig(test=("NONE",))


@pytest.mark.parametrize(
    ("instruction", "words"),
    [
        ("RUN make", "RUN is not a valid change command"),
        ("FROM scratch", "FROM is not a valid change command"),
        ("CMD", "CMD requires at least one argument"),
        ("EXPOSE http", "invalid start port 'http'"),
        ("EXPOSE 70000", "invalid start port '70000'"),
        ("STOPSIGNAL SIGNOTHING", "invalid signal: SIGNOTHING"),
        ("ENV a=b c", "can't find = in"),
        ("USER a b", "USER requires exactly one argument"),
        ("ONBUILD FROM x", "isn't allowed as an ONBUILD trigger"),
        ("HEALTHCHECK RUN x", 'Unknown type "RUN" in HEALTHCHECK (try CMD)'),
        ("HEALTHCHECK --interval=1us CMD x", "cannot be less than 1ms"),
    ],
)
def test_what_is_no_such_instruction_is_refused(instruction: str, words: str) -> None:
    with pytest.raises(Rejected) as refused:
        after(instruction)
    assert words in refused.value.message
