"""One difference between what the log says and what kernel and disk have."""

from __future__ import annotations

import enum

import msgspec


class Deviation(enum.Enum):
    """missing: the log has it and the world has not. stray: the world has it and nobody in the log owns it. wrong: both
    have it, and it is not the same."""

    MISSING = "missing"
    STRAY = "stray"
    WRONG = "wrong"


class Difference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """kind: what sort of thing (`bridge`, `veth`, `published port`, ...). subject: what it is called in the world; both
    together name it. owner: the id in the log that it belongs to, "" for a stray. words: what more there is to say."""

    kind: str
    deviation: Deviation
    subject: str
    owner: str = ""
    words: str = ""

    @property
    def key(self) -> str:
        return f"{self.kind} {self.subject}"

    @property
    def sentence(self) -> str:
        owner = f" (of {self.owner[:12]})" if self.owner else ""
        more = f": {self.words}" if self.words else ""
        return f"{self.kind} {self.subject}{owner} is {self.deviation.value}{more}"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a difference. error: why it was not mended, "" when it was, None when nobody tried."""

    difference: Difference
    error: str | None = None

    @property
    def sentence(self) -> str:
        if self.error is None:
            return self.difference.sentence
        return f"{self.difference.sentence}; " + (f"not mended: {self.error}" if self.error else "mended")
