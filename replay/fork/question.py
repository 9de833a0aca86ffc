"""The verb `fork`: reads what is asked, lets two histories go on, and tells how they differ.

Both are decided anew over the same model of the host: one with what is asked, one without. So what the model does not
know (how long a stop took, in which order exits came) is in neither's favour.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.markup import escape

from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.decider import Recorded
from replay import render, words
from replay.diff import Change, compare, living_states
from replay.fork.asked import given
from replay.fork.fork import Forked, Refused, fork
from replay.fork.scene import Beside
from replay.moments import MomentError
from replay.plain import clock_time, plain, record
from replay.question import Question
from replay.world import PEOPLE_KINDS, World, living_at

KINDS = frozenset(PEOPLE_KINDS)
LEDGER_FIELDS = ("cursors.",)
"""Where the next address is looked for: no difference that anybody asks about."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """at: where the histories part. would, would_not: events of one of them only. refused: wishes that only the changed
    one does not grant. changes: what became of everything, without the change and with it. notes: what could not be
    known, and warnings, in sentences."""

    at: int
    would: Sequence[Recorded]
    would_not: Sequence[Recorded]
    refused: Sequence[Refused]
    changes: Sequence[Change]
    notes: Sequence[str]


def add(verbs: Any, common: argparse.ArgumentParser) -> None:
    about = "what would be, had something been asked for that was not, or something not that was"
    verb = verbs.add_parser("fork", parents=[common], help=about, description=about)
    verb.add_argument("moment", metavar="MOMENT", nargs="?", default="", help="where history parts (now)")
    verb.add_argument(
        "--what-if", metavar="COMMAND", action="append", default=[],
        help="asked for at that moment, as of the docker CLI: 'rm -f web', 'run -d --name web -p 80:80 app:v2'",
    )  # fmt: skip
    verb.add_argument(
        "--without", metavar="POSITION", action="append", default=[],
        help="leave out the request that led to this event, and everything that it led to",
    )  # fmt: skip
    verb.add_argument("--until", metavar="MOMENT", default="", help="as far as recorded history goes on (now)")
    verb.set_defaults(question=_fork)


def _fork(question: Question) -> int:
    arguments, reader = question.arguments, question.reader
    left_out = [_event(question, text) for text in arguments.without]
    if arguments.moment or not left_out:
        moment = question.moment(arguments.moment or "now")
        at, time_ns = _settled(question, moment.position), moment.time_ns
    else:
        begun = min((_begin(question, each) for each in left_out), key=lambda each: each.position)
        at, time_ns = begun.position - 1, begun.time_ns
    until = question.moment(arguments.until).position if arguments.until else reader.head
    if until < at or any(each.position <= at for each in left_out):
        raise MomentError(f"history parts at {at}: what is left out, and --until, come behind it")
    beside = Beside(reader.path.parent.resolve())
    wishes = [wish for words in arguments.what_if for wish in given(words, time_ns, beside)]
    rest = list(reader.events(after=at, upto=until))
    without = frozenset(each.cause.correlation for each in left_out)
    told_world, changed_world = (living_at(reader, ALL_DECIDERS, at) for _ in range(2))
    told = fork(told_world, (), time_ns=time_ns, rest=rest)
    changed = fork(changed_world, wishes, time_ns=time_ns, rest=rest, without=without)
    answer = _answer(at, (told_world, told), (changed_world, changed), tuple(beside.notes))
    question.print_json(_document(answer)) if arguments.json else _tell(question, answer, told_world, changed_world)
    return 0


def _answer(at: int, told: tuple[World, Forked], changed: tuple[World, Forked], notes: Sequence[str]) -> Answer:
    in_vain = {each.recorded.position for each in told[1].refused if each.recorded is not None}
    changes = compare(living_states(told[0], KINDS), living_states(changed[0], KINDS), changed[0])
    return Answer(
        at=at,
        would=_besides(changed[1].events, told[1].events),
        would_not=_besides(told[1].events, changed[1].events),
        refused=[each for each in changed[1].refused if each.recorded is None or each.recorded.position not in in_vain],
        changes=[change for change in map(_without_ledgers, changes) if change is not None],
        notes=notes,
    )


def _besides(events: Iterable[Recorded], others: Iterable[Recorded]) -> list[Recorded]:
    """Events that happened oftener here than there. Numbers and who asked do not count."""
    left = Counter(map(_content, others))
    found = []
    for recorded in events:
        content = _content(recorded)
        if left[content]:
            left[content] -= 1
        else:
            found.append(recorded)
    return found


def _content(recorded: Recorded) -> tuple[str, str, bytes]:
    return recorded.stream, recorded.event.NAME, msgspec.msgpack.encode(recorded.event, order="sorted")


def _without_ledgers(change: Change) -> Change | None:
    fields = tuple(field for field in change.fields if not field.path.startswith(LEDGER_FIELDS))
    return None if change.kind == "changed" and not fields else msgspec.structs.replace(change, fields=fields)


# -- telling -----------------------------------------------------------------------------------------------------------


def _document(answer: Answer) -> dict[str, Any]:
    return {
        "at": answer.at,
        "would": [record(each) for each in answer.would],
        "would_not": [record(each) for each in answer.would_not],
        "refused": [
            {
                "wish": each.wish,
                "message": each.message,
                "recorded": record(each.recorded) if each.recorded is not None else None,
            }
            for each in answer.refused
        ],
        "changes": [plain(change) for change in answer.changes],
        "notes": list(answer.notes),
    }


def _tell(question: Question, answer: Answer, told: World, changed: World) -> None:
    out = question.out
    out.print(f"[bold]History parts behind @{answer.at}.[/]")
    for title, events, world in (
        ("What would have been", answer.would, changed),
        ("What would not have been", answer.would_not, told),
    ):
        if events:
            out.print(f"\n[bold]{title}[/]")
        for recorded in events:
            label, sentence = (
                escape(render.with_short_ids(text)) for text in (world.label(recorded.stream), words.sentence(recorded))
            )
            out.print(f"  [cyan]{label}[/]  {sentence}  [dim]{clock_time(recorded.time_ns)}[/]")
    if answer.refused:
        out.print("\n[bold]What would have been refused[/]")
    for refused in answer.refused:
        wish = refused.wish
        if refused.recorded is not None:
            event = refused.recorded
            wish = f"@{event.position} {told.label(event.stream)} {words.sentence(event)}"
        out.print(f"  {escape(wish)}: [red]{escape(refused.message)}[/]")
    out.print("\n[bold]How it would be different[/]")
    render.changes(out, answer.changes)
    if answer.notes:
        out.print("\n[bold]To be known besides[/]")
    for note in answer.notes:
        out.print(f"  {escape(note)}")


# -- moments -----------------------------------------------------------------------------------------------------------


def _event(question: Question, text: str) -> Recorded:
    position = question.moment(text).position
    recorded = question.reader.event(position)
    if recorded is None:
        raise MomentError(f"there is no event at {text}")
    return recorded


def _begin(question: Question, recorded: Recorded) -> Recorded:
    """The first event of its request."""
    for each in question.reader.newest_first(upto=recorded.position):
        if each.cause.correlation == recorded.cause.correlation:
            recorded = each
    return recorded


def _settled(question: Question, position: int) -> int:
    """The end of the transaction that a position is in."""
    here = question.reader.event(position) if position else None
    for each in question.reader.events(after=position):
        if here is None or (each.cause, each.time_ns) != (here.cause, here.time_ns):
            break
        position = each.position
    return position
