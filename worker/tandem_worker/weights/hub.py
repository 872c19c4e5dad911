"""Weights from a model hub that speaks Hugging Face's API, through its own client.

The client finds the hub (HF_ENDPOINT) and the token (HF_TOKEN) in the environment. `hf download` itself does not do: a
folder that an earlier try left half-filled counts as whole for it when the hub is away (huggingface_hub 2.4.0,
snapshot_download, "Returning existing local_dir"), and it fetches second copies of the weights.
"""

import errno
from dataclasses import dataclass
from pathlib import Path

from tandem_worker.weights.source import Interrupted, Listing, Refused

SCHEME = "hf://"
LEFT_OUT = ("original/*", "metal/*")
"""Second copies of the weights in their authors' own form. Source: vLLM 0.32.0, config/load.py, ignore_patterns; the
repositories of gpt-oss."""

OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO}
"""Errors of the operating system that are not the network's."""


@dataclass(frozen=True)
class Hub:
    """One model at one revision."""

    name: str
    """`hf://ORGANISATION/MODEL[@REVISION]`"""
    endpoint: str | None = None
    """Default: the client's own, HF_ENDPOINT as it was when the client was imported."""

    @property
    def repository(self) -> str:
        """`ORGANISATION/MODEL`."""
        return self.name.removeprefix(SCHEME).partition("@")[0]

    @property
    def revision(self) -> str | None:
        """Commit, tag or branch; None for the newest."""
        return self.name.partition("@")[2] or None

    def list(self) -> Listing:
        """The commit that the revision stands for now, and its files."""
        from huggingface_hub import HfApi  # noqa: PLC0415 - 0.3 s that other sources do not need
        from huggingface_hub.utils import filter_repo_objects  # noqa: PLC0415 - likewise

        try:
            found = HfApi(self.endpoint).model_info(self.repository, revision=self.revision, files_metadata=True)
        except Exception as error:
            raise self._failure(error) from error
        sizes = {each.rfilename: each.size or 0 for each in found.siblings or ()}
        files = {name: sizes[name] for name in filter_repo_objects(sizes, ignore_patterns=list(LEFT_OUT))}
        return Listing(version=found.sha or "", files=files)

    def fetch(self, listing: Listing, folder: Path) -> None:
        """Several files at a time; the client goes on within a file."""
        from huggingface_hub import snapshot_download  # noqa: PLC0415 - likewise

        try:
            snapshot_download(
                self.repository,
                revision=listing.version,
                local_dir=folder,
                ignore_patterns=list(LEFT_OUT),
                endpoint=self.endpoint,
            )
        except OSError as error:
            if error.errno in OF_THE_DISK:
                raise
            raise self._failure(error) from error
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> Exception:
        """What the client raised, in words.

        It passes on the errors of two transports, so what is not known is taken for one of theirs.
        """
        from huggingface_hub import errors  # noqa: PLC0415 - likewise

        where = f"the hub refuses {self.name}"
        match error:
            case errors.GatedRepoError():
                return Refused(f"{where}: the model is gated, and the account of HF_TOKEN was not let in")
            case errors.RevisionNotFoundError():
                return Refused(f"{where}: the model has no revision {self.revision or 'main'!r}")
            case errors.RepositoryNotFoundError():
                return Refused(f"{where}: there is no such model, or HF_TOKEN may not see it")
            case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
                return Refused(f"{where}: HF_TOKEN is not valid there, or may not read it")
            case errors.HFValidationError():
                return Refused(f"{self.name} is no model of a hub: write hf://ORGANISATION/MODEL or .../MODEL@REVISION")
            case _:
                return Interrupted(f"the hub does not give {self.name} ({_brief(error)})")


def _brief(error: Exception) -> str:
    """Its kind, and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
