"""The verbs that make something for others to look at: `export`, `report`, `serve`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.decider import Recorded
from engine.codec import EventCodec
from replay.plain import record
from replay.question import Question
from replay.reader import LogReader
from replay.report.model import Painter
from replay.report.page import page

EVENTS_MAX = 20_000
"""More than anybody can look at, and few enough for a browser."""
HOST, PORT = "127.0.0.1", 8421


def add(verbs: Any, common: argparse.ArgumentParser) -> None:
    about = "the events as JSON, one a line, for other programs"
    export = _verb(verbs, common, "export", _export, about)
    about = "one HTML file: everything over time, the state at any moment, what caused what"
    report = _verb(verbs, common, "report", _report, about)
    for verb in (export, report):
        verb.add_argument("--since", default="", metavar="MOMENT", help="leave out what came before")
        verb.add_argument("--until", default="", metavar="MOMENT", help="leave out what came after")
        verb.add_argument("-o", "--output", metavar="FILE", type=Path, help="write there and not to standard output")
    serve = _verb(verbs, common, "serve", _serve, "the report over the log as it grows, in a browser")
    serve.add_argument("--host", default=HOST, help=f"address to listen on ({HOST}); there is no authentication")
    serve.add_argument("--port", type=int, default=PORT, help=f"port to listen on ({PORT}); 0 chooses one")
    serve.add_argument("--browse", action="store_true", help="open a browser")
    for verb in (report, serve):
        verb.add_argument(
            "--events", type=int, default=EVENTS_MAX, metavar="N", help=f"the last so many ({EVENTS_MAX}); 0 for all"
        )


def _verb(verbs: Any, common: argparse.ArgumentParser, name: str, question: Any, about: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, parents=[common], help=about, description=about)
    verb.set_defaults(question=question)
    return verb


def _export(question: Question) -> int:
    arguments = question.arguments
    events = question.reader.events(after=question.first(arguments.since) - 1, upto=_last(question))
    with _output(arguments.output) as out:
        for recorded in events:
            out.write(json.dumps(record(recorded), ensure_ascii=False) + "\n")
    return 0


def _report(question: Question) -> int:
    arguments, reader = question.arguments, question.reader
    first = question.first(arguments.since)
    painter = Painter(question.world(first - 1, tolerant=True))
    painter.take(reader.events(after=first - 1, upto=_last(question)))
    with _output(arguments.output) as out:
        out.write(page(painter.picture(events_max=arguments.events)))
    return 0


def _serve(question: Question) -> int:
    import webbrowser  # here: a web server is much to load for all other questions

    from replay.report.serve import Gallery, server

    arguments, path = question.arguments, question.reader.path
    codec = EventCodec(event for decider in ALL_DECIDERS for event in decider.events)

    def since(position: int) -> Iterator[Recorded]:
        with LogReader(path, codec) as reader:
            yield from reader.events(after=position)

    painter = Painter(question.world(0, tolerant=True))
    with server(Gallery(painter, since, arguments.events), arguments.host, arguments.port) as listening:
        address = f"http://{arguments.host}:{listening.server_address[1]}/"
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        if arguments.browse:
            webbrowser.open(address)
        listening.serve_forever()
    return 0


def _last(question: Question) -> int:
    until = question.arguments.until
    return question.moment(until).position if until else question.reader.head


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    with path.open("w", encoding="utf-8") as file:
        yield file
