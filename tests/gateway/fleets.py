"""Fleets of a few workers, for tests of what is decided about them."""

from collections.abc import Sequence

from tandem_worker.contract import Phase, WorkerRecord
from tandem_worker.gateway.fleet import Fleet
from tandem_worker.gateway.pair import Ask


def worker(
    name: str, phase: Phase, *, generation: str = "g1", key: str = "k1", both: bool = True, zone: str = ""
) -> WorkerRecord:
    return WorkerRecord(
        name=name,
        service="chat",
        pool=phase,
        phase=phase,
        phases=("prefill", "decode") if both else (phase,),
        dialect="vllm-nixl-pull",
        generation=generation,
        pair_key=key,
        address="host",
        http_port=1,
        agent_port=2,
        zone=zone,
    )


def fleet_of(*records: WorkerRecord, ready: Sequence[str] | None = None) -> Fleet:
    fleet = Fleet()
    fleet.observe(records, "g1")
    for record in records:
        if ready is None or record.name in ready:
            fleet.probed(record.name, good=True, draining=False, asked_s=0.0, now_s=0.0)
    return fleet


P0, P1, D0, D1 = worker("p0", "prefill"), worker("p1", "prefill"), worker("d0", "decode"), worker("d1", "decode")
HANDOFF = Ask("g1", disaggregate=True)
