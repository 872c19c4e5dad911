"""What must hold after every schedule, whatever broke. Knows the model and the rules, not the driver."""

import json
from typing import Any, cast

from tandem_worker.gateway.handoff import NOBODY_TAKES_UP
from tests.fakes import tokens
from tests.fakes.job import Job
from tests.simulation.engines import job_of
from tests.simulation.world import Flight, World

JUSTIFIED = {"queue_full", "deadline_exceeded", "no_worker", "engine_queue_full"}
"""Refusals that need no further reason: the service was full, late, or had nobody."""


def broken_rules(world: World) -> list[str]:
    """Every rule that the schedule broke, in words."""
    rules = [*world.complaints, *_admission(world), *_parameters(world)]
    for flight in world.flights:
        rules += [f"request {flight.number}: {rule}" for rule in _flight(flight)]
    rules += [
        f"{worker.record.name} is left with {worker.prefills} prefills, {worker.decodes} decodes"
        for worker in world.fleet
        if worker.prefills or worker.decodes
    ]
    return rules


def _admission(world: World) -> list[str]:
    rules: list[str] = []
    if world.peak[0] > world.queue.running_max or world.peak[1] > world.queue.waiting_max:
        rules.append(f"admission let {world.peak} in, the limits are {world.queue}")
    if world.queue.running or world.queue.waiting:
        rules.append(f"the queue is not empty in the end: {world.queue}")
    queued = set(world.arrivals_queued)
    admitted = [number for number in world.admissions if number in queued]
    if admitted != sorted(admitted):
        rules.append(f"waiting requests were admitted out of order: {admitted}")
    return rules


def _parameters(world: World) -> list[str]:
    used = [parameter for flight in world.flights for parameter in flight.used]
    return [f"transfer parameters used twice: {p}" for p in sorted(set(used)) if used.count(p) > 1]


def _flight(flight: Flight) -> list[str]:
    if flight.ended != 1:
        return [f"ended {flight.ended} times"]
    if len(set(flight.streamed_in)) > 1:
        return [f"its stream changed generations: {sorted(map(str, set(flight.streamed_in)))}"]
    job = job_of(json.dumps(_body(flight)).encode(), chat=flight.request.endpoint == "chat")
    expected = _answer(job)
    events = _events(bytes(flight.received))
    text = "".join(map(_text, events))
    if flight.gone or flight.refusal is not None:
        if not expected.startswith(text):
            return [f"said {text!r}, which is no beginning of {expected!r}"]
        return [] if flight.gone else _refusal(flight)
    return _complete(job, events, text, expected)


def _refusal(flight: Flight) -> list[str]:
    assert flight.refusal is not None
    if flight.refused_in_stream != bool(flight.received):
        return ["the error came as an event before the stream began, or as a status after"]
    if flight.refusal.code in JUSTIFIED or flight.refusal.message == NOBODY_TAKES_UP:
        return []
    terms, state = flight.state.terms, flight.state
    if state.attempts >= terms.attempts_max or (flight.received and not flight.resumable):
        return []
    return [f"lost though it could be saved: {flight.refusal.message} after {state.attempts} attempts"]


def _complete(job: Job, events: list[Any], text: str, expected: str) -> list[str]:
    rules: list[str] = []
    if text != expected:
        rules.append(f"said {text!r} instead of {expected!r}")
    if events[-1:] != ["[DONE]"] or events.count("[DONE]") != 1:
        rules.append("its stream has no end mark, or several")
    finishes = [e["choices"][0]["finish_reason"] for e in events if e != "[DONE]" and e["choices"]]
    if [finish for finish in finishes if finish] != [job.sequences[0].finish]:
        rules.append(f"finish reasons {finishes}")
    if len({(e["id"], e["created"]) for e in events if e != "[DONE]"}) > 1:
        rules.append("its stream has several ids")
    if b'token_ids":[' in json.dumps(events, separators=(",", ":")).encode():
        rules.append("ids that the client did not ask for reached it")
    usages = [e["usage"] for e in events if e != "[DONE]" and e.get("usage")]
    counts = {"prompt_tokens": job.prompt_tokens, "completion_tokens": job.produced}
    wanted = [counts | {"total_tokens": job.prompt_tokens + job.produced}] if job.include_usage else []
    if usages != wanted:
        rules.append(f"usage {usages} instead of {wanted}")
    return rules


def _body(flight: Flight) -> dict[str, Any]:
    return {name: json.loads(bytes(raw)) for name, raw in flight.request.fields.items()}


def _answer(job: Job) -> str:
    (sequence,) = job.sequences
    text = ""
    while sequence.finish is None:
        text += sequence.step()[1]
    assert tokens.decode(sequence.ids).startswith(text.split("\ufffd")[0])
    return text


def _events(stream: bytes) -> list[Any]:
    datas = [event.removeprefix("data: ") for event in stream.decode().split("\n\n") if event]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


def _text(event: Any) -> str:
    if event == "[DONE]" or not event["choices"]:
        return ""
    choice = cast(dict[str, Any], event["choices"][0])
    return choice.get("text") or choice.get("delta", {}).get("content") or ""
