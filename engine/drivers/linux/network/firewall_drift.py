"""The firewall compared with what its rules should be.

Owns: reading our tables back, and what they would be if the kernel had been asked for nothing but our text: the same
text is loaded in an empty namespace and read back, so nothing here knows how nftables spells a rule.
Refuses to know: published ports (inspector.py, which knows whose they are), the policy of the forward chain
(`Kernel._enable_forwarding`), and the chain that belongs to the host's administrator.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engine.aggregates.values.drift import Deviation, Difference
from engine.drivers.linux.network import namespaces, ruleset
from engine.drivers.linux.network.libnftables import Nftables
from engine.drivers.linux.network.ruleset import TABLE, USER_CHAIN, BridgeRules

ELEMENT, RULE, PART, TABLE_PART = "firewall element", "firewall rule", "firewall part", "firewall table"
_PUBLISHED = ("published_any", "published_at", "opened")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A set, map or chain. items: elements as JSON, or rules as text, in order."""

    family: str
    kind: str
    name: str
    items: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        return f"{self.family} {TABLE} {self.name}"


Tables = Mapping[tuple[str, str], Part]


def read(nft: Nftables, families: Sequence[str]) -> Tables:
    """Our tables of the context's namespace: (family, name) to part. Nothing of a table that is not there."""
    found: dict[tuple[str, str], Part] = {}
    there = {(each["table"]["family"], each["table"]["name"]) for each in nft.listing("list tables") if "table" in each}
    for family in families:
        if (family, TABLE) not in there:
            continue
        for each in nft.listing(f"list table {family} {TABLE}"):
            for kind in ("set", "map", "chain"):
                if kind in each:
                    part = _part(nft, family, kind, each[kind])
                    found[family, part.name] = part
    return found


def _part(nft: Nftables, family: str, kind: str, listed: Mapping[str, Any]) -> Part:
    name = str(listed["name"])
    items: Sequence[str]
    if kind == "chain":
        items = () if name == USER_CHAIN else nft.rules(family, TABLE, name)
    else:
        items = () if name in _PUBLISHED else [json.dumps(each, sort_keys=True) for each in listed.get("elem", ())]
    return Part(family=family, kind=kind, name=name, items=tuple(items))


def expected(families: Sequence[str], networks: Sequence[BridgeRules]) -> Tables:
    """What `read` finds when nothing is missing and nothing is stray. On the link thread."""
    with namespaces.scratch():
        nft = Nftables()
        try:
            nft.apply(ruleset.base(ipv6="ip6" in families))
            elements = "".join(ruleset.network_elements("add", each, tuple(families)) for each in networks)
            if elements:
                nft.apply(elements)
            return read(nft, families)
        finally:
            nft.close()


def compare(found: Tables, wanted: Tables, required: Tables) -> list[Difference]:
    """wanted: with networks that come or go; what is not in it is stray. required: without them; what is in it must be
    there."""
    there = {family for family, _ in found}
    gone = sorted({family for family, _ in wanted} - there)
    differences = [_difference(TABLE_PART, Deviation.MISSING, f"{family} {TABLE}") for family in gone]
    for key, part in wanted.items():
        if key[0] not in there:
            continue
        if key not in found:
            differences.append(_difference(PART, Deviation.MISSING, f"{part.kind} {part.words}"))
        elif part.kind == "chain":
            differences += _rules(found[key], part)
        else:
            differences += _elements(found[key], part, required[key])
    strays = [part for key, part in found.items() if key not in wanted]
    return differences + [_difference(PART, Deviation.STRAY, f"{part.kind} {part.words}") for part in strays]


def _rules(found: Part, wanted: Part) -> list[Difference]:
    if found.items == wanted.items:
        return []
    missing, stray = Counter(wanted.items) - Counter(found.items), Counter(found.items) - Counter(wanted.items)
    if not missing and not stray:
        return [_difference(PART, Deviation.WRONG, f"chain {wanted.words}", "its rules are in another order")]
    return [
        *(_difference(RULE, Deviation.MISSING, f"{wanted.words}: {rule}") for rule in missing),
        *(_difference(RULE, Deviation.STRAY, f"{wanted.words}: {rule}") for rule in stray),
    ]


def _elements(found: Part, wanted: Part, required: Part) -> list[Difference]:
    have = set(found.items)
    return [
        *(_element(wanted, each, Deviation.MISSING) for each in required.items if each not in have),
        *(_element(wanted, each, Deviation.STRAY) for each in found.items if each not in set(wanted.items)),
    ]


def _element(part: Part, item: str, deviation: Deviation) -> Difference:
    return _difference(ELEMENT, deviation, f"{part.words}: {_spelled(json.loads(item))}")


def _spelled(element: Any) -> str:
    """As nft writes it: `172.17.0.0/16 . "docker0"`."""
    match element:
        case {"concat": parts}:
            return " . ".join(_spelled(part) for part in parts)
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"range": [first, last]}:
            return f"{_spelled(first)}-{_spelled(last)}"
        case str() if not element[:1].isdigit() and ":" not in element:
            return f'"{element}"'
        case _:
            return str(element)


def _difference(kind: str, deviation: Deviation, subject: str, words: str = "") -> Difference:
    return Difference(kind=kind, deviation=deviation, subject=subject, words=words)


def mend(nft: Nftables, families: Sequence[str], networks: Sequence[BridgeRules], difference: Difference) -> None:
    """Rules and parts: everything static is written anew. An element: it alone, added with all of its network's or
    deleted. One transaction."""
    if difference.kind == ELEMENT and difference.deviation is Deviation.STRAY:
        where, _, element = difference.subject.partition(": ")
        # Adding first makes it no error when the element has gone with its bridge meanwhile.
        nft.apply("".join(f"{verb} element {where} {{ {element} }}\n" for verb in ("add", "delete")))
        return
    text = ruleset.base(ipv6="ip6" in families)
    if difference.kind == PART and difference.deviation is Deviation.STRAY:
        kind, _, where = difference.subject.partition(" ")
        # The base rules first: they let go of a stray chain that one of ours was made to jump to.
        text += (f"flush chain {where}\n" if kind == "chain" else "") + f"delete {kind} {where}\n"
    nft.apply(text + "".join(ruleset.network_elements("add", each, tuple(families)) for each in networks))
