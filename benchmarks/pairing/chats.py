"""Conversations that grow, of users who share system prompts, for two machines."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from zlib import crc32

from benchmarks.flexible import Machine, cores, h100s
from pulumi_tandem.declare import Lengths
from pulumi_tandem.simulate import Arrivals, Asked, Conversations, Traffic, generate
from tandem_worker.gateway.prefix import BYTES_PER_TOKEN, PIECE_BYTES, PIECES_MAX

PIECE_TOKENS = PIECE_BYTES // BYTES_PER_TOKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A machine, its two pools, and conversations for it."""

    machine: Machine
    name: str
    readers: int
    writers: int
    beginnings: int
    """System prompts, each of `beginning_tokens`; a conversation has one of them."""
    beginning_tokens: int
    turn_tokens: int
    """What a user says at a time; each answer has `answer_tokens`."""
    answer_tokens: int
    turns: int
    pause_s: float
    conversations_per_s: float
    """At load 1: about what the prefill workers could read with no cache at all."""
    duration_s: float
    block_tokens: int


def chats() -> Iterator[Chat]:
    """Four prefill workers each, of either machine; and the second one with prompts that have nothing in common."""
    yield Chat(
        machine=cores(),
        name="4 prefill and 4 decode CPU cores with SmolLM2-135M, calibrated on the measured pair",
        readers=4,
        writers=4,
        beginnings=8,
        beginning_tokens=512,
        turn_tokens=120,
        answer_tokens=40,
        turns=5,
        pause_s=20.0,
        conversations_per_s=0.55,
        duration_s=1200.0,
        block_tokens=128,
    )
    yield Chat(
        machine=h100s(),
        name="4 prefill and 4 decode H100s with Llama 3.1 8B, by the estimate",
        readers=4,
        writers=4,
        beginnings=40,
        beginning_tokens=2000,
        turn_tokens=400,
        answer_tokens=200,
        turns=6,
        pause_s=20.0,
        conversations_per_s=11.0,
        duration_s=300.0,
        block_tokens=64,
    )
    yield Chat(
        machine=h100s(),
        name="The same H100s, prompts that share nothing",
        readers=4,
        writers=4,
        beginnings=1,
        beginning_tokens=0,
        turn_tokens=3000,
        answer_tokens=200,
        turns=1,
        pause_s=20.0,
        conversations_per_s=80.0,
        duration_s=60.0,
        block_tokens=64,
    )


def conversations(chat: Chat, load: float, seed: int) -> Traffic:
    """Growing prompts, each after the system prompt of its conversation."""
    said = generate(
        Arrivals(requests_per_s=load * chat.conversations_per_s),
        prompt_tokens=Lengths(mean=chat.turn_tokens, variation=0.5),
        output_tokens=Lengths(mean=chat.answer_tokens, variation=0.5),
        duration_s=chat.duration_s,
        seed=seed,
        conversations=Conversations(turns=chat.turns, pause_s=chat.pause_s),
    )
    return replace(
        said,
        prompt_tokens=[tokens + chat.beginning_tokens for tokens in said.prompt_tokens],
        beginning=[crc32(b"%d" % session) % chat.beginnings for session in said.session],
        beginning_tokens=[chat.beginning_tokens] * len(said),
    )


def pieces(asked: Asked) -> tuple[int, ...]:
    """The prompt's pieces, as unlike each other as hashes: of the beginning, then of the session."""
    count = min(asked.prompt_tokens // PIECE_TOKENS, PIECES_MAX)
    shared = asked.beginning_tokens // PIECE_TOKENS
    words = (
        b"b%d %d" % (asked.beginning, number) if number < shared else b"s%d %d" % (asked.session, number)
        for number in range(count)
    )
    return tuple(crc32(word) << 32 | crc32(word + b"'") for word in words)
