"""Conversations in words, for real engines: what users say is drawn from a seed, and so is what they were answered.

The answers in a prompt are those of the trace, not what the engine said: so every way of choosing gets the same
prompts, whatever came of the last one.
"""

from dataclasses import dataclass
from random import Random

TEXT = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city community name president team minute idea body information"
)
WORDS = TEXT.split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """How much of it."""

    conversations: int
    turns: int
    beginnings: int
    """System prompts; a conversation has one of them."""
    beginning_words: int
    turn_words: int
    answer_words: int
    starts_within_s: float
    pause_s: float
    """Mean time from an answer's end to the next turn."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request."""

    messages: list[dict[str, str]]
    pause_s: float
    """From the last answer's end, or from the conversation's start."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, of which each holds those before."""

    start_s: float
    turns: list[Turn]


def conversations(trace: Trace, seed: int, salt: str) -> list[Conversation]:
    """The same for one seed, but for `salt`: the first word of every prompt, so that no cache has seen any of it."""
    chance = Random(seed)
    beginnings = [f"{salt} {_words(chance, trace.beginning_words)}" for _ in range(trace.beginnings)]
    gap_s = trace.starts_within_s / trace.conversations
    return [
        Conversation(gap_s * (number + chance.random()), _turns(trace, chance, beginnings[number % len(beginnings)]))
        for number in range(trace.conversations)
    ]


def _turns(trace: Trace, chance: Random, beginning: str) -> list[Turn]:
    messages = [{"role": "system", "content": beginning}]
    turns: list[Turn] = []
    for number in range(trace.turns):
        messages.append({"role": "user", "content": _words(chance, trace.turn_words)})
        turns.append(Turn([*messages], chance.expovariate(1 / trace.pause_s) if number else 0.0))
        messages.append({"role": "assistant", "content": _words(chance, trace.answer_words)})
    return turns


def _words(chance: Random, mean: int) -> str:
    return " ".join(chance.choices(WORDS, k=round(mean * chance.uniform(0.5, 1.5))))
