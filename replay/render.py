"""Printing for people, with rich. `--json` does not come here."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text
from rich.tree import Tree

from engine.aggregates.decider import Recorded
from engine.aggregates.values.ids import short
from replay import words
from replay.diff import Change
from replay.heads import Head
from replay.lives import Blamed
from replay.plain import clock_time, human_size, without_defaults
from replay.stats import Stats
from replay.tables import Table
from replay.verify import Verification
from replay.why import Story
from replay.world import World

_MARKS = {"added": "[green]+[/]", "removed": "[red]-[/]", "changed": "[yellow]~[/]"}
COLUMN_GAP = 3
_ID = re.compile(r"\b[0-9a-f]{64}\b")
PIPE_WIDTH = 240
"""Columns when nobody looks: wide, so that nothing is cut off."""


def console() -> Console:
    """Standard output; without colours and without a narrow width when it is not a terminal."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def log_line(out: Console, recorded: Recorded, world: World) -> None:
    out.print(
        f"[dim]{recorded.position:>7}  {clock_time(recorded.time_ns)}[/]  "
        f"[cyan]{escape(world.label(recorded.stream))}[/]  {escape(words.sentence(recorded))}  "
        f"[dim]{escape(words.actor(recorded.cause.actor))}[/]"
    )


def table(out: Console, content: Table) -> None:
    """Columns side by side. Where they fit they are written at once: rich takes half a millisecond for a row."""
    cells = [content.columns, *content.rows]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    if sum(widths) + COLUMN_GAP * (len(widths) - 1) <= out.width:
        gap = " " * COLUMN_GAP
        lines = [gap.join(map(set_cell_size, row, widths)).rstrip() for row in cells]
        out.print(Text(lines[0], style="bold"))
        out.file.writelines(f"{line}\n" for line in lines[1:])
        return
    grid = RichTable(box=None, pad_edge=False, header_style="bold", padding=(0, COLUMN_GAP, 0, 0))
    for column in content.columns:
        grid.add_column(column, overflow="fold")
    for row in content.rows:
        grid.add_row(*map(escape, row))
    out.print(grid, soft_wrap=False)


def document(out: Console, value: Any) -> None:
    out.print_json(json.dumps(value), indent=4, highlight=sys.stdout.isatty())


def shown(out: Console, label: str, status: str, state: Any, history: Iterable[Recorded]) -> None:
    """`replay show`: what it is, and what happened to it."""
    out.print(f"[bold cyan]{escape(label)}[/]  {escape(status)}")
    _values(out, without_defaults(state))
    out.print("\n[bold]What happened[/]")
    for recorded in history:
        out.print(
            f"[dim]{recorded.position:>7}  {clock_time(recorded.time_ns)}[/]  {escape(words.sentence(recorded))}  "
            f"[dim]{escape(words.actor(recorded.cause.actor))}[/]"
        )


def _values(out: Console, values: dict[str, Any]) -> None:
    for key, value in values.items():
        out.print(f"  [dim]{escape(key):<18}[/] {escape(_value(key, value))}")


def _value(key: str, value: Any) -> str:
    if key.endswith("_at") and isinstance(value, int) and value:
        return clock_time(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _brief(key: str, value: Any) -> str:
    """As `_value`; endpoints and ports in few words."""
    match value:
        case {"endpoint_id": _, "ipv4_address": four, "ipv6_address": six, "mac_address": mac}:
            return " ".join(filter(None, (four, six, mac)))
        case {"host_ip": address, "host_port": host, "container_port": inside, "protocol": protocol}:
            return f"{address}:{host}->{inside}/{protocol}"
        case [dict(), *_]:
            return f"[{', '.join(_brief(key, each) for each in value)}]"
        case _:
            return _value(key, value)


def with_short_ids(text: str) -> str:
    """The first twelve digits of each id of 64."""
    return _ID.sub(lambda found: short(found[0]), text)


def changes(out: Console, found: Iterable[Change]) -> None:
    nothing = True
    for change in found:
        nothing = False
        out.print(f"{_MARKS[change.kind]} {escape(with_short_ids(change.label))}")
        for field in change.fields:
            told = (field.path, *(_brief(field.path, value) for value in (field.before, field.after)))
            path, before, after = (escape(with_short_ids(text)) for text in told)
            out.print(f"    [dim]{path}[/]  [red]{before}[/] → [green]{after}[/]")
    if nothing:
        out.print("[dim]nothing changed[/]")


def blamed(out: Console, found: Iterable[Blamed]) -> None:
    rows = [
        (
            one.path,
            _value(one.path, one.value),
            f"@{one.recorded.position}",
            clock_time(one.recorded.time_ns),
            words.sentence(one.recorded),
            words.actor(one.recorded.cause.actor),
        )
        for one in found
    ]
    table(out, Table(columns=("FIELD", "VALUE", "EVENT", "WHEN", "WHAT", "WHO"), rows=tuple(rows)))


def stats(out: Console, told: Stats) -> None:
    out.print(f"[bold]{told.events}[/] events, {human_size(told.file_bytes)}, from {told.first} to {told.last}\n")
    kinds = [(each.kind, str(each.ever), str(each.living)) for each in told.objects]
    table(out, Table(columns=("OBJECT", "EVER", "LIVING"), rows=tuple(kinds)))
    for title, counts in (("EVENT", told.names), ("WHO", told.actors), ("DAY", told.days)):
        out.print()
        table(out, Table(columns=(title, "EVENTS"), rows=tuple((name, str(count)) for name, count in counts)))


def story(out: Console, told: Story, world: World) -> None:
    tree = Tree(f"[bold cyan]{escape(told.label)}[/]", guide_style="dim")
    for step in told.steps:
        first = step.events[0]
        when = f"[dim]{clock_time(first.time_ns)}  {escape(step.correlation)}[/]"
        branch = tree.add(f"[bold]{escape(words.actor(step.asked_by))}[/]  {when}")
        for recorded in step.events:
            other = "" if recorded.stream == told.stream else f"[cyan]{escape(world.label(recorded.stream))}[/]: "
            by = (
                ""
                if recorded.cause.actor == step.asked_by
                else f"  [dim]{escape(words.actor(recorded.cause.actor))}[/]"
            )
            due = f" [dim]because of {escape(recorded.cause.causation)}[/]" if recorded.cause.causation else ""
            branch.add(f"[dim]@{recorded.position}[/] {other}{escape(words.sentence(recorded))}{by}{due}")
    out.print(tree, soft_wrap=False)
    out.print(f"\n{escape(told.verdict)}")
    for sentence in told.circumstances:
        out.print(f"  {escape(sentence)}")


def heads_compared(out: Console, heads: Sequence[Head]) -> None:
    """What a log was compared with."""
    for head in heads:
        when = f", {clock_time(head.time_ns)}" if head.time_ns else ""
        by = f"signed by {head.signer}" if head.signer else "signed by nobody"
        out.print(f"compared with the head at {head.position}{when}, {by}")


def verification(out: Console, result: Verification, path: str) -> None:
    if result.whole:
        out.print(f"[green]whole[/]: {result.events} events in {result.commits} commits, {escape(path)}")
        out.print(f"head: {result.position}:{result.seal}")
        return
    out.print(f"[red]damaged[/]: {len(result.findings)} findings in {escape(path)}")
    for finding in result.findings:
        where = f"@{finding.position}" if finding.position else "file"
        out.print(f"  [bold]{where:>9}[/]  [red]{finding.kind}[/]  {escape(finding.message)}")
