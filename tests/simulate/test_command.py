"""`tandem simulate`, without the words of its command line."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pulumi_tandem.cli.picture import PictureError
from pulumi_tandem.cli.simulate import Ask, is_met, plotted, simulated, simulation_view, to_json
from pulumi_tandem.declare import (
    DeclarationError,
    Lengths,
    Limits,
    Model,
    Objectives,
    Pool,
    Service,
    Transfer,
    Workload,
)
from pulumi_tandem.simulate import TraceError


def service(**changed: object) -> Service:
    whole = {
        "name": "chat",
        "model": Model(name="Llama-3.1-8B-Instruct"),
        "context_tokens": 8192,
        "prefill": Pool(gpu="H100", workers=2),
        "decode": Pool(gpu="H100", workers=2),
        "transfer": Transfer(transport="efa"),
        "workload": Workload(requests_per_s=20, prompt_tokens=Lengths(mean=1000), output_tokens=Lengths(mean=50)),
        "objectives": Objectives(ttft_ms=1000, tpot_ms=50),
        **changed,
    }
    return Service(**whole)  # pyright: ignore[reportArgumentType]


def shown(one: Service, ask: Ask) -> str:
    text = io.StringIO()
    console = Console(width=120, file=text)
    (found,) = simulated([one], ask)
    console.print(simulation_view(found))
    return text.getvalue()


QUICK = Ask(duration_s=20.0)


def test_the_table_says_times_objectives_pools_and_goodput():
    text = shown(service(), QUICK)
    for part in (
        "time to first token",
        "1000",
        "prefill",
        "decode",
        "of requests were answered within every objective",
    ):
        assert part in text


def test_the_front_door_is_named_where_it_is_what_holds_requests_up():
    text = shown(service(limits=Limits(requests_running_max=2, requests_waiting_max=5)), QUICK)
    assert "which lets 2 run (limits.requests_running_max)" in text


def test_the_network_is_named_where_it_is_what_holds_requests_up():
    narrow = service(transfer=Transfer(transport="tcp"), prefill=Pool(gpu="L40S", workers=2))
    assert "The network of prefill workers is what holds requests up" in shown(narrow, QUICK)
    assert "The network" not in shown(service(), QUICK)


def test_a_service_that_misses_its_objectives_is_not_met():
    (kept, missed) = simulated([service(), service(name="eager", objectives=Objectives(ttft_ms=1, tpot_ms=50))], QUICK)
    assert is_met(kept)
    assert not is_met(missed)


def test_the_rate_of_the_command_line_replaces_the_declared_one():
    (few,) = simulated([service()], Ask(requests_per_s=2.0, duration_s=20.0))
    (many,) = simulated([service()], QUICK)
    assert few.outcome.requests < many.outcome.requests / 4


def test_json_holds_everything_and_is_the_same_every_time():
    texts = [to_json(simulated([service()], QUICK)) for _ in range(2)]
    assert texts[0] == texts[1]
    (found,) = json.loads(texts[0])["services"]
    assert found["service"] == "chat"
    assert found["ttft_s"]["p95"] > 0
    assert found["windows"][0]["look"]["pools"][0]["ready"] == 2


TRACES = {
    "trace.csv": "arrival_s,prompt_tokens,output_tokens\n0,900,20\n0.5,800,10\n",
    "trace.jsonl": '{"arrival_s": 0, "prompt_tokens": 900, "output_tokens": 20}\n'
    '{"arrival_s": 0.5, "prompt_tokens": 800, "output_tokens": 10}\n',
}


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_is_replayed_without_a_declared_workload(name: str, tmp_path: Path):
    path = tmp_path / name
    path.write_text(TRACES[name])
    (found,) = simulated([service(workload=None)], Ask(trace=path))
    assert found.outcome.answered == 2


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("trace.txt", "", "'trace.txt' is no trace's name; end it with .csv, .jsonl, .ndjson"),
        ("trace.jsonl", "{", "row 1 is not JSON"),
        ("trace.jsonl", "[1]", "row 1 is not an object"),
        ("trace.csv", "arrival_s,prompt_tokens\n0,1\n", "row 1 has no output_tokens"),
    ],
)
def test_a_trace_that_cannot_be_read_is_told_in_one_sentence(name: str, text: str, told: str, tmp_path: Path):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        simulated([service()], Ask(trace=path))
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"workload": None}, "chat.workload"),
        ({"prefill": Pool(gpu="cpu"), "decode": Pool(gpu="cpu"), "transfer": Transfer()}, "chat.prefill"),
    ],
)
def test_what_cannot_be_simulated_is_a_finding(changed: dict[str, object], path: str):
    with pytest.raises(DeclarationError) as caught:
        simulated([service(**changed)], QUICK)
    assert caught.value.findings[0].path == path


def test_the_picture_is_drawn_the_same_every_time(tmp_path: Path):
    found = simulated([service()], QUICK)
    paths = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for path in paths:
        plotted(found, path)
    assert paths[0].read_text() == paths[1].read_text()
    assert "TTFT p95, ms" in paths[0].read_text() or "<svg" in paths[0].read_text()


def test_a_picture_of_no_known_kind_is_told(tmp_path: Path):
    with pytest.raises(PictureError, match="is no picture's name"):
        plotted(simulated([service()], QUICK), tmp_path / "picture.bmp")
