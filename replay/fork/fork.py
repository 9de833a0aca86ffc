"""`replay fork`: what would be, had something been asked for that was not, or something not that was.

At a point of history commands are given, then recorded history goes on as a list of wishes: each is decided anew, over
what has become of the world meanwhile, and a model of the host answers. What was left out is left out with everything
that its request led to. Pure, but for reading the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from engine.aggregates.decider import Cause, Command, Recorded, Rejected
from replay.fork.branch import Branch
from replay.fork.host import Host
from replay.fork.record import Record
from replay.fork.wishes import commands_of, in_the_way, is_copied, leading
from replay.reader import UnknownEvent
from replay.world import World

Given = Callable[[Branch, Host], Iterable[tuple[Command, ...]]]
"""A command by its words: the transactions it is, one after the other, once the world it is given in is known. The next
is asked for when everything has followed from the one before. Raises Rejected."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for in vain. recorded: as it happened in truth, None for a command that was given."""

    wish: str
    message: str
    recorded: Recorded | None = None


class Forked(msgspec.Struct, frozen=True, kw_only=True):
    """events: what would have been since, numbered on from the fork. refused: what would not have been granted."""

    events: Sequence[Recorded]
    refused: Sequence[Refused]


def fork(
    world: World,
    given: Sequence[tuple[str, Given]],
    *,
    time_ns: int,
    rest: Sequence[Recorded] = (),
    without: frozenset[str] = frozenset(),
) -> Forked:
    """Let `world` go on. given: commands and their words, at `time_ns`. rest: recorded history from there. without:
    correlations of requests that are left out."""
    branch, record = Branch(world), Record(rest)
    host = Host(branch, record)
    refused: list[Refused] = []
    you = Cause(actor="you", correlation="fork")
    for words, command in given:
        host.settle(time_ns)
        try:
            for transaction in command(branch, host):
                branch.execute(transaction, cause=you, time_ns=time_ns)
                host.settle(time_ns)
        except Rejected as error:
            refused.append(Refused(wish=words, message=error.message or "nothing to do"))
    told = [each for each in rest if each.cause.correlation not in without and not isinstance(each.event, UnknownEvent)]
    wishes = {each.position for each in leading(told)}
    for recorded in told:
        host.settle(recorded.time_ns)
        if is_copied(recorded):
            if reason := in_the_way(recorded, branch):
                refused.append(Refused(wish="", message=reason, recorded=recorded))
            else:
                branch.copy(recorded)
        elif recorded.position in wishes:
            try:
                commands = commands_of(recorded, branch, host, record)
                branch.execute(commands, cause=recorded.cause, time_ns=recorded.time_ns)
            except Rejected as error:
                refused.append(Refused(wish="", message=error.message or "nothing to do", recorded=recorded))
        host.settle(recorded.time_ns)
    return Forked(events=tuple(branch.events), refused=tuple(refused))
