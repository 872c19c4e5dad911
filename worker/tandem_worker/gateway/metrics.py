"""Counts and times of the gateway: for `/metrics` as Prometheus text, for `/fleet` as numbers."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

WINDOW = 2048
"""How many of the latest requests the percentiles of `/fleet` are taken over."""

TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 120.0)
TPOT_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0)

COUNTED = (
    "requests",
    "completed",
    "rejected",
    "refused",
    "failed",
    "retried",
    "resumed",
    "fallback",
    "typed_errors",
    "client_gone",
    "timeouts",
)
"""Events that `/fleet` reports.

requests: arrived at a generating path. completed: answered in full. rejected: turned away by admission
or full engines (429). refused: wrong requests (other 4xx). failed: error answers of status 5xx.
typed_errors: streams ended by an error event.
"""


class Percentiles:
    """Percentiles of the latest values, in milliseconds; bounded memory."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=WINDOW)
        self._count = 0

    def add(self, seconds: float) -> None:
        """Take one value."""
        self._values.append(seconds * 1000)
        self._count += 1

    def summary(self) -> dict[str, float | int | None]:
        """`p50` and `p99` of the window, None while it is empty, and the count of all values ever."""
        ordered = sorted(self._values)

        def at(share: float) -> float | None:
            return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None

        return {"p50": at(0.5), "p99": at(0.99), "count": self._count}


class Metrics(Collector):
    """Everything that is counted; labels come from fixed sets, never from clients."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = dict.fromkeys(COUNTED, 0)
        self.ttft = Percentiles()
        self.tpot = Percentiles()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._outcomes = Counter(
            "tandem_gateway_answers",
            "Answers by endpoint, path through the fleet, and outcome",
            ("endpoint", "path", "outcome"),
            registry=self._registry,
        )
        self._answers: dict[tuple[str, str, str], Counter] = {}
        self._losses = Counter(
            "tandem_gateway_losses", "Failed attempts by phase and kind", ("phase", "kind"), registry=self._registry
        )
        self._whole = Counter(
            "tandem_gateway_whole",
            "Requests that ran whole on one worker of a disaggregated service, by reason",
            ("reason",),
            registry=self._registry,
        )
        self._moves = Counter(
            "tandem_gateway_role_moves", "Flexible workers that changed sides", registry=self._registry
        )
        self._ttft_s = Histogram(
            "tandem_gateway_ttft_seconds", "Arrival to first bytes", buckets=TTFT_BUCKETS_S, registry=self._registry
        )
        self._tpot_s = Histogram(
            "tandem_gateway_tpot_seconds",
            "Mean gap of a stream's tokens",
            buckets=TPOT_BUCKETS_S,
            registry=self._registry,
        )
        self._gauges = {
            name: Gauge(f"tandem_gateway_{name}", text, registry=self._registry)
            for name, text in (
                ("requests_running", "Requests in the service"),
                ("requests_waiting", "Requests waiting for a place"),
                ("workers_ready", "Workers of the active generation that take requests"),
            )
        }
        self._phases = Gauge(
            "tandem_gateway_phase_workers",
            "Ready workers of the active generation by the phase that they take now",
            ("phase",),
            registry=self._registry,
        )
        self._backlog_s = Gauge(
            "tandem_gateway_backlog_seconds", "Work waiting for a phase", ("phase",), registry=self._registry
        )

        self._scale = Gauge(
            "tandem_gateway_scale",
            "What autoscalers follow, over all gateways of the service; only where it declares any",
            ("tandem_service", "figure"),
            registry=self._registry,
        )

    def count(self, what: str, by: int = 1) -> None:
        """Count an event of `COUNTED`."""
        self.counts[what] += by

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The counts as the registry wants them, made when it asks and not per request."""
        for name, number in self.counts.items():
            yield CounterMetricFamily(f"tandem_gateway_{name}", f"Requests: {name}", number)

    def answered(self, endpoint: str, path: str, outcome: str) -> None:
        """One request has its answer, whatever it is."""
        key = (endpoint, path, outcome)
        child = self._answers.get(key)
        if child is None:
            child = self._answers[key] = self._outcomes.labels(*key)
        child.inc()

    def whole(self, reason: str) -> None:
        """One request of a disaggregated service ran whole on one worker."""
        self._whole.labels(reason).inc()

    def moved(self, workers: int) -> None:
        """So many flexible workers changed sides."""
        self._moves.inc(workers)

    def lost(self, phase: str, kind: str) -> None:
        """One attempt failed."""
        self._losses.labels(phase, kind).inc()

    def took(self, ttft_s: float, tpot_s: float | None) -> None:
        """Times of one answered request; `tpot_s` None when there was no second token."""
        self.ttft.add(ttft_s)
        self._ttft_s.observe(ttft_s)
        if tpot_s is not None:
            self.tpot.add(tpot_s)
            self._tpot_s.observe(tpot_s)

    def scaled(self, service: str, scale: Mapping[str, float]) -> None:
        """The figures of a service that autoscalers follow, by their names."""
        for figure, number in scale.items():
            self._scale.labels(service, figure).set(number)

    def observe(self, gauges: dict[str, float], backlog_s: dict[str, float], phases: dict[str, float]) -> None:
        """The gauges as they stand now; the last two are by phase."""
        for name, number in gauges.items():
            self._gauges[name].set(number)
        for phase, seconds in backlog_s.items():
            self._backlog_s.labels(phase).set(seconds)
        for phase, workers in phases.items():
            self._phases.labels(phase).set(workers)

    def render(self) -> bytes:
        """The Prometheus text."""
        return generate_latest(self._registry)

    def families(self) -> Iterable[Metric]:
        """The same, not yet as text."""
        return self._registry.collect()


def together(known: Mapping[str, Metrics]) -> bytes:
    """The Prometheus text of several services by name, which the label `tandem_service` tells apart."""
    registry = CollectorRegistry()
    registry.register(_Together(known))
    return generate_latest(registry)


class _Together(Collector):
    def __init__(self, known: Mapping[str, Metrics]) -> None:
        self._known = known

    def collect(self) -> Iterable[Metric]:
        found: dict[str, Metric] = {}
        for service, metrics in self._known.items():
            for family in metrics.families():
                samples = [one._replace(labels={"tandem_service": service, **one.labels}) for one in family.samples]
                family.samples = []
                found.setdefault(family.name, family).samples += samples
        return found.values()
