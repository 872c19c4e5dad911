"""What the steps decide before they run anything, and what they leave for tools/run."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import bootstrap
from steps import engine, environment, library, model, pulumi_cli
from steps.frame import Failure, Place, Run, write_whole

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """This checkout's sources, and nothing of what is installed."""
    checkout = tmp_path / "it's a checkout"
    checkout.mkdir()
    for name in ("tools", "pyproject.toml", "worker"):
        (checkout / name).symlink_to(CHECKOUT / name)
    return Place(checkout=checkout, cache=tmp_path / "cache", python=Path("/usr/bin/python3"))


def fake_pulumi(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    program = folder / "pulumi"
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    return program


def test_every_step_is_in_the_help(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        bootstrap.main(["--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    width = max(len(step.name) for step in bootstrap.STEPS)
    assert all(f"  {step.name:<{width}}  {step.summary}" in told for step in bootstrap.STEPS)


def test_an_unknown_step_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        bootstrap.main(["--only", "engin"])
    assert end.value.code == 2
    assert "invalid choice: 'engin'" in (told := capsys.readouterr().err)
    assert "'engine'" in told


def test_needs_name_steps_that_come_before():
    seen: set[str] = set()
    for step in bootstrap.STEPS:
        assert seen.issuperset(step.needs)
        seen.add(step.name)


def test_listing_does_nothing_and_tells_what_is_to_do(place: Place, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(Place, "here", lambda: place)
    assert bootstrap.main(["--list"]) == 1
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()] == [
        [step.name, "to", "do"] for step in bootstrap.STEPS if not step.when_named
    ]
    assert not place.private.exists()
    assert not place.cache.exists()


@pytest.mark.parametrize(
    ("text", "version"),
    [("v3.259.0\n", (3, 259, 0)), ("3.260.1-dev.3+ab", (3, 260, 1)), ("pulumi", ())],
)
def test_versions_are_read_as_the_cli_prints_them(text: str, version: tuple[int, ...]):
    assert pulumi_cli.parse_version(text) == version


@pytest.mark.parametrize(("version", "taken"), [("v3.258.9", False), ("v3.259.0", True), ("v4.0.0", True)])
def test_a_pulumi_on_path_is_taken_when_recent_enough(
    version: str, taken: bool, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    program = fake_pulumi(tmp_path / "bin", version)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    assert pulumi_cli.ambient(place) == (program if taken else None)


def test_our_own_pulumi_on_path_is_not_taken_for_the_users(place: Place, monkeypatch: pytest.MonkeyPatch):
    program = fake_pulumi(place.cache / "pulumi-0/bin", "v3.259.0")
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    assert pulumi_cli.ambient(place) is None


def test_without_any_way_to_a_pulumi_the_three_are_named(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(pulumi_cli, "installer_answers", lambda: False)
    with pytest.raises(Failure) as failure:
        pulumi_cli.make(place, Run(log=tmp_path / "log"))
    for way in ("on PATH", pulumi_cli.INSTALLER, "Go 1.21"):
        assert way in str(failure.value)
    assert not pulumi_cli.cached(place).exists()


def test_both_pulumi_modules_are_pinned_to_one_version():
    pins = (CHECKOUT / "tools/pulumi/go.mod").read_text()
    assert set(re.findall(r"github.com/pulumi/pulumi/(?:pkg|sdk)/v3 (\S+)", pins)) == {"v3.259.0"}


@pytest.mark.parametrize("file", ["tools/requirements.txt", "tools/engine-requirements.txt"])
def test_requirements_are_pinned_and_name_no_index(file: str):
    lines = [line for line in (CHECKOUT / file).read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9A-Za-z.+!]+", line)] == []


def test_both_environments_agree_on_what_the_worker_runs_on():
    """A worker that passes its tests in .venv runs in the engine's environment on the same versions."""
    pins = [
        dict(line.split("==") for line in (CHECKOUT / file).read_text().splitlines() if "==" in line)
        for file in ("tools/requirements.txt", "tools/engine-requirements.txt")
    ]
    worker = tomllib.loads((CHECKOUT / "worker/pyproject.toml").read_text())["project"]["dependencies"]
    names = [re.split("[><=]", dependency)[0] for dependency in worker]
    assert {name: pins[0][name] for name in names} == {name: pins[1][name] for name in names}


def test_linters_settings_do_not_reinstall_the_library(place: Place):
    before = library.key(place)
    pyproject = place.checkout / "pyproject.toml"
    text = pyproject.read_text()
    pyproject.unlink()
    pyproject.write_text(text + "\n[tool.other]\nanswer = 42\n")
    assert library.key(place) == before

    pyproject.write_text(text.replace("[project]", '[project]\nmaintainers = [{name = "someone"}]'))
    assert library.key(place) != before


def test_the_engine_is_shared_but_a_checkouts_view_is_its_own(place: Place, tmp_path: Path):
    other = Place(checkout=tmp_path / "other", cache=place.cache, python=place.python)
    other.checkout.symlink_to(CHECKOUT)
    assert engine.key(other) == engine.key(place)
    assert engine.view_key(other) != engine.view_key(place)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"config.json": '{"architectures": ["GPT2LMHeadModel"]}'}, "not a LlamaForCausalLM"),
        (
            {"config.json": '{"architectures": ["LlamaForCausalLM"]}', "tokenizer_config.json": "{}"},
            "no chat template",
        ),
    ],
)
def test_a_model_that_cannot_chat_is_refused(files: dict[str, str], complaint: str, tmp_path: Path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(Failure, match=complaint):
        model.check(tmp_path)


def test_the_pins_must_name_torch():
    assert engine.pinned_torch("numpy==2\ntorch==2.13.0\n") == "2.13.0"
    with pytest.raises(Failure, match="pins no torch"):
        engine.pinned_torch("torchvision==1\n")


def seen_by_a_command(place: Place, **users: str) -> dict[str, str]:
    """The environment of a command that tools/run starts, the user having set some variables."""
    tools = place.checkout / "tools"
    if tools.is_symlink():
        tools.unlink()
        tools.mkdir()
        (tools / "run").write_bytes((CHECKOUT / "tools/run").read_bytes())
        (tools / "run").chmod(0o755)
    told = subprocess.run(
        [tools / "run", "env", "-0"], env={"PATH": "/usr/bin:/bin", **users}, capture_output=True, text=True, check=True
    )
    return dict(entry.split("=", 1) for entry in told.stdout.split("\0") if entry)


@pytest.fixture
def set_up(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    environment.make(place, Run(log=tmp_path / "log"))
    return place


def test_the_environment_keeps_pulumi_within_the_checkout(set_up: Place):
    seen = seen_by_a_command(set_up)
    private = set_up.private
    assert seen["PULUMI_BACKEND_URL"] == f"file://{private}/pulumi-state"
    assert (private / "pulumi-state").is_dir()
    assert seen["PULUMI_HOME"] == f"{private}/pulumi-home"
    assert len(Path(seen["PULUMI_CONFIG_PASSPHRASE_FILE"]).read_text()) >= 32
    assert seen["PATH"].split(":")[0] == str(set_up.library / "bin")
    assert seen["TANDEM_ENGINE_PYTHON"] == str(set_up.engine / "bin/python")
    assert seen["TANDEM_MODEL_DIR"] == str(set_up.model)


def test_a_lost_environment_file_is_made_anew(set_up: Place):
    write_whole(environment.stamp(set_up), environment.key(set_up))
    assert environment.STEP.is_done(set_up)
    environment.environment_file(set_up).unlink()
    assert not environment.STEP.is_done(set_up)


def test_a_user_logged_in_elsewhere_stays_so(set_up: Place):
    seen = seen_by_a_command(set_up, PULUMI_BACKEND_URL="s3://stacks", PULUMI_CONFIG_PASSPHRASE="")
    assert seen["PULUMI_BACKEND_URL"] == "s3://stacks"
    assert "PULUMI_HOME" not in seen
    assert "PULUMI_CONFIG_PASSPHRASE_FILE" not in seen


def test_the_passphrase_is_made_once_and_for_one_reader(set_up: Place, tmp_path: Path):
    file = environment.passphrase_file(set_up)
    before = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    environment.make(set_up, Run(log=tmp_path / "log"))
    assert file.read_text() == before


def test_a_checkout_that_is_not_set_up_says_what_to_run(place: Place):
    told = subprocess.run([place.checkout / "tools/run", "true"], capture_output=True, text=True, check=False)
    assert told.returncode == 69
    assert told.stderr == "tools/run: this checkout is not set up yet; run: python3 tools/bootstrap.py\n"
