"""What a service counts of its own requests, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class HttpMetrics:
    """The counters of one app, in a registry of its own: two apps in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sluice_http_requests",
            "Requests answered, by service, route, method and status.",
            ("service", "route", "method", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "sluice_http_request_seconds",
            "Time to the first byte of the answer.",
            ("service", "route"),
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self.in_flight = Gauge(
            "sluice_http_requests_in_flight", "Requests being answered.", ("service",), registry=self.registry
        )
