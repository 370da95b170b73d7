"""What a benchmark of a session is: the load that was put on it, what became of each request, and the saved report.

The words are those of vLLM's benchmark (`vllm bench serve`), so that figures can be held beside each other:

ttft   time to first token: from the start of a request to the first piece of its answer that has text
itl    inter-token latency: the time between two pieces of an answer
tpot   time per output token: (e2e - ttft) / (output tokens - 1), of answers with more than one token
e2e    end-to-end latency: from the start of a request until its answer is whole

A request of an open loop starts when it was due, not when it was sent: if the generator or the gateway holds back, that
is part of what a user waits for (vLLM counts from when it was sent; see coordinated omission).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from gateway.model.resources import Gpus

SCHEMA = 1
"""Of a saved report; grows when an older program could not read a newer report any more."""

Metric = Literal["ttft", "itl", "tpot", "e2e"]
METRICS: tuple[Metric, ...] = get_args(Metric)
NAMES: Mapping[Metric, str] = {
    "ttft": "Time to first token",
    "itl": "Inter-token latency",
    "tpot": "Time per output token",
    "e2e": "End-to-end latency",
}
INTERRUPTED = "interrupted"
"""Of requests that were under way when the person stopped the run: no error of the server's."""

_TARGET = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1e-3}


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times in seconds since its stage began; `pieces` of text came, `longest_gap` seconds apart at most.

    `first` is None if no text came. Token counts are the server's own; None if it told none. `error`: its kind.
    """

    due: float
    sent: float
    first: float | None
    end: float
    pieces: int = 0
    longest_gap: float = 0.0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    error: str | None = None

    @property
    def tokens(self) -> int:
        """Of its answer: as the server counted, else one a piece."""
        return self.pieces if self.output_tokens is None else self.output_tokens

    @property
    def ttft(self) -> float | None:
        return None if self.first is None else self.first - self.due

    @property
    def e2e(self) -> float:
        return self.end - self.due

    @property
    def tpot(self) -> float | None:
        return None if self.first is None or self.tokens < 2 else (self.end - self.first) / (self.tokens - 1)  # noqa: PLR2004


class _Saved(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Load(_Saved):
    """Closed: so many requests at any time, the next when one is answered. Open: so many a second, answered or not."""

    kind: Literal["closed", "open"]
    concurrency: int | None = None
    rate: float | None = None
    burstiness: float = Field(1.0, description="1: Poisson arrivals; less: in bursts; more: evenly.")

    @property
    def label(self) -> str:
        if self.kind == "closed":
            return f"{self.concurrency} at once"
        burst = "" if self.burstiness == 1 else f", burstiness {self.burstiness:g}"
        return f"{self.rate:g}/s{burst}"

    @property
    def level(self) -> float:
        """What a sweep changes."""
        return float((self.concurrency if self.kind == "closed" else self.rate) or 0)


class Workload(_Saved):
    """What each request asks for."""

    endpoint: Literal["chat", "completions"] = "chat"
    prompts: str = Field("synthetic", description="`synthetic`, or the name of the file.")
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    ignore_eos: bool = False
    seed: int = 0
    requests: int | None = None
    seconds: float | None = None
    slo: Mapping[Metric, float] = Field(default_factory=dict, description="Seconds that a good request keeps below.")


class Spread(_Saved):
    """How a time was spread, in seconds. `curve`: its values at `SHARES`, for charts."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    greatest: float
    curve: tuple[float, ...]


SHARES: tuple[float, ...] = (*(number / 100 for number in range(100)), 0.995, 0.999, 1.0)


class Series(_Saved):
    """What happened in each `step` seconds of a stage."""

    step: float
    in_flight: tuple[float, ...]
    answered: tuple[float, ...]
    failed: tuple[float, ...]
    tokens: tuple[float, ...]


class Figures(_Saved):
    """Of one stage. Requests that were interrupted count nowhere but in `interrupted`."""

    seconds: float = Field(description="From the start of the first request to the end of the last.")
    requests: int
    succeeded: int
    failed: int
    interrupted: int
    errors: Mapping[str, int] = Field(description="Failed requests by kind.")
    requests_per_second: float
    output_tokens_per_second: float
    total_tokens_per_second: float
    prompt_tokens: int
    output_tokens: int
    tokens_by: Literal["usage", "pieces", "both", "none"] = Field(
        description="Who counted: the server, or we by pieces."
    )
    in_flight: float
    most_in_flight: int
    good: int | None = None
    good_per_second: float | None = None
    lag: Spread | None = Field(None, description="From when a request was due until it was sent.")
    ttft: Spread | None = None
    itl: Spread | None = None
    tpot: Spread | None = None
    e2e: Spread | None = None

    def spread(self, metric: Metric) -> Spread | None:
        found: Spread | None = getattr(self, metric)
        return found


class Generator(_Saved):
    """Whether the figures are the server's, or those of the program that put the load on it."""

    cpu: float = Field(description="Share of one core that it used.")
    lag_p99: float = Field(description="How late its event loop was, in seconds.")
    connections: int = Field(description="That it opened.")

    @property
    def busy(self) -> bool:
        return self.cpu > 0.85 or self.lag_p99 > 0.02  # noqa: PLR2004 -- a core nearly full; 20 ms late


class Stage(_Saved):
    """One load of a run."""

    load: Load
    began_at: datetime
    warmup: int = Field(description="Requests before, which count nowhere.")
    warmup_failed: int
    replicas: int | None = Field(None, description="Jobs that served the session when it began.")
    figures: Figures
    series: Series
    generator: Generator


class Environment(_Saved):
    """What was measured."""

    session: str
    session_name: str
    project: str
    cluster: str
    recipe: str
    recipe_version: str
    image: str
    image_sha256: str
    model: str | None
    nodes: str
    parameters: Mapping[str, Any]
    resources: Mapping[str, Any]
    replicas: str
    gateway: str
    gateway_version: str
    version: str = Field(description="Of this program.")

    @property
    def resources_said(self) -> Mapping[str, str]:
        """The resources in words, with their units; what was not asked for is left out."""
        return {name: said for name, value in self.resources.items() if (said := _resource(name, value))}


def _resource(name: str, value: Any) -> str:
    match name, value:
        case "memory", 0:
            return "all of a node"
        case "memory", int():
            return f"{value} MiB"
        case "time", int():
            return f"{value} min"
        case "gpus", Mapping():
            return Gpus.model_validate(value).gres or ""
    return str(value) if value else ""


class Report(_Saved):
    """A run as it is saved; `samples.csv` beside it has every request."""

    schema_version: int = SCHEMA
    id: str
    label: str = ""
    began_at: datetime
    ended_at: datetime
    interrupted: bool = False
    environment: Environment
    workload: Workload
    stages: tuple[Stage, ...]


def parse_slo(text: str) -> dict[Metric, float]:
    """Seconds by metric from `ttft=300ms,tpot=50ms` (a bare number is milliseconds); ValueError says what is wrong."""
    found: dict[Metric, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        metric = next((known for known in METRICS if known == name.strip()), None)
        if metric is None:
            raise ValueError(f"there is no metric {name.strip()!r}: there are {', '.join(METRICS)}")
        target = _TARGET.fullmatch(value.strip())
        if target is None:
            raise ValueError(f"{value.strip()!r} is not a time: write 300ms, 2s or 50 (milliseconds)")
        found[metric] = float(target[1]) * _UNITS[target[2]]
    if not found:
        raise ValueError("write it as METRIC=TIME, for example ttft=300ms,tpot=50ms")
    return found
