"""Engines of the simulation: the toy model on vLLM's wire, without sockets, that fail by dice."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from tandem_worker.contract import WorkerRecord
from tests.fakes import tokens, wire
from tests.fakes.apis import renderer
from tests.fakes.job import Job, parse_job


@dataclass(slots=True)
class SimEngine:
    """One worker: an engine and what its agent would say."""

    record: WorkerRecord
    alive: bool = True
    frozen: bool = False
    draining: bool = False
    epoch: int = 0
    """Counts restarts: what was held before one is gone."""
    held: dict[str, int] = field(default_factory=dict[str, int])
    """Prompt fingerprints by transfer parameter, each until it is read."""

    @property
    def well(self) -> bool:
        """Whether its agent calls it ready."""
        return self.alive and not self.frozen and not self.draining


def job_of(body: bytes, *, chat: bool) -> Job:
    """The request as the engine reads it."""
    return parse_job(
        json.loads(body), api="chat" if chat else "text", names=("fake",), context_max=100_000, eos_one_in=23
    )


def pieces(job: Job, request_id: str, rng: random.Random) -> Iterator[bytes]:
    """The stream of a job, event by event; now and then several tokens share one, as under load."""
    stream = renderer(job, request_id)
    (sequence,) = job.sequences
    yield from stream.opening([(0, sequence.prompt)])
    first = True
    while sequence.finish is None:
        text, ids = "", []
        for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
            token, new = sequence.step()
            ids.append(token)
            text += new
            if sequence.finish is not None:
                break
        delta = wire.content(text) if job.api == "chat" else text
        yield stream.chunk(
            0,
            delta,
            tuple(ids),
            produced=len(sequence.ids),
            finish=sequence.finish,
            stop=sequence.stopped_by,
            prompt=sequence.prompt if first else None,
        )
        first = False
    yield from stream.closing(job.produced)


def ends_inside_character(ids: list[int]) -> bool:
    """What `/detokenize` would show."""
    return tokens.decode(ids).endswith("\ufffd")
