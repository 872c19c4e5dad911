"""The file in which `tandem plan FILE --write` keeps what it chose: `chat.plan.json` beside `chat.py`."""

import json
from pathlib import Path

from pulumi_tandem.declare import DeclarationError, Pin, Pins
from pulumi_tandem.finding import Finding


def pins_path(program: str | Path) -> Path:
    """Where the pins of a program are kept."""
    return Path(program).with_suffix(".plan.json")


def plan_of(program: str | Path) -> Pins:
    """The pins of a program, for `tandem.Service(plan=tandem.plan_of(__file__))`; none where nothing is written yet.

    Raises DeclarationError where the file is not what `tandem plan` writes.
    """
    path = pins_path(program)
    try:
        services = json.loads(path.read_text("utf-8"))["services"]
        return Pins(program=_shown(program), services={name: Pin(**pin) for name, pin in services.items()})
    except FileNotFoundError:
        return Pins(program=_shown(program))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeclarationError([_unreadable(path, program, error)]) from None


def write_pins(program: str | Path, pins: dict[str, Pin]) -> bool:
    """Puts the pins of services in place of their old ones; whether that changed the file."""
    path = pins_path(program)
    kept = plan_of(program).services | pins
    text = json.dumps({"services": {name: kept[name].model_dump() for name in sorted(kept)}}, indent=2) + "\n"
    if path.exists() and path.read_text("utf-8") == text:
        return False
    path.write_text(text, "utf-8")
    return True


def _shown(program: str | Path) -> str:
    """The path as a user would type it, from the directory that the command runs in where that is above."""
    path, here = Path(program).resolve(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _unreadable(path: Path, program: str | Path, error: Exception) -> Finding:
    return Finding(
        code="TND0301",
        severity="error",
        path=path.name,
        message=f"{path} is not what `tandem plan` writes ({type(error).__name__}); what is pinned cannot be told",
        fix=f"restore it from version control, or delete it and run `tandem plan {_shown(program)} --write`",
        source="pulumi_tandem.pins",
    )
