"""What `tandem plan` shows, writes and exits with."""

import builtins
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pulumi_tandem as tandem
from pulumi_tandem.cli.picture import PictureError, draw
from pulumi_tandem.cli.plan import plan_json, planned, to_json, view_text, written
from pulumi_tandem.pins import plan_of
from pulumi_tandem.resolve import resolve
from tests.builders import llama_pair, planned_pair
from tests.docs.pages import ROOT

EXAMPLES = sorted((ROOT / "examples" / "plans").glob("*.py"))
H100 = tandem.Pool(gpu="H100")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pulumi_tandem.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=cwd)


def test_the_table_says_what_both_ways_do_and_why_one_wins():
    text = view_text(planned([planned_pair(0.1)], by="cost", gpus=2))
    assert "chat: Llama-3.1-8B-Instruct, 0.1 requests/s, 3000 tokens in, 150 out" in text
    assert "Aggregated wins: 1 GPU (1 x H100 TP1) at 6.88 USD an hour" in text
    assert "2 GPUs serve at most" in text
    for words in ("1 x H100 TP1 + 1 x H100 TP1", "TTFT 95 %", "KV GB/s", "weights/GPU", "15.0 GiB"):
        assert words in text, words


def test_json_holds_intervals_and_null_for_a_queue_that_grows():
    service = planned_pair(1000, prefill=H100, decode=H100)
    found = json.loads(to_json(planned([service], by="gpus")))["services"][0]
    declared, best = found["options"]["declared"], found["options"]["disaggregated"]
    assert declared["ttft_ms"] == [None, None, None]
    assert declared["meets"] == "no"
    low, mid, _ = best["ttft_ms"]
    assert 0 < low < mid
    assert best["pools"]["prefill"]["gpu"] == "H100"
    assert found["pin"] is None


def test_everything_that_keeps_services_from_being_planned_is_told_together():
    with pytest.raises(tandem.DeclarationError) as told:
        planned([llama_pair(), planned_pair(gpus=("GB200",))], by="cost")
    assert {finding.path for finding in told.value.findings} == {"llama", "chat.usd_per_gpu_hour"}


def test_a_written_pin_makes_the_service_deployable(tmp_path: Path):
    program = tmp_path / "chat.py"
    done = written(planned([planned_pair()], by="cost"), program=program, plot=None, html=None, write=True)
    assert done.is_met
    assert done.lines == (f"pinned chat in {tmp_path / 'chat.plan.json'}; commit it",)
    resolve(planned_pair(plan=plan_of(program)))
    again = written(planned([planned_pair()], by="cost"), program=program, plot=None, html=None, write=True)
    assert again.lines == (f"{tmp_path / 'chat.plan.json'} holds it already",)


def test_pools_that_miss_their_objectives_are_not_met(tmp_path: Path):
    plans = planned([planned_pair(1000, prefill=H100, decode=H100)], by="gpus")
    assert not written(plans, program=tmp_path / "chat.py", plot=None, html=None, write=False).is_met
    plans = planned([planned_pair(objectives=tandem.Objectives(ttft_ms=1, tpot_ms=1))], by="gpus")
    assert not written(plans, program=tmp_path / "chat.py", plot=None, html=None, write=False).is_met


def test_a_picture_and_a_report_need_nothing_else(tmp_path: Path):
    html = tmp_path / "report.html"
    plans = planned([planned_pair()], by="cost")
    written(plans, program=tmp_path / "chat.py", plot=None, html=html, write=False)
    text = html.read_text("utf-8")
    assert "<svg" in text
    assert "wins" in text or "Both need" in text
    assert "<script" not in text
    assert 'href="http' not in text.replace("xlink:href", "")


def test_a_picture_of_an_unknown_kind_is_refused(tmp_path: Path):
    with pytest.raises(PictureError, match=r"'plan\.gif' is no picture's name; end it with \.png or \.svg"):
        draw([planned([planned_pair()], by="cost")[0].plan], tmp_path / "plan.gif")


def test_without_matplotlib_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PictureError, match=r"pip install 'pulumi-tandem\[plot\]'"):
        draw([planned([planned_pair()], by="cost")[0].plan], tmp_path / "plan.png")


def test_the_command_plans_pins_and_then_checks(tmp_path: Path):
    program = tmp_path / "factory.py"
    program.write_text((ROOT / "examples/plans/factory.py").read_text("utf-8"), "utf-8")
    before = run("check", "factory.py", cwd=tmp_path)
    assert before.returncode == 1
    assert "run `tandem plan factory.py --write`" in before.stdout
    done = run("plan", "factory.py", "--write", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["services"][0]["service"] == "factory"
    assert "pinned factory in factory.plan.json; commit it" in done.stderr
    after = run("check", "factory.py", cwd=tmp_path)
    assert after.returncode == 0, after.stdout


def test_a_program_without_a_load_is_one_message_and_no_traceback(tmp_path: Path):
    program = tmp_path / "chat.py"
    program.write_text(
        "import pulumi_tandem as tandem\n"
        "chat = tandem.Service(name='chat', model=tandem.Model(name='gpt-oss-120b'), serve=tandem.Pool(gpu='H100'))\n",
        "utf-8",
    )
    done = run("plan", "chat.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "workload and objectives are not declared; nothing can be planned" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_planned(path: Path):
    values: dict[str, object] = {"__file__": str(path)}
    exec(compile(path.read_text("utf-8"), str(path), "exec"), values)
    services = [value for value in values.values() if isinstance(value, tandem.Service)]
    assert services
    for one in planned(services, by="cost"):
        assert one.plan.aggregated or one.plan.disaggregated
        assert plan_json(one)["verdict"]["words"]
