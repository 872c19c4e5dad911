"""Pinned shapes: what is deployed is what was committed."""

import json
from pathlib import Path
from typing import Any

import pytest

import pulumi_tandem as tandem
from pulumi_tandem.declare import Pins
from pulumi_tandem.declare.pinned import planning_hash
from pulumi_tandem.pins import pins_path, plan_of, write_pins
from pulumi_tandem.plan import plan
from pulumi_tandem.resolve import resolve
from tests.builders import planned_pair


def pinned(program: Path, **changes: Any) -> tandem.Service:
    """The planned service, with what is pinned for its program."""
    return planned_pair(plan=plan_of(program), **changes)


def write(program: Path, service: tandem.Service) -> None:
    pin = plan(service, by="gpus").pin
    assert pin
    write_pins(program, {service.name: pin})


def codes(service: tandem.Service) -> dict[str, str]:
    with pytest.raises(tandem.DeclarationError) as told:
        resolve(service)
    return {finding.path: finding.code for finding in told.value.findings}


def test_without_a_pin_both_pools_are_told_with_the_command(tmp_path: Path):
    service = pinned(tmp_path / "chat.py")
    assert codes(service) == {"chat.prefill": "TND0300", "chat.decode": "TND0300"}
    with pytest.raises(tandem.DeclarationError, match=r"run `tandem plan .*chat\.py --write`"):
        resolve(service)


def test_a_service_that_reads_no_pins_is_told_to(tmp_path: Path):
    with pytest.raises(tandem.DeclarationError, match=r"give plan=tandem\.plan_of\(__file__\)"):
        resolve(planned_pair())


def test_a_pinned_service_resolves_to_what_was_planned(tmp_path: Path):
    program = tmp_path / "chat.py"
    write(program, planned_pair())
    planned = plan(planned_pair(), by="gpus").disaggregated
    assert planned
    resolved = resolve(pinned(program))
    for pool in planned.pools:
        found = resolved.pool(pool.name)
        assert (found.gpu.name, found.workers, found.tensor_parallel, found.sequences, found.batch_tokens) == (
            pool.shape.gpu, pool.shape.workers, pool.shape.tensor_parallel, pool.shape.sequences,
            pool.shape.batch_tokens,
        )  # fmt: skip


def test_settings_of_a_planned_pool_reach_the_pinned_one(tmp_path: Path):
    program = tmp_path / "chat.py"
    pools: dict[str, Any] = {
        "prefill": tandem.Auto(gpus=("H100",), kv_dtype="fp8", env={"A": "b"}),
        "decode": tandem.Auto(gpus=("H100",), kv_dtype="fp8"),
    }
    write(program, planned_pair(**pools))
    prefill = resolve(pinned(program, **pools)).pool("prefill")
    assert (prefill.kv_dtype, prefill.env) == ("fp8", (("A", "b"),))


@pytest.mark.parametrize(
    "change",
    [
        {"workload": tandem.Workload(requests_per_s=9, prompt_tokens=3000, output_tokens=150)},
        {"objectives": tandem.Objectives(ttft_ms=999, tpot_ms=30)},
        {"model": tandem.Model(name="Llama-3.3-70B-Instruct")},
        {"context_tokens": 4096},
        {"prefill": tandem.Auto(gpus=("H100", "H200"))},
        {"transfer": tandem.Transfer()},
        {"usd_per_gpu_hour": {"H100": 2.0}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_pin_for_another_declaration_is_refused(tmp_path: Path, change: dict[str, Any]):
    program = tmp_path / "chat.py"
    write(program, planned_pair())
    assert set(codes(pinned(program, **change)).values()) == {"TND0301"}


def test_what_planning_does_not_read_leaves_the_pin_valid(tmp_path: Path):
    program = tmp_path / "chat.py"
    write(program, planned_pair())
    resolve(pinned(program, resume=False, keep_failed=True, limits=tandem.Limits(requests_running_max=9)))


def test_a_hash_does_not_depend_on_where_the_pins_are():
    assert planning_hash(planned_pair()) == planning_hash(planned_pair(plan=Pins(program="elsewhere.py")))


def test_pins_of_other_services_are_kept(tmp_path: Path):
    program = tmp_path / "chat.py"
    write(program, planned_pair())
    write(program, planned_pair(name="code"))
    assert set(plan_of(program).services) == {"chat", "code"}


def test_writing_the_same_pin_again_changes_nothing(tmp_path: Path):
    program = tmp_path / "chat.py"
    pin = plan(planned_pair(), by="gpus").pin
    assert pin
    assert write_pins(program, {"chat": pin})
    assert not write_pins(program, {"chat": pin})


@pytest.mark.parametrize("text", ["{", "[]", '{"services": {"chat": {"pools": {}}}}', "{}"])
def test_a_damaged_file_is_told_and_not_taken_for_none(tmp_path: Path, text: str):
    program = tmp_path / "chat.py"
    pins_path(program).write_text(text, "utf-8")
    with pytest.raises(tandem.DeclarationError, match=r"is not what `tandem plan` writes"):
        plan_of(program)


def test_a_pin_is_readable_by_people(tmp_path: Path):
    program = tmp_path / "chat.py"
    write(program, planned_pair(0.1))
    written = json.loads(pins_path(program).read_text("utf-8"))["services"]["chat"]
    assert written["pools"]["prefill"]["gpu"] == "H100"
    assert written["pools"]["prefill"]["workers"] == 1
