"""The cluster's API server, asked as its administrator."""

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.keys import token
from cluster.place import API_PORT, Site

TIMEOUT_S = 10.0
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
_KINDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class Refused(Exception):
    """The API server answered with an error, or not at all."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Api:
    """Requests of the administrator."""

    site: Site

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:  # noqa: ANN401 - JSON
        """Raises: Refused."""
        request = urllib.request.Request(f"https://127.0.0.1:{API_PORT}{path}", data=body, method=method)
        request.add_header("Content-Type", kind)
        request.add_header("Accept", "application/json")
        try:
            request.add_header("Authorization", f"Bearer {token(self.site)}")
            context = ssl.create_default_context(cafile=str(self.site.keys / "ca.crt"))
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
            )
            with opener.open(request, timeout=TIMEOUT_S) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            raise Refused(error.read().decode(errors="replace")[:500], error.code) from error
        except (urllib.error.URLError, OSError) as error:
            raise Refused(str(error)) from error
        return json.loads(text) if text[:1] in {b"{", b"["} else text.decode()

    def answers(self, path: str) -> bool:
        """Whether a path can be read."""
        try:
            self.ask("GET", path)
        except Refused:
            return False
        return True

    def apply(self, path: str, body: bytes) -> None:
        """Server-side apply; `body` may be YAML of one object."""
        self.ask("PATCH", f"{path}?fieldManager=tandem-cluster&force=true", body, APPLY)

    def merge(self, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """Merge into an object."""
        return self.ask("PATCH", path, json.dumps(body).encode(), MERGE)


def kinds_in(folder: Path) -> dict[str, Path]:
    """Files of CustomResourceDefinitions, named GROUP_PLURAL.yaml, by their paths in the API."""
    parts = {file: file.stem.partition("_") for file in sorted(folder.glob("*.yaml"))}
    return {f"{_KINDS}/{plural}.{group}": file for file, (group, _, plural) in parts.items()}
