"""The verbs that are about the log as a whole: `verify`, and `head`, which signs what `verify` found whole.

Neither goes by way of the reader: a damaged log must not keep the question from being asked.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from engine.clock import SystemClock
from replay import heads, render
from replay.heads import Head
from replay.plain import plain
from replay.verify import Verification, verify

KEY = "head-key.pem"
WHOLE, DAMAGED = 0, 1


def add(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Both verbs, with `proof`: called with the arguments, it gives the exit code. Raises HeadError, OSError."""
    about = "does the log prove itself?"
    proof = verbs.add_parser("verify", parents=[common], help=about, description=about)
    proof.add_argument("--expect", metavar="POSITION:SEAL", help="a head that was noted earlier")
    proof.add_argument("--head", metavar="FILE|VALUE", action="append", default=[], help="heads kept elsewhere")
    proof.add_argument("--signer", metavar="HEX", default="", help="the public key that must have signed them")
    proof.set_defaults(proof=_verify)
    about = "sign the head of a log that proves itself, to be kept elsewhere"
    head = verbs.add_parser("head", parents=[common], help=about, description=about)
    head.add_argument("--key", metavar="FILE", type=Path, help=f"ed25519 key, made on first use ({KEY} beside the log)")
    head.set_defaults(proof=_head)


def _check(path: Path, expected: list[Head]) -> Verification:
    views = path.with_name("views.db")
    noted = [(head.position, head.seal) for head in expected]
    processors = len(os.sched_getaffinity(0))
    return verify(path, expect=noted, views=views if views.exists() else None, processes=processors)


def _verify(arguments: argparse.Namespace) -> int:
    expected = [head for value in arguments.head for head in heads.read_all(value, arguments.signer)]
    if arguments.expect:
        expected.append(heads.read(arguments.expect))
    result = _check(arguments.path, expected)
    if arguments.json:
        json.dump({"whole": result.whole, **plain(result)}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        render.verification(render.console(), result, str(arguments.path))
        render.heads_compared(render.console(), expected)
    return WHOLE if result.whole else DAMAGED


def _head(arguments: argparse.Namespace) -> int:
    path: Path = arguments.key or arguments.path.with_name(KEY)
    result = _check(arguments.path, [])
    if not result.whole:
        sys.stderr.write("replay: the log is damaged, its head is not signed (see `replay verify`)\n")
        return DAMAGED
    key = heads.load_key(path) if path.exists() else heads.new_key(path)
    head = Head(position=result.position, seal=result.seal, time_ns=SystemClock().now_ns())
    line = heads.sign(head, key)
    sys.stdout.write((json.dumps({"head": line, "signer": heads.public_of(key)}) if arguments.json else line) + "\n")
    return WHOLE
