"""Commands of a what-if, in the words of the docker CLI: `rm -f web`, `run -d -p 80:80 app:v2`, `network rm back`.

Owns reading words, and who is asked for what. Only what the log can decide is known; everything else is refused with
words.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from replay.fork import belongings, creation, images, lifecycle
from replay.fork.branch import Branch
from replay.fork.fork import Given
from replay.fork.host import Host
from replay.fork.options import Parser, WishError
from replay.fork.scene import Beside, Scene, Transaction

ELSEWHERE = {
    "pull": "what a registry would answer is not in the log: take an image that is here, or `tag` one",
    "build": "what a build would make is not in the log: take an image that is here, or `tag` one",
    "load": "what an archive has is not in the log: take an image that is here, or `tag` one",
    "import": "what an archive has is not in the log: take an image that is here, or `tag` one",
    "commit": "what a container wrote is not in the log: take an image that is here, or `tag` one",
    "exec": "what a process would do is not in the log",
}
"""Commands of the CLI that nobody can answer, and why."""


def given(words: str, time_ns: int, beside: Beside) -> Sequence[tuple[str, Given]]:
    """The commands behind words, each as it is to be shown, at a time: for several objects several. Raises WishError;
    what is given NotFoundError, when its object is unknown."""
    try:
        tokens = shlex.split(words)
        if tokens and tokens[0] in ELSEWHERE:
            raise WishError(ELSEWHERE[tokens[0]])
        asked = _parser().parse_args(tokens)
    except ValueError as error:
        raise WishError(f"{words.partition(' ')[0]}: {error}") from error
    shown = _shown(words, tokens, getattr(asked, "env", ()))
    names: Sequence[str] = getattr(asked, "names", ())
    if not names:
        return [(shown, partial(_made, asked, shown, beside, time_ns))]
    found: list[tuple[str, Given]] = []
    for name in names:
        one = argparse.Namespace(**{**vars(asked), "name": name})
        others = set(names) - {name}
        alone = shlex.join(token for token in tokens if token not in others) if others else shown
        found.append((alone, partial(_made, one, alone, beside, time_ns)))
    return found


def _made(
    asked: argparse.Namespace, shown: str, beside: Beside, time_ns: int, branch: Branch, host: Host
) -> Iterator[Transaction]:
    try:
        yield from asked.made(asked, Scene(branch, host, beside, time_ns, shown))
    except WishError as error:
        raise WishError(f"{shown.partition(' ')[0]}: {error}") from error


def _shown(words: str, tokens: Iterable[str], env: Sequence[str]) -> str:
    """Without the values of variables: they are secrets."""
    if not env:
        return words
    bare = []
    for token in tokens:
        said = next((variable for variable in env if token.endswith(variable)), "")
        bare.append(token.removesuffix(said) + said.partition("=")[0])
    return shlex.join(bare)


def _parser() -> Parser:
    root = Parser(prog="--what-if")
    verbs = root.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    lifecycle.add(verbs)
    creation.add(verbs)
    belongings.add(verbs)
    images.add(verbs)
    return root
