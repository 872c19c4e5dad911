#!/usr/bin/env python3
"""Turns a bare Linux machine into one that can run `make up` and `make test`.

Needs Python 3.11 or newer and a package index that pip can reach; nothing else has to be
installed by hand. What is large and equal for every checkout lies in the cache folder
(`$TANDEM_CACHE`, else `~/.cache/tandem`); the rest lies in this checkout. Each step is skipped
when its inputs are those it was last done with, so running this again costs a second.
"""

import sys

if sys.version_info < (3, 11):
    found = ".".join(str(part) for part in sys.version_info[:3])
    sys.exit(f"bootstrap: Python {found} is too old; run it with Python 3.11 or newer, as `make PYTHON=python3.11`")

import argparse
from collections.abc import Sequence

from steps import engine, environment, images, kubernetes, library, model, programs, pulumi_cli
from steps.frame import Failure, Place, Screen, Step, carry_out, order

STEPS: tuple[Step, ...] = (
    library.STEP,
    pulumi_cli.STEP,
    engine.STEP,
    engine.VIEW,
    model.STEP,
    environment.STEP,
    *images.STEPS,
    kubernetes.STEP,
    *programs.STEPS,
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; step names are checked by argparse, which lists the known ones."""
    names = [step.name for step in STEPS]
    width = max(len(name) for name in names)
    parser = argparse.ArgumentParser(
        prog="tools/bootstrap.py",
        description=__doc__,
        epilog="steps:\n" + "\n".join(f"  {step.name:<{width}}  {step.summary}" for step in STEPS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", action="append", choices=names, metavar="STEP", help="this step and those it needs; may be repeated"
    )
    parser.add_argument("--list", action="store_true", help="say which steps are done, and do nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when every step is done, 1 when one failed (and with `--list`, when one is to do)."""
    options = parse(arguments)
    place, screen = Place.here(), Screen.of(sys.stdout)
    chosen = order(STEPS, options.only)
    if options.list:
        undone = [step for step in chosen if not step.is_done(place)]
        for step in chosen:
            screen.line(step.name, "to do" if step in undone else "done", step.summary)
        return 1 if undone else 0
    try:
        for step in chosen:
            carry_out(step, place, screen)
    except Failure as failure:
        screen.failure(str(failure))
        return 1
    except KeyboardInterrupt:
        screen.failure("interrupted; run it again to go on where it stopped")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
