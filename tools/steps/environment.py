"""The file that tools/run reads: PATH, where Pulumi keeps its state, where the engine and the model are."""

import secrets
import shlex
from pathlib import Path

from steps import pulumi_cli
from steps.frame import Place, Run, Step, digest, write_whole

PASSPHRASE_BYTES = 32


def environment_file(place: Place) -> Path:
    """Generated: it names this checkout's own path."""
    return place.private / "env"


def passphrase_file(place: Place) -> Path:
    """Encrypts secrets in this checkout's stacks; lost with the checkout, as are the stacks."""
    return place.private / "pulumi-passphrase"


def state_folder(place: Place) -> Path:
    """The backend of this checkout's stacks."""
    return place.private / "pulumi-state"


def text(place: Place) -> str:
    """The file's content; what the user has set already stands.

    A user whose stacks live elsewhere (PULUMI_BACKEND_URL) keeps the whole of that login, home folder included.
    """
    search = [str(place.library / "bin"), *map(str, pulumi_cli.search_path(place))]
    quoted = {
        "path": shlex.quote(":".join(search)),
        "backend": shlex.quote(f"file://{state_folder(place)}"),
        "home": shlex.quote(str(place.private / "pulumi-home")),
        "passphrase": shlex.quote(str(passphrase_file(place))),
        "engine": shlex.quote(str(place.engine / "bin/python")),
        "model": shlex.quote(str(place.model)),
        "cache": shlex.quote(str(place.cache)),
        "cluster": shlex.quote(str(place.private / "cluster" / "kubeconfig")),
    }
    return """\
# Made by tools/bootstrap.py; read by tools/run. What is set already stands.
export PATH={path}:"$PATH"
if [ -z "${{PULUMI_BACKEND_URL:-}}" ]; then
    export PULUMI_BACKEND_URL={backend}
    export PULUMI_HOME="${{PULUMI_HOME:-}}"
    [ -n "$PULUMI_HOME" ] || PULUMI_HOME={home}
fi
if [ -z "${{PULUMI_CONFIG_PASSPHRASE+set}}${{PULUMI_CONFIG_PASSPHRASE_FILE+set}}" ]; then
    export PULUMI_CONFIG_PASSPHRASE_FILE={passphrase}
fi
export PULUMI_SKIP_UPDATE_CHECK="${{PULUMI_SKIP_UPDATE_CHECK:-true}}"
[ -n "${{TANDEM_CACHE:-}}" ] || TANDEM_CACHE={cache}
[ -n "${{TANDEM_ENGINE_PYTHON:-}}" ] || TANDEM_ENGINE_PYTHON={engine}
[ -n "${{TANDEM_MODEL_DIR:-}}" ] || TANDEM_MODEL_DIR={model}
[ -n "${{TANDEM_CLUSTER_KUBECONFIG:-}}" ] || TANDEM_CLUSTER_KUBECONFIG={cluster}
export TANDEM_CACHE TANDEM_ENGINE_PYTHON TANDEM_MODEL_DIR TANDEM_CLUSTER_KUBECONFIG
""".format(**quoted)


def key(place: Place) -> str:
    """What the file is to hold, and what it holds: one that was removed or changed is made anew."""
    return digest(text(place), environment_file(place))


def stamp(place: Place) -> Path:
    """Beside the file."""
    return place.private / "env-stamp"


def make(place: Place, _: Run) -> None:
    """Writes the file, and what it names where that is not there yet."""
    state_folder(place).mkdir(parents=True, exist_ok=True)
    if not passphrase_file(place).exists():
        write_whole(passphrase_file(place), secrets.token_urlsafe(PASSPHRASE_BYTES), mode=0o600)
    write_whole(environment_file(place), text(place))


STEP = Step(
    name="environment",
    summary="the file .tandem/env that tools/run reads",
    key=key,
    stamp=stamp,
    make=make,
    needs=("library",),
)
