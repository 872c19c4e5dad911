"""What stands before Tandem's gateway, and what the gateway's clients and models need of the cluster."""

from typing import Literal

from pydantic import Field

from pulumi_tandem.declare.noun import Noun


class FrontDoor(Noun):
    """The proxy or load balancer that clients reach the gateway through."""

    implementation: Literal[
        "envoy",
        "envoy-gateway",
        "envoy-ai-gateway",
        "istio",
        "nginx",
        "aws-alb",
        "gke-gateway",
        "kgateway",
        "aibrix",
        "trtllm-serve",
        "other",
    ] = "other"
    """`trtllm-serve`: TensorRT-LLM's disaggregated server."""
    version: str | None = None
    route_timeout_s: float | None = Field(default=None, ge=0)
    """Longest that a whole request may take; 0: no limit. Default: the implementation's."""
    idle_timeout_s: float | None = Field(default=None, ge=0)
    """Longest silence on a connection; 0: no limit. Default: the implementation's."""
    block_tokens: int | None = Field(default=None, ge=1)
    """Tokens in a block of a router that looks for cached prefixes itself."""
    prefill_timeout_s: float | None = Field(default=None, ge=0)
    """Longest that a router waits for prefill; 0: no limit. Default: the implementation's."""
    ranks_per_pod: int = Field(default=1, ge=1)
    """Data-parallel ranks of one pod that a router addresses by number; 1: the engine deals requests out itself."""
    kv_events: bool = False
    """Whether a router learns from events of the engines what they have cached."""
    public: bool = False
    """Whether it is reached from the internet."""


class Ratio(Noun):
    """Bounds of prefill workers per decode worker, which autoscaling keeps."""

    at_least: float = Field(default=0.0, ge=0)
    at_most: float = Field(gt=0)


class TokenSecret(Noun):
    """The Secret that holds the token for the model hub."""

    name: str = Field(min_length=1)
    key: str = Field(default="HF_TOKEN", min_length=1)
