"""The loop of supervisor and copier: who is called when several descriptors are ready at once."""

from __future__ import annotations

import os

import pytest

from engine.drivers.linux.runtime.supervisor.loop import FAILURES_MAX, Loop


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


def test_a_handler_that_only_fails_is_called_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    loop, calls = Loop(), []
    pipe = a_pipe_that_is_ready()

    def fail(events: int) -> None:
        calls.append(events)
        raise ValueError("not this one")

    loop.watch(pipe, fail)
    try:
        for _ in range(FAILURES_MAX + 5):
            loop.turn(0)
        assert len(calls) == FAILURES_MAX
    finally:
        os.close(pipe)
