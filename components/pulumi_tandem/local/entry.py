"""What the supervisor remembers of one process that it owns; a file each, so that a new supervisor can go on."""

from typing import Any, Literal

from pydantic import BaseModel

from pulumi_tandem.local.paths import StackPaths, read_json, write_atomically

Wanted = Literal["running", "stopped", "given-up"]
"""What should become of a process: given up is stopped by `tandem abort`, and no longer stands in a destroy's way."""


class Entry(BaseModel):
    """One worker or gateway: what it should be, and the process that it is at present."""

    name: str
    kind: Literal["worker", "gateway"] = "worker"
    service: str
    spec: dict[str, Any]
    """A WorkerSpec or a GatewaySpec."""
    python: str
    """The interpreter that runs it."""
    address: str = "127.0.0.1"
    first_port: int = 0
    """Start of its block of ports; for a gateway the port that clients use."""
    ports: dict[str, int] = {}
    """First port of each named run of ports; workers only."""
    options: dict[str, str] = {}
    """Further flags of a gateway."""
    wanted: Wanted = "running"
    instance: str = ""
    """Marks every process of the present tree in its environment."""
    pid: int = 0
    created_s: float = 0.0
    """With `pid`, the identity of the process: pids are used again."""
    restarts: int = 0
    last_failure: str = ""

    @property
    def generation(self) -> str:
        """The generation of a worker; empty for a gateway."""
        return self.spec.get("generation", "")

    def does_the_same_as(self, other: "Entry") -> bool:
        """Whether a process started for the other would be the same process."""

        def purpose(entry: "Entry") -> tuple[Any, ...]:
            return entry.kind, entry.spec, entry.python, entry.address, entry.options

        return purpose(self) == purpose(other)

    def save(self, paths: StackPaths) -> None:
        """Write the entry for the next supervisor."""
        write_atomically(paths.entries / f"{self.name}.json", self.model_dump_json(indent=1))

    def forget(self, paths: StackPaths) -> None:
        """Remove what `save` and starting the process wrote."""
        (paths.entries / f"{self.name}.json").unlink(missing_ok=True)
        paths.spec_of(self.name).unlink(missing_ok=True)


def saved_entries(paths: StackPaths) -> list[Entry]:
    """Every entry that an earlier supervisor left, by name."""
    contents = (read_json(path) for path in sorted(paths.entries.glob("*.json")))
    return [Entry.model_validate(content) for content in contents if content]
