"""Weights from an object storage: S3 and what speaks like it, Google's, Azure's.

The client, object_store, finds access keys or the pod's own identity in the environment, as each cloud's tools do.
"""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from tandem_worker.weights.source import Interrupted, Listing, Refused

SCHEMES = ("s3://", "gs://", "az://")
PART_BYTES = 64 * 2**20
"""Of one request: each is short enough for the client's limit of 30 s, and tried again by itself."""
AT_ONCE = 8
"""Files: one stream from S3 gives 50 to 90 MB/s. Source: AWS, "Performance guidelines for Amazon S3"."""
RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=60)}
"""Of one request; whoever calls tries the whole again."""
TEXT_MAX = 300
"""Characters of what the client says: the whole holds its settings, and a pod's last word 2 KiB."""


@dataclass(frozen=True)
class Storage:
    """Everything below one prefix of one bucket."""

    name: str
    """`s3://BUCKET/PREFIX`"""

    def list(self) -> Listing:
        """Objects below the prefix, but for the empty ones that stand for folders."""
        return _listing(self._objects())

    def fetch(self, listing: Listing, folder: Path) -> None:
        """Several files at a time, each part by part; parts that are there are kept."""
        objects = self._objects()
        if _listing(objects) != listing:
            raise self._changed()
        store = self._store()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            running = [pool.submit(self._file, store, folder, each) for each in objects.values()]
            for each in running:
                each.result()

    def _file(self, store: Any, folder: Path, described: Mapping[str, Any]) -> None:  # noqa: ANN401 - one of four classes
        import obstore  # noqa: PLC0415 - 16 MB that other sources do not need

        path, size = described["path"], described["size"]
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as opened:
            while (there := opened.tell()) < size:
                options: Any = {"range": (there, min(size, there + PART_BYTES)), "if_match": described["e_tag"]}
                try:
                    part = obstore.get(store, path, options=options).bytes()
                except obstore.exceptions.BaseError as error:
                    raise self._failure(error) from error
                opened.write(part)
                opened.flush()

    def _objects(self) -> dict[str, Mapping[str, Any]]:
        import obstore  # noqa: PLC0415 - likewise

        store = self._store()
        try:
            found = [each for batch in obstore.list(store) for each in batch]
        except obstore.exceptions.BaseError as error:
            raise self._failure(error) from error
        if not found:
            raise Refused(f"nothing lies below {self.name}: the prefix is wrong, or empty")
        folders = {str(parent) for each in found for parent in PurePosixPath(each["path"]).parents}
        return {each["path"]: each for each in found if each["size"] or each["path"] not in {"", *folders}}

    def _store(self) -> Any:  # noqa: ANN401 - one of four classes
        from obstore.store import from_url  # noqa: PLC0415 - likewise

        return from_url(self.name, retry_config=RETRIES)

    def _changed(self) -> Interrupted:
        return Interrupted(f"{self.name} was changed while it was read")

    def _failure(self, error: Exception) -> Exception:
        """What the client raised, in words."""
        from obstore import exceptions  # noqa: PLC0415 - likewise

        text = str(error).strip().splitlines()[0]
        if isinstance(error, exceptions.PreconditionError):
            return self._changed()
        if isinstance(error, exceptions.NotFoundError) or "404 Not Found" in text:  # a list's errors have no kinds
            return Refused(f"the storage has no {self.name}")
        forbidden = exceptions.PermissionDeniedError, exceptions.UnauthenticatedError
        if isinstance(error, forbidden) or "401 Unauthorized" in text or "403 Forbidden" in text:
            return Refused(f"the storage refuses {self.name}: its access keys, or the account's identity, may not read")
        # Between request and reason it counts its tries.
        said = re.sub(r"^.*?(GET|HEAD) (\S+) in .* - ", r"\1 \2: ", text)
        return Interrupted(f"the storage does not give {self.name} ({said[:TEXT_MAX]})")


def _listing(objects: Mapping[str, Mapping[str, Any]]) -> Listing:
    checksums = "".join(f"{path}={each['e_tag']}\n" for path, each in sorted(objects.items()))
    sizes = {path: each["size"] for path, each in objects.items()}
    return Listing(version=sha256(checksums.encode()).hexdigest(), files=sizes)
