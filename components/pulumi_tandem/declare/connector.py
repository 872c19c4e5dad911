"""How an engine hands KV to another engine, in the words of vLLM's --kv-transfer-config."""

from typing import Literal

from pydantic import Field, JsonValue

from pulumi_tandem.declare.noun import Noun

KvRole = Literal["kv_producer", "kv_consumer", "kv_both"]


class Connector(Noun):
    """A KV connector of vLLM. Without one, Tandem chooses NIXL in pull mode and everything else from the transport."""

    name: str | None = "NixlConnector"
    """As vLLM registers it: `NixlConnector` (decode reads), `NixlPushConnector` (prefill writes), ...
    None: the engine has no connector and exchanges no KV."""
    role: KvRole | None = None
    """Default: `kv_producer` on prefill, `kv_consumer` on decode."""
    buffer_device: Literal["cuda", "cpu"] | None = None
    """Where KV lies while it travels. Default: where it is computed."""
    load_failure: Literal["fail", "recompute"] | None = None
    """Default: the engine's `kv_load_failure`."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """`kv_connector_extra_config`, key by key; laid over what Tandem sets (`backends`, `kv_lease_duration`)."""
    fields: dict[str, JsonValue] = Field(default_factory=dict)
    """Further keys beside `kv_connector` and `kv_role`, as typed; the engine refuses those that it does not know."""
