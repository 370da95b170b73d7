"""What a service counts of itself, for Prometheus: its requests, its process, and what it asks of Slurm."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.core.context import Gateway
from gateway.core.cost import Cost, Distribution

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


@dataclass(frozen=True)
class Described:
    """A metric as Prometheus and the reference name it; a counter's name is shown with `_total` behind it."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()

    def gauge(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(self.name, self.help, labels=self.labels)

    def counter(self) -> CounterMetricFamily:
        return CounterMetricFamily(self.name, self.help, labels=self.labels)

    def histogram(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self.name, self.help, labels=self.labels)


REQUESTS = Described(
    "sluice_http_requests",
    "counter",
    "Requests that this process answered, by service, route, method and status; 499: the caller left.",
    ("service", "route", "method", "status"),
)
REQUEST_SECONDS = Described(
    "sluice_http_request_seconds", "histogram", "Time to the first byte of the answer.", ("service", "route")
)
IN_FLIGHT = Described("sluice_http_requests_in_flight", "gauge", "Requests being answered.", ("service",))
HTTP = (REQUESTS, REQUEST_SECONDS, IN_FLIGHT)

TOKENS = Described(
    "sluice_proxy_tokens", "counter", "Tokens that model servers said they used: prompt, completion.", ("model", "kind")
)
CONNECTIONS = Described("sluice_proxy_connections", "gauge", "Connections of callers that are open.")
ENDPOINTS = Described(
    "sluice_proxy_endpoints",
    "gauge",
    "Endpoints of sessions by state: fit, draining, failing (no connection, or bad answers), refusing (ending).",
    ("state",),
)
LINES = Described(
    "sluice_task_lines",
    "counter",
    "Lines of batches by outcome: answered, failed, again (asked again, because no answer came, or a bad one).",
    ("outcome",),
)
WORKING = Described("sluice_tasks_working", "gauge", "Tasks that this process works on.")
PROXY = (TOKENS, CONNECTIONS, ENDPOINTS, LINES, WORKING)

RPCS = Described(
    "sluice_slurm_rpcs",
    "counter",
    "Requests to slurmrestd and runs of Slurm's commands, by outcome: ok, refused (by Slurm), unanswered.",
    ("cluster", "call", "outcome"),
)
POLL_SECONDS = Described(
    "sluice_poll_seconds", "histogram", "What a look at all our jobs of a cluster took.", ("cluster",)
)
POLL_BYTES = Described(
    "sluice_poll_bytes", "histogram", "What Slurm answered to a look at all our jobs of a cluster.", ("cluster",)
)
POLL_JOBS = Described("sluice_poll_jobs", "gauge", "Jobs looked at by the last poll.", ("cluster",))
SLURM = (RPCS, POLL_SECONDS, POLL_BYTES, POLL_JOBS)


class Tally(Collector):
    """A counter that costs a request little: numbers by labels, counted on one thread, and shown when asked for."""

    def __init__(self, described: Described) -> None:
        self._described = described
        self._numbers: dict[tuple[str | int, ...], float] = {}

    def add(self, labels: tuple[str | int, ...], number: float = 1) -> None:
        """Count so many more; the labels in the order of the description."""
        self._numbers[labels] = self._numbers.get(labels, 0.0) + number

    def collect(self) -> Iterator[Metric]:
        """The protocol of a Prometheus collector."""
        shown = self._described.counter()
        for labels, number in self._numbers.items():
            shown.add_metric([str(label) for label in labels], number)
        yield shown


class Durations(Collector):
    """The same for how long something took, in seconds."""

    def __init__(self, described: Described) -> None:
        self._described = described
        self._seen: dict[tuple[str, ...], Distribution] = {}

    def add(self, labels: tuple[str, ...], seconds: float) -> None:
        """Note one; the labels in the order of the description."""
        found = self._seen.get(labels)
        if found is None:
            found = self._seen[labels] = Distribution(_BUCKETS)
        found.add(seconds)

    def collect(self) -> Iterator[Metric]:
        """The protocol of a Prometheus collector."""
        shown = self._described.histogram()
        for labels, values in self._seen.items():
            _add(shown, labels, values)
        yield shown


class HttpMetrics:
    """The counters of one app, in a registry of its own: two apps in one process do not meet.

    `in_flight_of` gives the one with these labels; there are not many.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests, self.seconds = Tally(REQUESTS), Durations(REQUEST_SECONDS)
        self.registry.register(self.requests)
        self.registry.register(self.seconds)
        self.in_flight = Gauge(IN_FLIGHT.name, IN_FLIGHT.help, IN_FLIGHT.labels, registry=self.registry)
        self.in_flight_of = cache(self.in_flight.labels)


@dataclass(frozen=True, eq=False)
class SlurmCost(Collector):
    """What this process asked of Slurm, by cluster."""

    costs: Mapping[str, Cost]

    def collect(self) -> Iterator[Metric]:
        """The protocol of a Prometheus collector."""
        rpcs, seconds, received, jobs = (
            RPCS.counter(),
            POLL_SECONDS.histogram(),
            POLL_BYTES.histogram(),
            POLL_JOBS.gauge(),
        )
        for name, cost in self.costs.items():
            for (call, outcome), count in sorted(cost.calls.items()):
                rpcs.add_metric([name, call, outcome], count)
            _add(seconds, (name,), cost.seconds)
            _add(received, (name,), cost.bytes)
            jobs.add_metric([name], cost.jobs)
        yield from (rpcs, seconds, received, jobs)


def _add(family: HistogramMetricFamily, labels: tuple[str, ...], values: Distribution) -> None:
    family.add_metric(labels, buckets=list(values.buckets()), sum_value=values.total)


def cost_of(gateway: Gateway) -> SlurmCost:
    """Empty in a process that does not reconcile."""
    return SlurmCost({name: cluster.cost for name, cluster in gateway.clusters.items() if cluster.cost.used})


def exposition(http: HttpMetrics, *collectors: Collector) -> bytes:
    """All of it as Prometheus reads it, with the usual figures of the process."""
    shown = CollectorRegistry()
    for collector in collectors:
        shown.register(collector)
    ProcessCollector(registry=shown)
    return generate_latest(shown) + generate_latest(http.registry)
