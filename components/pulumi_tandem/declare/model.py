"""The model that a service answers with."""

from typing import Literal

from pydantic import Field

from pulumi_tandem.declare.noun import Noun

Dtype = Literal["bfloat16", "float16", "float32"]
"""Type in which weights are held and computed with."""

DTYPE_BYTES: dict[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of one weight."""

GIB = 1024**3
"""Bytes in a GiB, the unit of all memory that is declared."""


class Quantisation(Noun):
    """How a checkpoint stores its large weights in fewer bits."""

    weights: Literal["fp8", "nvfp4", "mxfp4", "int4", "int8"]
    block: tuple[int, int] | None = None
    """Rows and columns of weights that share one scale: (128, 128) in DeepSeek's FP8. None: scales of other shapes."""
    activations: Literal["bfloat16", "fp8", "int8", "nvfp4", "mxfp8"] = "bfloat16"
    """Type that activations are turned into before they meet the weights."""
    experts_only: bool = False
    """Whether attention keeps the checkpoint's `dtype` and only feed-forward blocks (or experts) are stored in fewer
    bits; embeddings and the output layer keep it either way."""
    kv_scales: bool = False
    """Whether the checkpoint brings scales for a KV cache in fp8; without them the engine takes 1.0."""


class Architecture(Noun):
    """The shape of a decoder-only transformer, as its config.json states it.

    Give one only for a model that the catalog does not have under its name.
    """

    layers: int = Field(ge=1)
    attention_heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    """Heads whose keys and values are cached; fewer than `attention_heads` in grouped-query attention."""
    head_dim: int = Field(ge=1)
    hidden: int = Field(ge=1)
    intermediate: int = Field(ge=1)
    """Width of one feed-forward block (of one expert, in a mixture of experts)."""
    vocabulary: int = Field(ge=1)
    positions_max: int = Field(ge=1)
    """Longest context in tokens that the model was made for."""
    tied_embeddings: bool = False
    """Whether the output layer is the input embedding again, so that it is stored once."""
    experts: int = Field(default=1, ge=1)
    """Feed-forward blocks per layer; 1 for a dense model."""
    experts_per_token: int = Field(default=1, ge=1)
    """Experts that the router sends each token to."""
    shared_experts: int = Field(default=0, ge=0)
    """Experts of each layer that every token goes through besides."""
    dense_layers: int = Field(default=0, ge=0)
    """Layers of a mixture of experts whose feed-forward block is one dense block."""
    dense_intermediate: int = Field(default=0, ge=0)
    """Width of those blocks; 0: `intermediate`."""
    latent_dim: int = Field(default=0, ge=0)
    """Numbers cached per token and layer with latent attention (kv_lora_rank + qk_rope_head_dim); 0: without it."""
    query_latent_dim: int = Field(default=0, ge=0)
    """Width that queries are compressed to with latent attention; 0: they are not."""
    value_head_dim: int | None = None
    """Width of a value head; None: `head_dim`."""
    state_layers: int = Field(default=0, ge=0)
    """Layers that keep a state of fixed size in place of keys and values (Mamba, gated delta net)."""
    state_bytes: int = Field(default=0, ge=0)
    """That state of one request, over all its layers."""
    sliding_window_tokens: int = Field(default=0, ge=0)
    """Window of the layers that see only the nearest tokens; 0: every layer sees everything."""
    sliding_layers: int = Field(default=0, ge=0)
    """How many of `layers` have that window."""
    encoder_decoder: bool = False
    """Whether an encoder reads the prompt; such a model cannot be disaggregated."""
    quantisation: Quantisation | None = None
    """The checkpoint's. Default: none."""
    dtype: Dtype = "bfloat16"
    """Type of the checkpoint; the default of `Model.dtype`."""

    @property
    def parameters(self) -> int:
        """Weights of a Llama-like decoder: gated feed-forward blocks, two norms a layer, no biases.

        A router of experts counts; sinks, biases and other small things of single families do not.
        """
        attention = self.hidden * self.head_dim * 2 * (self.attention_heads + self.kv_heads)
        feed_forward = 3 * self.hidden * self.intermediate * self.experts
        router = self.hidden * self.experts if self.experts > 1 else 0
        layer = attention + feed_forward + router + 2 * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)
        return self.layers * layer + embeddings + self.hidden


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
    """What the checkpoint's files weigh. Default: computed from the architecture and `dtype`, which is
    too much for a quantised checkpoint."""
    architecture: Architecture | None = None
    """Default: the catalog's, by name."""
    gated: bool = False
    """Whether the hub hands it out only to accounts that its owner let in; a token is needed then."""
