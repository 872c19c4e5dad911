"""The estimator's formulas on whole columns of rows at once: the same functions, given arrays for numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from benchmarks.estimator.rows import Row
from pulumi_tandem.estimate.aggregated import ROUNDS, first_token_s, interference_s
from pulumi_tandem.estimate.constants import Constants, Table, generation, matrix_bits, select
from pulumi_tandem.estimate.disaggregated import Workers
from pulumi_tandem.estimate.engine import EngineSetup
from pulumi_tandem.estimate.forward import PassTime, Peaks, peaks, time_of
from pulumi_tandem.estimate.prefill import chunks
from pulumi_tandem.estimate.work import Batch, Work, work

Array = np.ndarray[Any, np.dtype[np.float64]]


def stack(kind: type[Any], values: Sequence[Any]) -> Any:  # noqa: ANN401 - any of three dataclasses
    """One value of a dataclass whose fields are columns."""
    return kind(**{each.name: np.array([getattr(v, each.name) for v in values]) for each in fields(kind)})


@dataclass(frozen=True)
class Passes:
    """Passes of many rows, and which row each belongs to."""

    work: Work
    peaks: Peaks
    row: Array
    setups: tuple[EngineSetup, ...]

    @classmethod
    def of(cls, rows: Sequence[Row], batches: Callable[[Row], tuple[EngineSetup, list[Batch]]]) -> "Passes":
        """The passes that `batches` says for each row."""
        flat = [(number, *batches(row)) for number, row in enumerate(rows)]
        each = [(number, setup, batch) for number, setup, several in flat for batch in several]
        return cls(
            work=stack(Work, [work(setup, batch) for _, setup, batch in each]),
            peaks=stack(Peaks, [peaks(setup) for _, setup, _ in each]),
            row=np.array([number for number, _, _ in each]),
            setups=tuple(setup for _, setup, _ in flat),
        )

    def seconds(self, known: Constants, rows: int) -> tuple[Any, Any]:
        """Whole seconds per row, and those without overhead."""
        own = stack_at(known, self.row)
        took: PassTime = time_of(self.work, self.peaks, own)
        whole = np.bincount(self.row, took.total_s, rows)
        return whole, whole - np.bincount(self.row, took.overhead_s, rows)


def stack_at(columns: Any, at: Array) -> Any:  # noqa: ANN401 - likewise
    """The rows `at` of every column."""
    return type(columns)(**{each.name: getattr(columns, each.name)[at] for each in fields(columns)})


@dataclass(frozen=True)
class Predicted:
    """What the estimator says of every row."""

    ttft_ms: Array
    tpot_ms: Array
    tokens_per_s: Array


class Columns:
    """Rows, ready to be predicted with any table of constants."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.step = Passes.of(rows, lambda row: (row.decode.setup, [_decode(row)]))
        self.own = Passes.of(rows, lambda row: (row.prefill.setup, list(chunks(row.prefill.setup, row.prompt_tokens))))
        self.together = Passes.of(rows, lambda row: (row.prefill.setup, _together(row)))
        self.aggregated = np.array([row.mode == "agg" for row in rows])
        self.output = np.array([row.output_tokens for row in rows])
        self.clients = np.array([row.concurrency for row in rows])
        self.decoding = np.array([_each_rank(row, row.decode) for row in rows])
        self.reading = np.array([_each_rank(row, row.prefill) for row in rows])

    def predict(self, table: Table) -> Predicted:
        """All rows with the constants of that table."""
        known, reading = _constants(self.step.setups, table), _constants(self.own.setups, table)
        step_s, _ = self.step.seconds(known, len(self.rows))
        own_s, _ = self.own.seconds(reading, len(self.rows))
        _, together_s = self.together.seconds(reading, len(self.rows))
        waited: Any = interference_s(known, together_s, sequences=self.decoding)  # pyright: ignore[reportArgumentType]
        tpot_s = step_s + np.where(self.aggregated, waited, 0.0) / self.output
        start: Any = (self.reading - 1) / 2 / ROUNDS * own_s
        full: Any = self.reading * own_s - self.output * tpot_s
        queue: Any = np.maximum(start, np.where(self.aggregated, 0.0, full)).clip(0.0)
        handoff_s = np.where(self.aggregated, 0.0, known.handoff_ms * 1e-3)
        ttft_s = first_token_s(known, step_s=step_s, reading_s=own_s) + queue + handoff_s  # pyright: ignore[reportArgumentType]
        rate = self.clients * self.output / (ttft_s + tpot_s * (self.output - 1))
        return Predicted(ttft_ms=np.asarray(ttft_s * 1e3), tpot_ms=tpot_s * 1e3, tokens_per_s=rate)


def _each_rank(row: Row, workers: Workers) -> float:
    return row.concurrency / workers.number / workers.setup.data_parallel


def _decode(row: Row) -> Batch:
    sequences = row.concurrency / row.decode.number
    return Batch(sequences=sequences, context_tokens=row.prompt_tokens + row.output_tokens / 2)


def _together(row: Row) -> list[Batch]:
    setup = row.prefill.setup
    return list(chunks(setup, row.prompt_tokens, ranks=setup.data_parallel))


def _constants(setups: Sequence[EngineSetup], table: Table) -> Constants:
    keys = [(each.engine, generation(each), each.weight_dtype, matrix_bits(each)) for each in setups]
    distinct = list(dict.fromkeys(keys))
    few: Constants = stack(Constants, [select(table, *key) for key in distinct])
    place = {key: number for number, key in enumerate(distinct)}
    return stack_at(few, np.array([place[key] for key in keys]))
