"""The shape of a model, and what its weights are and weigh."""

from typing import Literal

from pydantic import Field

from pulumi_tandem.declare.noun import Noun

Dtype = Literal["bfloat16", "float16", "float32"]
"""Type in which weights are held and computed with."""

DTYPE_BYTES: dict[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of one weight."""

QUANTISED_BITS = {"fp8": 8.0, "int8": 8.0, "nvfp4": 4.5, "mxfp4": 4.25, "int4": 4.25}
"""Bits of a quantised weight with its share of scales: one FP8 scale per 16 (NVFP4), one byte per 32 (MXFP4),
one 16-bit scale per 64 to 128 (INT4); those of FP8 and INT8 are too few to count."""

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
    gated: bool = True
    """Whether a feed-forward block has a gate, and so three matrices; else two (GPT-2, Nemotron)."""
    feed_forward_layers: int | None = Field(default=None, ge=0)
    """Layers that have a feed-forward block. Default: all; in hybrids that alternate, `layers` counts the others."""
    tied_embeddings: bool = False
    """Whether the output layer is the input embedding again, so that it is stored once."""
    experts: int = Field(default=1, ge=1)
    """Feed-forward blocks per layer; 1 for a dense model."""
    experts_per_token: int = Field(default=1, ge=1)
    """Experts that the router sends each token to."""
    shared_experts: int = Field(default=0, ge=0)
    """Experts of each layer that every token goes through besides, as multiples of `intermediate`."""
    expert_hidden: int = Field(default=0, ge=0)
    """Width to which tokens are projected for the router's experts; 0: `hidden`, without projection."""
    dense_layers: int = Field(default=0, ge=0)
    """Layers of a mixture of experts whose feed-forward block is one dense block."""
    dense_intermediate: int = Field(default=0, ge=0)
    """Width of those blocks; 0: `intermediate`."""
    latent_dim: int = Field(default=0, ge=0)
    """Numbers cached per token and layer with latent attention (kv_lora_rank + qk_rope_head_dim); 0: without it."""
    latent_rope_dim: int = Field(default=64, ge=0)
    """Those among them that carry the position; 64 in every model so far (DeepSeek, Kimi, GLM)."""
    query_latent_dim: int = Field(default=0, ge=0)
    """Width that queries are compressed to with latent attention; 0: they are not."""
    value_head_dim: int | None = None
    """Width of a value head; None: `head_dim`."""
    state_layers: int = Field(default=0, ge=0)
    """Layers that keep a state of fixed size in place of keys and values (Mamba, gated delta net)."""
    state_bytes: int = Field(default=0, ge=0)
    """That state of one request, over all its layers."""
    state_parameters: int = Field(default=0, ge=0)
    """Weights of one such layer, which stand in place of attention's."""
    index_bytes_per_token: int = Field(default=0, ge=0)
    """What the indexer of a sparse attention caches besides, over all layers (DeepSeek V3.2: 132 B in each)."""
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
    def attention_layers(self) -> int:
        """Layers that cache keys and values."""
        return self.layers - self.state_layers

    @property
    def expert_layers(self) -> int:
        """Layers whose feed-forward block is a mixture of experts."""
        blocks = self.layers if self.feed_forward_layers is None else self.feed_forward_layers
        return max(0, blocks - self.dense_layers) if self.experts > 1 else 0

    @property
    def attention_parameters(self) -> int:
        """Weights of one layer's attention; with latent attention, of its projections down and up.

        Source of the latter: DeepSeek-V2, arXiv 2405.04434, section 2.1.
        """
        heads, hidden = self.attention_heads, self.hidden
        if not self.latent_dim:
            return 2 * hidden * self.head_dim * (heads + self.kv_heads)
        value_dim = self.value_head_dim or self.head_dim
        query = self.query_latent_dim * (hidden + heads * self.head_dim) or hidden * heads * self.head_dim
        from_latent = heads * (self.head_dim - self.latent_rope_dim + value_dim)
        up = (self.latent_dim - self.latent_rope_dim) * from_latent
        return query + self.latent_dim * hidden + up + heads * value_dim * hidden

    @property
    def expert_parameters(self) -> int:
        """Weights of one expert."""
        return self._matrices * (self.expert_hidden or self.hidden) * self.intermediate

    @property
    def parameters(self) -> int:
        """All weights of the decoder: attention, feed-forward blocks, routers, two norms a layer, embeddings.

        Biases, sinks, norms of queries and other small things of single families do not count, nor do layers that
        guess tokens ahead (MTP) or see pictures.
        """
        blocks = self.layers if self.feed_forward_layers is None else self.feed_forward_layers
        norms = (self.layers + blocks + 1) * self.hidden
        return (
            self._mixers + self._feed_forward(self.experts) + norms + self._embeddings(1 if self.tied_embeddings else 2)
        )

    @property
    def active_parameters(self) -> int:
        """Weights that one token is multiplied with.

        Those of `parameters` but the experts that it is not sent to, and the input embedding, which is a lookup.
        """
        return self._mixers + self._feed_forward(self.experts_per_token) + self._embeddings(1)

    def weights_bytes(self, dtype: str) -> int:
        """Bytes of the weights as the engine holds them; `dtype` is the type of those that are not quantised."""
        stored = self.quantisation
        if stored is None:
            return self.parameters * DTYPE_BYTES[dtype]
        few = self._feed_forward(self.experts) - self.expert_layers * self.hidden * self.experts
        few += 0 if stored.experts_only else self._mixers
        return int((self.parameters - few) * DTYPE_BYTES[dtype] + few * QUANTISED_BITS[stored.weights] / 8)

    @property
    def _matrices(self) -> int:
        return 3 if self.gated else 2

    @property
    def _mixers(self) -> int:
        return self.attention_layers * self.attention_parameters + self.state_layers * self.state_parameters

    def _feed_forward(self, experts: int) -> int:
        """Weights of all feed-forward blocks, routers included, with so many experts of each mixture."""
        blocks = self.layers if self.feed_forward_layers is None else self.feed_forward_layers
        dense = (blocks - self.expert_layers) * (self.dense_intermediate or self.intermediate)
        shared = self.expert_layers * self.shared_experts * self.intermediate
        projections = 2 * self.hidden * self.expert_hidden + self.hidden * self.experts
        mixture = self.expert_layers * (experts * self.expert_parameters + projections)
        return self._matrices * self.hidden * (dense + shared) + mixture

    def _embeddings(self, times: int) -> int:
        return times * self.vocabulary * self.hidden
