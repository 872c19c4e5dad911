"""The one place of the pure rooms that opens a file: a config.json that the program names, while it declares."""

import json
from collections.abc import Mapping
from typing import Any, cast

from pulumi_tandem.declare.config_json.keys import finding
from pulumi_tandem.finding import DeclarationError

CONFIG = "config.json"
QUANTISATION = "hf_quant_config.json"


def read_folder(
    where: str, quantisation: Mapping[str, object] | None
) -> tuple[Mapping[str, object], Mapping[str, object] | None]:
    """The config.json at `where`, a file or the folder it lies in, and the hf_quant_config.json beside it.

    Raises DeclarationError where there is none, or it holds no JSON object.
    """
    is_file = where.endswith(".json")
    folder = where.rpartition("/")[0] if is_file else where.rstrip("/")
    beside = f"{folder}/" if folder or where.startswith("/") else ""
    config = _read(where if is_file else f"{beside}{CONFIG}")
    if config is None:
        raise DeclarationError(
            [finding(where, "there is no such file", "give the path of a config.json or its folder")]
        )
    return config, quantisation or _read(f"{beside}{QUANTISATION}")


def _read(path: str) -> Mapping[str, object] | None:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            content: Any = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DeclarationError([finding(path, f"cannot be read: {error}", "give the path of a config.json")]) from None
    if not isinstance(content, dict):
        raise DeclarationError([finding(path, "holds no JSON object", "give the path of a model's config.json")])
    return cast("dict[str, object]", content)
