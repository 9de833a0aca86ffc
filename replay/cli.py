"""The command line of `replay`: what can be asked, and where each question goes.

Exit codes: 0 answered (for `verify`: the log is whole), 1 no (no such object, a damaged log), 2 the question or the log
can not be read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.aggregates.catalog import ALL_DECIDERS
from engine.clock import SystemClock
from engine.codec import EventCodec, LogError
from replay import proof, publish, render, tables
from replay.diff import compare, living_states
from replay.fork import question as fork
from replay.fork.options import WishError
from replay.heads import HeadError
from replay.kept import why_content, why_image
from replay.lives import Life, PredicateError, bisect, blame, lives, predicate
from replay.moments import MomentError
from replay.plain import plain, record
from replay.question import Question
from replay.reader import LogReader
from replay.stats import stats
from replay.timeline import Filter, timeline
from replay.why import Story, why
from replay.world import PEOPLE_KINDS, NotFoundError, World, living_at

DEFAULT_LOG = Path("/var/lib/ishmael/events.db")
FOLLOW_S = 0.25
DIFF_KINDS = frozenset(PEOPLE_KINDS) - {"exec"}

OK, NO, UNREADABLE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """The console script; returns the exit code."""
    arguments = parser().parse_args(argv)
    path = Path(getattr(arguments, "log", DEFAULT_LOG))
    if path.is_dir():
        path = path / "events.db"
    arguments.path = path
    arguments.json = getattr(arguments, "json", False)
    try:
        return _answer(arguments, path)
    except BrokenPipeError:
        # `replay log | head` is no error; the interpreter's own flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return 130
    except NotFoundError as error:
        return _complain(str(error.args[0]), NO)
    except (MomentError, PredicateError, WishError, HeadError, LogError, OSError) as error:
        return _complain(str(error), UNREADABLE)


def _answer(arguments: argparse.Namespace, path: Path) -> int:
    if "proof" in arguments:
        return int(arguments.proof(arguments))
    codec = EventCodec(event for decider in ALL_DECIDERS for event in decider.events)
    with LogReader(path, codec) as reader:
        answer: Callable[[Question], int] = arguments.question
        code = answer(Question(arguments, reader, SystemClock()))
        sys.stdout.flush()
        return code


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"replay: {message}\n")
    return code


# -- questions ---------------------------------------------------------------------------------------------------------


def _log(question: Question) -> int:
    arguments, reader = question.arguments, question.reader
    world = question.world(tolerant=True)  # it lends its names only
    wanted = Filter(
        stream=world.find(arguments.object) if arguments.object else "",
        actor=arguments.actor,
        correlation=arguments.correlation,
        name=arguments.name,
        first=question.first(arguments.since),
        last=question.moment(arguments.until).position if arguments.until else reader.head,
    )
    if arguments.until or wanted.last:
        for recorded in timeline(reader, wanted, limit=arguments.limit):
            _tell(question, recorded, world)
    if arguments.follow:
        _follow(question, wanted, world)
    return OK


def _tell(question: Question, recorded: Any, world: World) -> None:
    if question.arguments.json:
        sys.stdout.write(json.dumps(record(recorded), ensure_ascii=False) + "\n")
    else:
        render.log_line(question.out, recorded, world)


def _follow(question: Question, wanted: Filter, world: World) -> None:
    """Print what is appended, until interrupted. The file is opened anew each time: the engine may come and go."""
    position = world.position if wanted.last is None else wanted.last
    codec = EventCodec(event for decider in ALL_DECIDERS for event in decider.events)
    while True:
        sys.stdout.flush()
        time.sleep(FOLLOW_S)
        with LogReader(question.reader.path, codec) as reader:
            for recorded in reader.events(after=position):
                world.advance([recorded])
                position = recorded.position
                if wanted.matches(recorded):
                    _tell(question, recorded, world)


def _show(question: Question) -> int:
    world = question.world()
    stream = world.find(question.arguments.object)
    history = list(question.reader.history(stream))
    state = plain(world.states[stream])
    status = "ended" if world.ended(stream) else str(state.get("status", ""))
    if question.arguments.json:
        question.print_json(
            {"stream": stream, "ended": world.ended(stream), "state": state, "events": [record(one) for one in history]}
        )
    else:
        render.shown(question.out, world.label(stream), status, state, history)
    return OK


def _at(question: Question) -> int:
    arguments = question.arguments
    then = question.moment(arguments.moment)
    kind = {"ps": "container"}.get(arguments.view, arguments.view.rstrip("s"))
    deciders = ALL_DECIDERS if arguments.view == "inspect" else [each for each in ALL_DECIDERS if each.name == kind]
    world = living_at(question.reader, deciders, then.position)
    if arguments.view == "inspect":
        if not arguments.object:
            return _complain("inspect needs an object", UNREADABLE)
        try:
            stream = world.find(arguments.object)
        except NotFoundError:
            # By a name that it had before, or it had ended by then: that takes the whole story.
            world = question.world(then.position)
            stream = world.find(arguments.object)
        state = plain(world.states[stream])
        question.print_json(state) if arguments.json else render.document(question.out, state)
        return OK
    if arguments.json:
        states = [state for state in world.living(kind) if kind != "container" or arguments.all or state.alive]
        question.print_json([plain(state) for state in states])
        return OK
    match arguments.view:
        case "ps":
            render.table(question.out, tables.containers(world, then.time_ns, all_=arguments.all))
        case "images":
            render.table(question.out, tables.images(world, then.time_ns))
        case "networks":
            render.table(question.out, tables.networks(world))
        case _:
            render.table(question.out, tables.volumes(world))
    return OK


def _diff(question: Question) -> int:
    arguments, reader = question.arguments, question.reader
    first, second = question.moment(arguments.before), question.moment(arguments.after)
    if first.position > second.position:
        return _complain(f"{arguments.before} comes after {arguments.after}", UNREADABLE)
    kinds = None if arguments.all else DIFF_KINDS
    world = question.world(first.position)
    before = living_states(world, kinds)
    world.advance(reader.events(after=first.position, upto=second.position))
    found = compare(before, living_states(world, kinds), world)
    question.print_json([plain(change) for change in found]) if arguments.json else render.changes(question.out, found)
    return OK


def _why(question: Question) -> int:
    world = question.world()
    told = _story(question.reader, world, question.arguments.object)
    if question.arguments.json:
        steps = [
            {"correlation": step.correlation, "asked_by": step.asked_by, "events": [record(one) for one in step.events]}
            for step in told.steps
        ]
        question.print_json(
            {
                "stream": told.stream,
                "steps": steps,
                "verdict": told.verdict,
                "circumstances": list(told.circumstances),
            }
        )
    else:
        render.story(question.out, told, world)
    return OK


def _story(reader: LogReader, world: World, word: str) -> Story:
    """Of a container, an image, or of content by its digest."""
    try:
        stream = world.find(word, ("container", "image"))
    except NotFoundError as error:
        try:
            return why_content(reader, world, word)
        except NotFoundError:
            raise error from None
    return why_image(reader, world, stream) if stream.startswith("image:") else why(reader, world, stream)


def _lives(question: Question) -> Iterator[Life]:
    """Of the object that is asked about, from its first event on."""
    stream = question.world(tolerant=True).find(question.arguments.object)
    decider = next(decider for decider in ALL_DECIDERS if decider.name == stream.partition(":")[0])
    return lives(decider, question.reader.history(stream))


def _blame(question: Question) -> int:
    field = question.arguments.field
    found = blame(_lives(question), field)
    if not found:
        return _complain(f"{question.arguments.object} has nothing at {field!r}", NO)
    if question.arguments.json:
        question.print_json([{"field": one.path, "value": one.value, "by": record(one.recorded)} for one in found])
    else:
        render.blamed(question.out, found)
    return OK


def _bisect(question: Question) -> int:
    found = bisect(_lives(question), predicate(question.arguments.predicate))
    if found is None:
        return _complain(f"{question.arguments.predicate!r} has never held for {question.arguments.object}", NO)
    if question.arguments.json:
        question.print_json({"event": record(found.recorded), "state": found.state})
    else:
        render.log_line(question.out, found.recorded, question.world(found.recorded.position, tolerant=True))
    return OK


def _stats(question: Question) -> int:
    reader = question.reader
    world = World({decider.name: decider for decider in ALL_DECIDERS}, tolerant=True)
    size = reader.path.stat().st_size + sum(segment.size for segment in reader.archive.segments)
    told = stats(reader.events(), world, size)
    question.print_json(plain(told)) if question.arguments.json else render.stats(question.out, told)
    return OK


# -- the parser --------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    # The common options may stand before or after the verb; SUPPRESS keeps the later one from undoing the earlier.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--log", metavar="PATH", default=argparse.SUPPRESS, help=f"the log, or its directory ({DEFAULT_LOG})"
    )
    common.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="answer in JSON")
    root = argparse.ArgumentParser(
        prog="replay",
        description="Ask the log what happened, what was, and why. Reads only; needs neither the engine nor root.",
        parents=[common],
    )
    verbs = root.add_subparsers(required=True, metavar="VERB", dest="verb")
    _add_log(verbs.add_parser("log", parents=[common], help="the events, in order"))
    _add_verb(verbs, common, "show", _show, "one object: what it is, and what happened to it", ("object",))
    at = _add_verb(verbs, common, "at", _at, "what Docker would have shown at a moment", ("moment",))
    at.add_argument("view", choices=("ps", "images", "networks", "volumes", "inspect"))
    at.add_argument("object", nargs="?", default="", help="of inspect: an id, a part of one, or a name")
    at.add_argument("-a", "--all", action="store_true", help="of ps: also what did not run")
    diff = _add_verb(verbs, common, "diff", _diff, "what changed between two moments", ("before", "after"))
    diff.add_argument("-a", "--all", action="store_true", help="also execs, transfers and the ledgers")
    about = "why a container ended, or why an image or layer is still or no longer here"
    _add_verb(verbs, common, "why", _why, about, ("object",))
    about = "who made an object's fields what they are"
    asked = _add_verb(verbs, common, "blame", _blame, about, ("object",))
    asked.add_argument("field", nargs="?", default="", metavar="FIELD", help="one of them, and what is below it")
    about = "the first event after which something held: gone, FIELD, FIELD=VALUE, FIELD!=VALUE, FIELD~REGEX"
    _add_verb(verbs, common, "bisect", _bisect, about, ("object", "predicate"))
    _add_verb(verbs, common, "stats", _stats, "what the log is made of", ())
    fork.add(verbs, common)
    proof.add(verbs, common)
    publish.add(verbs, common)
    return root


def _add_verb(
    verbs: Any, common: argparse.ArgumentParser, name: str, question: Any, help_: str, positional: Sequence[str]
) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, parents=[common], help=help_, description=help_)
    for argument in positional:
        verb.add_argument(argument, metavar=argument.upper())
    verb.set_defaults(question=question)
    return verb


def _add_log(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--object", default="", metavar="OBJECT", help="an id, a part of one, or a name")
    verb.add_argument("--actor", default="", metavar="TEXT", help="part of who did it: uid=0, reactor:lifecycle")
    verb.add_argument("--correlation", default="", metavar="ID", help="everything that one request led to")
    verb.add_argument("--name", default="", metavar="PATTERN", help="the event's name: 'container.*'")
    verb.add_argument("--since", default="", metavar="MOMENT", help="a time, a position, or '10m ago'")
    verb.add_argument("--until", default="", metavar="MOMENT")
    verb.add_argument("-n", "--limit", type=int, default=0, metavar="N", help="only the last N")
    verb.add_argument("-f", "--follow", action="store_true", help="go on with what is appended")
    verb.set_defaults(question=_log)
