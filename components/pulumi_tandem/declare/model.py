"""The model that a service answers with."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field

from pulumi_tandem.declare.architecture import DTYPE_BYTES, GIB, Architecture, Dtype, Quantisation
from pulumi_tandem.declare.config_json import architecture, read_folder
from pulumi_tandem.declare.noun import Noun

__all__ = ["DTYPE_BYTES", "GIB", "Architecture", "Dtype", "Model", "Quantisation"]


class Model(Noun):
    """One set of weights."""

    name: str = Field(min_length=1)
    """Catalog name (`Llama-3.1-8B-Instruct`, an organisation before it may stay) and default served name."""
    path: str | None = None
    """Folder with the weights, the same on every worker. Default: the engine fetches `name` by itself."""
    revision: str | None = None
    """Commit or tag of the weights. Default: whatever `path` holds, or the newest."""
    dtype: Dtype | None = None
    """Default: the checkpoint's own."""
    weights_gib: float | None = Field(default=None, gt=0)
    """What the checkpoint's files weigh. Default: computed from the architecture, its quantisation and `dtype`."""
    architecture: Architecture | None = None
    """Default: the catalog's, by name."""
    gated: bool = False
    """Whether the hub hands it out only to accounts that its owner let in; a token is needed then."""

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, object] | str,
        *,
        quantisation: Mapping[str, object] | None = None,
        **fields: Any,  # noqa: ANN401
    ) -> Self:
        """The model that a Hugging Face config.json describes; it need not be in the catalog.

        `config` is what the file holds, or the path of the file or its folder on this machine. `quantisation` is what
        hf_quant_config.json holds, where a checkpoint has one; in a folder it is found. `fields` are the model's own:
        `name` (default: the config's `_name_or_path`), `path`, `revision`, ...

        Raises DeclarationError with every key that is missing, contradicts another or is not understood (TND0007).
        """
        if isinstance(config, str):
            config, quantisation = read_folder(config, quantisation)
        fields.setdefault("name", config.get("_name_or_path") or None)
        if fields["name"] is None:
            del fields["name"]
        return cls(architecture=architecture(config, quantisation), **fields)
