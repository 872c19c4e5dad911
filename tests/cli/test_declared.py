"""Commands on what files declare, as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sarif_kit.validate import validation_errors

from pulumi_tandem import catalog
from pulumi_tandem.cli.main import main

GOOD = """
import pulumi_tandem as tandem
chat = tandem.Service(
    name="chat",
    model=tandem.Model(name="SmolLM2-135M-Instruct"),
    engine=tandem.Vllm(version="0.32.0"),
    prefill=tandem.Pool(gpu="cpu"),
    decode=tandem.Pool(gpu="cpu"),
    context_tokens=2048,
)
"""
BAD = GOOD.replace('name="chat"', 'name="bad"').replace(
    'decode=tandem.Pool(gpu="cpu")', 'decode=tandem.Pool(gpu="cpu", context_tokens=1024, dtype="float32")'
)
"""Two mistakes: contexts and types of the pair differ."""
TYPO = GOOD.replace("context_tokens", "contxt_tokens")


FIVE = """
import pulumi_tandem as tandem
llama = tandem.Model(name="Llama-3.1-8B-Instruct", revision="0e9e39f2")
rdma = tandem.Transfer(transport="rdma")
chat = tandem.Service(
    name="chat", model=llama, transfer=rdma, context_tokens=32768,
    prefill=tandem.Pool(gpu="H100", kv_dtype="fp8"),
    decode=tandem.Pool(gpu="H100", context_tokens=65536),
)
code = tandem.Service(
    name="code", model=llama, transfer=rdma, context_tokens=8192,
    prefill=tandem.Pool(gpu="H100", sequences=512, batch_tokens=256),
    decode=tandem.Pool(gpu="H100", tensor_parallel=3, memory_fraction=0.05),
)
"""


@pytest.fixture
def tandem(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs a command line in a folder of its own; exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("good.py", GOOD), ("bad.py", BAD), ("typo.py", TYPO), ("five.py", FIVE)):
        (tmp_path / name).write_text(text)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tandem", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_a_good_file_has_no_findings(tandem):
    assert tandem("check", "good.py") == (0, "good.py: no findings\n", "")


def test_errors_exit_with_one_and_are_grouped_by_path(tandem):
    code, out, _ = tandem("check", "bad.py")
    assert code == 1
    assert out.splitlines()[0] == "bad.decode.dtype"
    assert "bad.decode.context_tokens" in out.splitlines()


def test_five_mistakes_in_two_services_are_five_findings_each_with_a_story(tandem):
    code, out, _ = tandem("check", "five.py", "--json")
    findings = json.loads(out)
    assert code == 1
    assert {finding["path"] for finding in findings if finding["severity"] == "error"} == {
        "chat.decode.kv_dtype",
        "chat.decode.context_tokens",
        "code.prefill.batch_tokens",
        "code.decode.tensor_parallel",
        "code.decode.gpu",
    }
    assert all(finding["fix"] and finding["source"] for finding in findings)
    assert tandem("explain", *(finding["code"] for finding in findings))[0] == 0


def test_several_files_are_told_under_their_names(tandem):
    code, out, _ = tandem("check", "good.py", "bad.py")
    assert code == 1
    assert out.startswith("good.py: no findings\n\nbad.py:\nbad.decode.dtype\n")


def test_a_value_that_cannot_be_made_is_a_finding_too(tandem):
    code, out, _ = tandem("check", "typo.py", "--format", "json")
    (finding,) = json.loads(out)
    assert code == 1
    assert (finding["code"], finding["path"], finding["file"]) == ("TND0001", "chat.contxt_tokens", "typo.py")


def test_json_says_everything_of_a_finding(tandem):
    _, out, _ = tandem("check", "bad.py", "--json")
    for finding in json.loads(out):
        assert set(finding) == {"code", "severity", "path", "message", "fix", "source", "file"}


def test_sarif_is_valid_and_points_at_the_service(tandem):
    code, out, _ = tandem("check", "good.py", "bad.py", "typo.py", "--format", "sarif")
    log = json.loads(out)
    assert validation_errors(log) == []
    assert code == 1
    (run,) = log["runs"]
    codes = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert {result["ruleId"] for result in run["results"]} == set(codes)
    assert all(codes[result["ruleIndex"]] == result["ruleId"] for result in run["results"])
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "bad.py"}, "region": {"startLine": 4}}


def test_sarif_of_a_clean_file_is_valid_too(tandem):
    code, out, _ = tandem("check", "good.py", "--format", "sarif")
    assert code == 0
    assert validation_errors(json.loads(out)) == []


def test_github_gets_one_line_for_each_finding(tandem):
    code, out, _ = tandem("check", "bad.py", "--format", "github")
    assert code == 1
    for line in out.splitlines():
        assert line.startswith(("::error file=bad.py,line=4,title=TND", "::warning file=bad.py,line=4,title=TND"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = nothing\n", "other.py:1: NameError: name 'nothing' is not defined"),
        ("x = 1\nif x\n", "other.py:2: SyntaxError"),
        ("x = 1\n", "other.py declares no tandem.Service in its variables"),
    ],
)
def test_a_file_that_fails_is_told_by_its_line_and_not_by_a_traceback(tandem, tmp_path: Path, text: str, told: str):
    (tmp_path / "other.py").write_text(text)
    code, _, err = tandem("check", "other.py")
    assert code == 1
    assert err.startswith("Error: ")
    assert told in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words", [("check",), ("check", "missing.py"), ("check", "good.py", "--format", "x"), ("chek",)]
)
def test_a_wrong_command_line_exits_with_two(tandem, words: tuple[str, ...]):
    assert tandem(*words)[0] == 2


def test_render_prints_what_runs(tandem):
    code, out, _ = tandem("render", "good.py")
    assert code == 0
    assert "prefill: 1 x vllm 0.32.0, 0 GPUs each" in out
    assert "    --max-model-len 2048 \\" in out.splitlines()
    code, out, _ = tandem("render", "good.py", "--json")
    (fleet,) = json.loads(out)
    assert [pool["spec"]["argv"][0] for pool in fleet["pools"]] == ["python", "python"]


def test_what_has_errors_is_not_rendered(tandem):
    code, out, err = tandem("render", "bad.py")
    assert (code, out) == (1, "")
    assert "bad.decode.dtype" in err


def test_explain_tells_every_code_it_is_given(tandem):
    code, out, _ = tandem("explain", "TND0001", "tnd0002")
    assert code == 0
    assert out.startswith("TND0001 error: ")
    assert "\n\nTND0002 error: " in out
    code, _, err = tandem("explain", "TND9999")
    assert code == 1
    assert "there is no rule 'TND9999'" in err


def test_the_catalog_is_shown_as_tables_and_rows(tandem):
    assert "tandem catalog instances" in tandem("catalog")[1]
    assert "p5en.48xlarge" in tandem("catalog", "instances")[1]
    assert "TFLOPS" in tandem("catalog", "gpus")[1]
    assert "vllm 0.33.0" in tandem("catalog", "engines", "vllm")[1]
    code, out, _ = tandem("catalog", "models", "gpt-oss-120b", "--json")
    (row,) = json.loads(out)["models"]
    assert (code, row["weights_gib"], row["architecture"]["quantisation"]["weights"]) == (0, 60.69, "mxfp4")


@pytest.mark.parametrize("table", catalog.TABLES)
def test_every_table_has_json(tandem, table: catalog.Table):
    code, out, _ = tandem("catalog", table, "--json")
    assert code == 0
    assert all(row["source"] for row in json.loads(out)[table])


def test_a_name_that_the_catalog_has_not_gives_the_nearest(tandem):
    code, _, err = tandem("catalog", "gpus", "H1000")
    assert code == 1
    assert err == "Error: no 'H1000' among the catalog's gpus; did you mean H100?\n"


def in_a_process(program: str, folder: Path) -> list[str]:
    """Modules that are loaded when the program has ended."""
    program = f"import sys\n{program}\nprint(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    return answer.stdout.splitlines()[-1].split()


CHECK = """
sys.argv = ["tandem", "check", "{file}"]
from pulumi_tandem.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
"""


def test_a_file_without_pulumi_is_checked_without_pulumi(tmp_path: Path):
    (tmp_path / "good.py").write_text(GOOD)
    loaded = in_a_process(CHECK.format(file="good.py"), tmp_path)
    assert not {"pulumi", "numpy", "matplotlib"} & set(loaded)


def test_a_pulumi_program_is_checked_and_creates_nothing(tmp_path: Path):
    program = GOOD + '\nfrom pulumi_tandem import local\nlocal.Inference("chat", local.InferenceArgs(service=chat))\n'
    (tmp_path / "program.py").write_text(program)
    assert "pulumi" in in_a_process(CHECK.format(file="program.py"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["program.py"]
