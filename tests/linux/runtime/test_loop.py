"""The loop of supervisor and copier: who is called when several descriptors are ready at once."""

from __future__ import annotations

import os

import pytest

from engine.drivers.linux.runtime.supervisor import loop as loop_module
from engine.drivers.linux.runtime.supervisor.loop import FAILURES_MAX, READ, Loop


def a_pipe_that_is_ready() -> int:
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.write(writable, b"word")
    os.close(writable)
    return readable


def test_a_number_that_becomes_anothers_in_the_same_turn_is_not_taken_for_ready() -> None:
    """A child's report is closed when its exit is heard first, and the next descriptor gets its number."""
    loop, heard = Loop(), []
    pipes = [a_pipe_that_is_ready(), a_pipe_that_is_ready()]
    new = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def end_the_other(fd: int) -> None:
        heard.append("first")
        (other,) = set(pipes) - {fd}
        loop.unwatch(other)
        os.dup2(new, other)  # closes it: the number is the eventfd's now, on which nothing has happened
        loop.watch(other, lambda events: heard.append("eventfd"))

    for pipe in pipes:
        loop.watch(pipe, lambda events, fd=pipe: end_the_other(fd))
    try:
        loop.turn(0)
        assert heard == ["first"]
    finally:
        for fd in (*pipes, new):
            os.close(fd)


def test_a_failure_is_told_and_the_others_are_called(capsys: pytest.CaptureFixture[str]) -> None:
    """A supervisor that ended of one container's trouble would take all the others with it."""
    loop, heard = Loop(), []
    bad, good = a_pipe_that_is_ready(), a_pipe_that_is_ready()

    def fail(*events: int) -> None:
        raise BlockingIOError("nothing to read")

    loop.watch(bad, fail)
    loop.watch(good, heard.append)
    loop.after(0, "deadline", fail)
    loop.after(0, "another", lambda: heard.append(-1))
    try:
        loop.turn(0)
        assert len(heard) == 2
        assert -1 in heard
        assert capsys.readouterr().err.count("BlockingIOError: nothing to read") == 2
    finally:
        os.close(bad)
        os.close(good)


def test_a_handler_that_only_fails_is_left_alone_and_called_again_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with a listener when there are no descriptors left: without a rest it would take the whole processor, and
    without an end of the rest nobody could connect any more."""
    monkeypatch.setattr(loop_module, "REST_S", 0.05)
    loop, calls = Loop(), []
    pipe = a_pipe_that_is_ready()

    def fail(events: int) -> None:
        calls.append(events)
        if len(calls) <= FAILURES_MAX + 1:
            raise OSError("no descriptors left")

    loop.watch(pipe, fail)
    try:
        for _ in range(FAILURES_MAX + 5):
            loop.turn(0)
        assert len(calls) == FAILURES_MAX
        loop.want(pipe, READ)
        for rested in (1, 2):
            loop.turn(1.0)  # the end of the rest
            loop.turn(1.0)
            assert len(calls) == FAILURES_MAX + rested
        assert capsys.readouterr().err.count("OSError: no descriptors left") == FAILURES_MAX
        loop.turn(0)
        assert len(calls) == FAILURES_MAX + 3, "all is well again"
    finally:
        loop.unwatch(pipe)
        os.close(pipe)


def test_a_descriptor_that_rests_can_be_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "REST_S", 0.01)
    loop, calls = Loop(), []
    pipe = a_pipe_that_is_ready()

    def fail(events: int) -> None:
        calls.append(events)
        raise ValueError("not this one")

    loop.watch(pipe, fail)
    for _ in range(FAILURES_MAX):
        loop.turn(0)
    loop.unwatch(pipe)
    os.close(pipe)
    loop.turn(0.1)
    loop.turn(0)
    assert len(calls) == FAILURES_MAX
