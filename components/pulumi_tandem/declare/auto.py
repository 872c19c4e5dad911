"""A pool whose shape `tandem plan` decides, and the shape that it decided."""

from pydantic import Field

from pulumi_tandem.declare.noun import Noun
from pulumi_tandem.declare.pool import Pool


class Auto(Noun):
    """A pool of the size and shape that `tandem plan --write` pinned."""

    gpus: tuple[str, ...] = Field(min_length=1)
    """Catalog names of the GPUs to choose from, one kind for all workers of the pool."""
    kv_dtype: str = "auto"
    """As in `Pool`; so for what follows."""
    memory_fraction: float = Field(default=0.9, gt=0, le=1)
    env: dict[str, str] = Field(default_factory=dict)
    extra_args: tuple[str, ...] = ()

    def pool(self, shape: "PoolShape") -> Pool:
        """The pool of that shape, with the settings that are declared."""
        own = {name: getattr(self, name) for name in self.model_fields_set - {"gpus"}}
        return Pool(**shape.model_dump(), **own)


class PoolShape(Noun):
    """What a plan decides of a pool; `Pool` says what each field means."""

    gpu: str
    workers: int = Field(ge=1)
    tensor_parallel: int = Field(ge=1)
    pipeline_parallel: int = Field(default=1, ge=1)
    expert_parallel: bool = False
    sequences: int = Field(ge=1)
    batch_tokens: int = Field(ge=1)


class Pin(Noun):
    """The shapes of one service's pools, and what they were planned for."""

    planned_for: str
    """Hash of what planning read of the declaration."""
    pools: dict[str, PoolShape]


class Pins(Noun):
    """What `tandem plan FILE --write` wrote: the pin of every service by its name."""

    program: str
    """Its file, for messages."""
    services: dict[str, Pin] = Field(default_factory=dict)
