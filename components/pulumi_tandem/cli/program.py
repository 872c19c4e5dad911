"""Reads what a Python file declares by running it, without a resource and, if the file can, without Pulumi."""

import asyncio
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from pulumi_tandem.cli.refusal import Refusal
from pulumi_tandem.declare import Service
from pulumi_tandem.finding import DeclarationError, Finding, report

File = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A Python file that declares services.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What one file declares."""

    file: Path
    services: tuple[Service, ...] = ()
    findings: tuple[Finding, ...] = ()
    """What is wrong with values that could not even be made; the file stops at the first."""


def read_program(file: Path) -> Program:
    """Every service that the file's variables hold, lists and dicts included; the file may be a Pulumi program.

    Raises Refusal where the file fails for another reason, or declares no service.
    """
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise Refusal(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    refused: Exception | None = None
    finder = _MockedPulumi(file.stem)
    finder.install()
    try:
        spec.loader.exec_module(module)
    except DeclarationError as error:
        return Program(file=file, findings=error.findings)
    except Exception as error:  # noqa: BLE001 - whatever a user's program raises is told, as it happens in their line
        refused = error
    finally:
        finder.remove()
    services = _services_in(list(vars(module).values()))
    if refused and not (services and _is_refused_by_us(refused)):
        raise Refusal(_told(file, refused)) from None
    if not services:
        raise Refusal(f"{file} declares no tandem.Service in its variables")
    return Program(file=file, services=tuple(services))


def services_of(file: Path) -> tuple[Service, ...]:
    """The services of a file. Raises Refusal where a value could not be made, too."""
    program = read_program(file)
    if program.findings:
        raise Refusal(report(program.findings))
    return program.services


def _is_refused_by_us(error: Exception) -> bool:
    """Whether a component refused a declaration that is checked here anyhow."""
    pulumi = sys.modules.get("pulumi")
    return pulumi is not None and isinstance(error, pulumi.RunError)


def _told(file: Path, error: Exception) -> str:
    if _is_refused_by_us(error):
        return str(error)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = lines[-1] if lines else getattr(error, "lineno", None) or 1
    return f"{file}:{line}: {type(error).__name__}: {error}"


def _services_in(values: Sequence[Any]) -> list[Service]:
    found: list[Service] = []
    for value in values:
        if isinstance(value, Service):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _services_in(value)
        elif isinstance(value, dict):
            found += _services_in(list(value.values()))
    return found


class _MockedPulumi(MetaPathFinder, Loader):
    """Puts mocks into Pulumi as soon as something imports it, so that a program that is only read creates nothing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loader: Loader | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    def install(self) -> None:
        """Watches imports; a Pulumi that is there already gets its mocks at once."""
        if "pulumi" in sys.modules:
            self._mock()
        else:
            sys.meta_path.insert(0, self)

    def remove(self) -> None:
        """Watches no more, and ends what Pulumi left to be done."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if self.loop:
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.loop.close()
            asyncio.set_event_loop(None)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Pulumi's own spec, with this as its loader."""
        del path, target
        if fullname != "pulumi":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As Pulumi's loader does."""
        assert self.loader
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As Pulumi's loader does, and then the mocks."""
        assert self.loader
        self.loader.exec_module(module)
        self._mock()

    def _mock(self) -> None:
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        _mock(self.name)


def _mock(name: str) -> None:
    import pulumi  # noqa: PLC0415 - only a program that uses it pays for it

    class NoResources(pulumi.runtime.Mocks):
        """A program that is only read creates nothing."""

        def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
            """A resource that has what it was given."""
            return args.name, args.inputs

        def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[Any, Any], None]:
            """A function that has nothing to say."""
            del args
            return {}, None

    pulumi.runtime.set_mocks(NoResources(), project=name, stack=name, preview=True)
