"""How long a request waits for a free worker."""

from math import log


def erlang_c(*, workers: int, load: float) -> float:
    """Probability that an arrival finds every worker busy (M/M/c); `load` in busy workers.

    By the recursion of Erlang B, which neither overflows nor cancels at thousands of workers.
    Source: A. K. Erlang, 1917; any text on queueing, e.g. Kleinrock, Queueing Systems I, 3.5.
    """
    assert workers >= 1, f"{workers} workers"
    assert load >= 0, f"load {load}"
    if load >= workers:
        return 1.0
    inverse = 1.0
    for busy in range(1, workers + 1):
        inverse = 1.0 + inverse * busy / load if load else float("inf")
    blocked = 1.0 / inverse
    return blocked / (1.0 - load / workers * (1.0 - blocked))


def mean_wait_s(*, service_s: float, arrivals_per_s: float, workers: int, variation: float) -> float:
    """Mean time in a queue that all workers serve in order of arrival; infinite when it only grows.

    Poisson arrivals. `variation` is the coefficient of variation of the service time: 0 when all requests are
    alike, about 1 for lengths as chats have them. Exact for one worker (Pollaczek and Khinchine) and for variation 1.
    Source: Allen and Cunneen, Probability, Statistics and Queueing Theory, 1990.
    """
    load = service_s * arrivals_per_s
    if load >= workers:
        return float("inf")
    busy = erlang_c(workers=workers, load=load)
    return busy * service_s / (workers - load) * (1.0 + variation**2) / 2.0


def wait_s(*, service_s: float, arrivals_per_s: float, workers: int, variation: float, quantile: float) -> float:
    """Time in the queue that the share `quantile` of requests does not exceed; 0 when so many do not wait at all.

    The tail of those who wait is taken as exponential with the mean of `mean_wait_s`.
    """
    assert 0 <= quantile < 1, f"quantile {quantile}"
    load = service_s * arrivals_per_s
    mean_s = mean_wait_s(service_s=service_s, arrivals_per_s=arrivals_per_s, workers=workers, variation=variation)
    busy = erlang_c(workers=workers, load=load)
    if mean_s in (0.0, float("inf")) or 1.0 - quantile >= busy:
        return mean_s if mean_s == float("inf") else 0.0
    return -mean_s / busy * log((1.0 - quantile) / busy)


def closed_wait_s(*, service_s: float, away_s: float, clients: int) -> float:
    """Mean time at one server, waiting included, of `clients` that each come back `away_s` after their last visit.

    Schweitzer's approximation of mean value analysis: the root of r*r + r*(away - service*clients) - service*away.
    Source: P. Schweitzer, Approximate analysis of multiclass closed networks of queues, 1979.
    """
    half = (service_s * clients - away_s) / 2.0
    return half + (half**2 + service_s * away_s) ** 0.5
