"""The dialects by their names in the contract."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from tandem_worker.contract import Dialect
from tandem_worker.dialects import tensorrt_llm, vllm
from tandem_worker.gateway.request import ClientRequest, Fields


class HandOff(Protocol):
    """What a dialect knows of a hand-off; one module each. Streams are relayed without it."""

    def clean(self, request: ClientRequest) -> Fields:
        """The client's fields without those that only the gateway may set."""
        ...

    def why_whole(self, request: ClientRequest) -> str:
        """Why a request runs whole on one worker; empty when it can be handed off."""
        ...

    def prefill_body(self, request: ClientRequest, fields: Fields) -> bytes:
        """The request as the prefill engine gets it."""
        ...

    def transfer_parameters(self, answer: bytes) -> msgspec.Raw | None:
        """What the decode engine needs of the prefill engine's answer. Raises: ValueError."""
        ...

    def complete_answer(self, answer: bytes, *, stream: bool) -> bytes | None:
        """The client's answer where the prefill engine's is the whole of it. Raises: ValueError."""
        ...

    def decode_body(self, fields: Fields, parameters: msgspec.Raw | None, *, with_token_ids: bool) -> bytes:
        """The request as the engine that writes the answer gets it."""
        ...

    def decode_status(self, status: int, *, handed_off: bool) -> int:
        """The status of the engine that writes the answer, in HTTP's own sense."""
        ...


HAND_OFFS: Mapping[Dialect, HandOff] = {"vllm-nixl-pull": vllm, "trtllm-disagg": tensorrt_llm}
