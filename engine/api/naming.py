"""Names for containers nobody named: an adjective and a figure of the sea, of its science and of its stories."""

from __future__ import annotations

from collections.abc import Callable

ADJECTIVES = (
    "able agile amber ample ardent avid azure balmy blithe bold brave breezy bright brisk calm candid careful cheery "
    "civil clear clever cosmic crisp curious daring deft devoted dreamy eager earnest easy elated elegant fair "
    "faithful fearless festive fine firm fluent fond frank fresh gallant gentle glad golden graceful grand hardy "
    "hearty hopeful humble jolly jovial keen kind lively lucid lunar mellow merry mighty mindful modest nimble noble "
    "patient placid plucky polite proud quick quiet radiant ready robust sage sailing serene sharp silver sincere "
    "sleek smooth solid spry stalwart steady stoic sturdy sunny swift tender tidal tidy tranquil trusty upbeat "
    "valiant vigilant vivid warm willing wise witty zealous zesty"
).split()

SURNAMES = (
    "agassiz ahab amundsen anning aronnax barents baret beaufort beebe bering bligh boyle bulkington carson cook "
    "cousteau crozier cuvier dana darwin drake earhart earle elcano ericson fitzroy flask franklin frobisher gama "
    "garneray halley hornblower hudson humboldt ishmael jonah kepler laperouse lovelace magellan mapple maury "
    "melville mercator mitchell nansen nemo noether odysseus pip pytheas queequeg rachel ross scoresby selkirk "
    "shackleton sindbad slocum somerville starbuck stubb tashtego tasman tharp thomson vancouver verne wegener zheng"
).split()

ATTEMPTS = 6
"""After so many taken names the short id is the name. Source: moby daemon/names.go."""


def generate(below: Callable[[int], int]) -> str:
    """`adjective_surname`; below(n) draws from 0..n-1."""
    return f"{ADJECTIVES[below(len(ADJECTIVES))]}_{SURNAMES[below(len(SURNAMES))]}"
