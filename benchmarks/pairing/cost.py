"""What a choice costs."""

from time import process_time
from timeit import repeat

from msgspec import Raw, json

from benchmarks.pairing.ways import GENERATION, ready
from tandem_worker.gateway.fleet import Fleet
from tandem_worker.gateway.pair import Ask, choose
from tandem_worker.gateway.prefix import prompt_of


def print_cost() -> None:
    """Processor time of one request's hashing, choice and memory, in a conversation that is known."""
    print("\n### Cost of one request: prompt_of, choose, remember\n")
    print("| prompt | 4 + 4 workers | 32 + 32 workers |")
    print("| --- | --- | --- |")
    for kib in (2, 16, 128):
        text = "".join(f"word {number} " for number in range(kib * 1024 // 8))[: kib * 1024]
        fields = {"messages": Raw(json.encode([{"role": "user", "content": text}]))}
        cells = [f"{_request_us(fields, workers):.0f} us" for workers in (4, 32)]
        print(f"| {kib} KiB | " + " | ".join(cells) + " |")


def _request_us(fields: dict[str, Raw], workers: int) -> float:
    fleet = ready(Fleet(), workers, workers)

    def request() -> None:
        prompt = prompt_of(fields)
        route = choose(fleet, Ask(GENERATION, disaggregate=True, prompt=prompt))
        assert route is not None
        fleet.remember(route.prefill or "", "prefill", prompt, 0.0)

    return min(repeat(request, number=200, repeat=5, timer=process_time)) / 200 * 1e6
