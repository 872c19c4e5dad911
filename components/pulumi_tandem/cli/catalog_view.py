"""The catalog for people and machines."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table as RichTable

from pulumi_tandem import catalog
from pulumi_tandem.catalog import Engine, Gpu, Instance, ModelRow, UnknownName
from pulumi_tandem.declare.model import GIB

AnyRow = Gpu | Instance | ModelRow | Engine
Cells = dict[str, str]


def rows(table: catalog.Table, name: str | None) -> list[AnyRow]:
    """All rows of a table, or those that a name means: of engines, a kind or a release.

    Raises UnknownName.
    """
    if table == "engines":
        return _engines(name)
    look_up: dict[str, Callable[[str], AnyRow]] = {
        "gpus": catalog.gpu,
        "instances": catalog.instance,
        "models": catalog.model,
    }
    return [look_up[table](each) for each in ([name] if name else catalog.names(table))]


def as_json(found: Sequence[AnyRow]) -> list[dict[str, Any]]:
    """Rows with everything that they say; prices stand with instances, sizes with models."""
    return [_plain(row) for row in found]


def overview() -> RichTable:
    """What there is."""
    table = RichTable(title="The catalog", title_justify="left")
    for heading in ("table", "rows", "for example"):
        table.add_column(heading)
    for name in catalog.TABLES:
        found = rows(name, None)
        table.add_row(f"tandem catalog {name}", str(len(found)), _name(found[len(found) // 2]))
    return table


def many(found: Sequence[AnyRow]) -> RichTable:
    """Rows with what one compares them by."""
    cells = [_cells(row) for row in found]
    table = RichTable(caption=_caption(found), caption_justify="left")
    for heading in cells[0]:
        table.add_column(
            heading, justify="left" if heading in {"name", "GPU", "engine", "weights", "host"} else "right"
        )
    for row in cells:
        table.add_row(*row.values())
    return table


def one(row: AnyRow) -> RichTable:
    """Everything that one row says."""
    table = RichTable(title=_name(row), title_justify="left", show_header=False)
    for key, value in _flat(_plain(row)):
        table.add_row(key, value)
    return table


def _engines(name: str | None) -> list[AnyRow]:
    found = [catalog.engine(kind, each) for kind in catalog.names("engines") for each in catalog.releases(kind)]
    chosen = [row for row in found if name in {None, row.kind, row.version, _name(row)}]
    if not chosen:
        raise UnknownName("engines", str(name), (*catalog.names("engines"), *(row.version for row in found)))
    return list(chosen)


def _name(row: AnyRow) -> str:
    return f"{row.kind} {row.version}" if isinstance(row, Engine) else row.name


def _caption(found: Sequence[AnyRow]) -> str | None:
    prices = [price for row in found if isinstance(row, Instance) and (price := catalog.price(row.name))]
    if not prices:
        return None
    return f"USD/h: on demand, {prices[0].region}, {prices[0].date}; a declaration may say better"


def _cells(row: AnyRow) -> Cells:
    match row:
        case Gpu():
            return _gpu_cells(row)
        case Instance():
            return _instance_cells(row)
        case ModelRow():
            return _model_cells(row)
        case Engine():
            deployable = "yes" if row.deployable else "checked only"
            return {"engine": _name(row), "deployable": deployable, "connector": str(row.connector_version or "-")}


def _gpu_cells(row: Gpu) -> Cells:
    return {
        "name": row.name,
        "memory GiB": _number(row.memory_gib),
        "GB/s": _number(row.memory_gb_per_s),
        "16-bit TFLOPS": _number(row.bf16_tflops),
        "FP8": _number(row.fp8_tflops),
        "FP4": _number(row.fp4_tflops),
        "NVLink GB/s": _number(row.nvlink_gb_per_s),
        "compute capability": f"{row.compute_capability / 10:.1f}" if row.compute_capability else "-",
        "host": row.architecture or "",
    }


def _instance_cells(row: Instance) -> Cells:
    price = catalog.price(row.name)
    return {
        "name": row.name,
        "GPU": row.gpu,
        "GPUs": str(row.gpus),
        "vCPUs": str(row.vcpus),
        "memory GiB": _number(row.memory_gib),
        "network Gbit/s": _number(row.network_gbit_per_s),
        "EFA": f"{row.efa_interfaces} x {row.efa_gbit_per_s:g}" if row.efa_interfaces else "-",
        "NVMe GB": _number(row.nvme_gb),
        "USD/h": f"{price.usd_per_hour:.2f}" if price else "-",
    }


def _model_cells(row: ModelRow) -> Cells:
    shape = row.architecture
    return {
        "name": f"{row.organisation}/{row.name}",
        "parameters": f"{row.parameters / 1e9:.2f} B",
        "active": f"{shape.active_parameters / 1e9:.2f} B",
        "weights": shape.quantisation.weights if shape.quantisation else shape.dtype,
        "GiB": f"{shape.weights_bytes(shape.dtype) / GIB:.1f}",
        "layers": str(shape.layers),
        "KV heads": "latent" if shape.latent_dim else str(shape.kv_heads),
        "experts": f"{shape.experts_per_token} of {shape.experts}" if shape.experts > 1 else "-",
        "context": str(shape.positions_max),
    }


def _number(value: float) -> str:
    return f"{value:g}" if value else "-"


def _plain(row: AnyRow) -> dict[str, Any]:
    fields = {each.name: getattr(row, each.name) for each in dataclasses.fields(row)}
    match row:
        case ModelRow():
            shape = row.architecture
            fields["architecture"] = shape.model_dump(mode="json", exclude_defaults=True)
            fields["active_parameters"] = shape.active_parameters
            fields["weights_gib"] = round(shape.weights_bytes(shape.dtype) / GIB, 2)
        case Instance():
            price = catalog.price(row.name)
            fields["on_demand"] = dataclasses.asdict(price) if price else None
        case _:
            pass
    return fields


def _flat(fields: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, value in fields.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)))
    return lines
