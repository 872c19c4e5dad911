"""The secrets that open the door: where they are read, and how they are compared."""

import hmac
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

GROUP, OTHERS = 0o070, 0o007
"""Permission bits."""


def _no_digest() -> None:
    """No proof is under way."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Secrets that open the door; no API keys mean an open door."""

    api: tuple[str, ...] = ()
    proof: str | None = None
    proof_digest: Callable[[], str | None] = _no_digest
    """Asked for SHA-256, in hex, of a proof token that nobody wrote down: the prover alone knows it."""

    def may_enter(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers may ask for anything."""
        if not self.api or self.has_proof(headers):
            return True
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # Every key is compared, so that the time taken tells nothing about which one matched.
        matches = [_equal(given.strip(), known) for known in self.api]
        return any(matches)

    def has_proof(self, headers: Mapping[str, str]) -> bool:
        """Whether a request comes from the prover."""
        given = headers.get("x-tandem-proof")
        if given is None:
            return False
        digest = self.proof_digest()
        by_hash = digest is not None and _equal(sha256(given.encode(errors="surrogateescape")).hexdigest(), digest)
        return by_hash or (self.proof is not None and _equal(given, self.proof))


def _equal(given: str, known: str) -> bool:
    # A header is any bytes; those that are no UTF-8 arrive as surrogates.
    return hmac.compare_digest(given.encode(errors="surrogateescape"), known.encode())


def read_keys(api_keys: Path | None, proof_token: Path | None) -> Keys:
    """The secrets in the files that the command line names.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file holds no secret, or lets others read it; opening the door to everybody is never the answer.
    """
    api = _secrets_in(api_keys, "API key") if api_keys else ()
    return Keys(api, _secrets_in(proof_token, "proof token")[0] if proof_token else None)


def _secrets_in(path: Path, what: str) -> tuple[str, ...]:
    stat = path.stat()
    # A Secret that Kubernetes mounts is root's, and readable for the pod's own group.
    if stat.st_mode & OTHERS or (stat.st_mode & GROUP and stat.st_uid == os.getuid()):
        msg = f"{path} can be read by others than its owner, so its {what} is no secret; run `chmod 600 {path}`"
        raise ValueError(msg)
    found = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    if not found:
        msg = f"{path} holds no {what}; write one a line, or name no file to let everybody in"
        raise ValueError(msg)
    return found
