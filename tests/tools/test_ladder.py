"""The runner of the rungs: nothing hides a failure, and times are told."""

import pytest

import ladder
from ladder import Outcome, Rung, climb, summary

OK, FAILS = ("true",), ("false",)


def test_a_failing_command_does_not_hide_the_next(capfd: pytest.CaptureFixture[str]):
    outcome = climb(Rung(name="some", budget_s=60, commands=(FAILS, ("echo", "beside"), ("echo", "last"))))
    assert outcome.failed == ("false",)
    assert capfd.readouterr().out == "\n=== some ===\nlast\nbeside\n"


def test_the_summary_names_times_budgets_and_failures():
    slow = Rung(name="slow", budget_s=10, commands=(OK,))
    outcomes = [Outcome(rung=slow, took_s=12.4, failed=()), Outcome(rung=slow, took_s=3, failed=("pytest -m slow",))]
    assert summary(outcomes).splitlines() == [
        "slow      ok         12 s, over its budget of 10 s",
        "slow      failed      3 s",
        "          failed: pytest -m slow",
    ]


@pytest.mark.parametrize(("command", "code"), [(OK, 0), (FAILS, 1)])
def test_the_exit_code_tells_whether_every_rung_held(command: tuple[str, ...], code: int, monkeypatch):
    rungs = (Rung(name="first", budget_s=60, commands=(command,)), Rung(name="last", budget_s=60, commands=(OK,)))
    monkeypatch.setattr(ladder, "RUNGS", rungs)
    assert ladder.main([]) == code
    assert ladder.main(["last"]) == 0


def test_an_unknown_rung_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        ladder.main(["unit"])
    assert end.value.code == 2
    assert "no rung is called unit; there are check, coverage, processes, engine, serving" in capsys.readouterr().err


def test_every_marker_has_a_rung(pytestconfig: pytest.Config):
    markers = {line.split(":")[0] for line in pytestconfig.getini("markers")}
    names = {rung.name for rung in ladder.RUNGS}
    assert {"processes", "engine", "serving"} <= markers & names
