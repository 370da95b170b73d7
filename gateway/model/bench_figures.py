"""From what became of each request to the figures of a stage. The definitions stand in `gateway.model.bench`."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from gateway.model.bench import INTERRUPTED, SHARES, Figures, Metric, Sample, Series, Spread
from gateway.model.histogram import Histogram, percentile

_POINTS = 120
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)

TICK = 0.1
"""Seconds by which pieces are counted while they come."""


def figures(samples: Sequence[Sample], gaps: Histogram, slo: Mapping[Metric, float]) -> Figures:
    """The figures of a stage. `gaps` are the times between pieces of those answers that came whole."""
    counted = [sample for sample in samples if sample.error != INTERRUPTED]
    whole = [sample for sample in counted if sample.error is None]
    failed = Counter(sample.error for sample in counted if sample.error is not None)
    seconds = max((sample.end for sample in counted), default=0.0) - min((s.due for s in counted), default=0.0)
    output = sum(sample.tokens for sample in whole)
    prompt = sum(sample.prompt_tokens or 0 for sample in whole)
    good = sum(is_good(sample, slo) for sample in whole) if slo else None
    mean, most = in_flight(counted, seconds)
    return Figures(
        seconds=seconds,
        requests=len(counted),
        succeeded=len(whole),
        failed=len(counted) - len(whole),
        interrupted=len(samples) - len(counted),
        errors=dict(failed.most_common()),
        requests_per_second=_rate(len(whole), seconds),
        output_tokens_per_second=_rate(output, seconds),
        total_tokens_per_second=_rate(output + prompt, seconds),
        prompt_tokens=prompt,
        output_tokens=output,
        tokens_by=_counted_by(whole),
        in_flight=mean,
        most_in_flight=most,
        good=good,
        good_per_second=None if good is None else _rate(good, seconds),
        lag=spread(sample.sent - sample.due for sample in counted),
        ttft=spread(sample.ttft for sample in whole if sample.ttft is not None),
        itl=_of_histogram(gaps),
        tpot=spread(sample.tpot for sample in whole if sample.tpot is not None),
        e2e=spread(sample.e2e for sample in whole),
    )


def is_good(sample: Sample, slo: Mapping[Metric, float]) -> bool:
    """Whether a whole answer kept below every target; `itl` means its longest gap. No second token: no time for it."""
    times = {"ttft": sample.ttft or 0.0, "itl": sample.longest_gap, "tpot": sample.tpot or 0.0, "e2e": sample.e2e}
    return sample.error is None and all(times[metric] <= target for metric, target in slo.items())


def spread(values: Iterable[float]) -> Spread | None:
    """Mean and percentiles; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return _spread(len(ordered), math.fsum(ordered), [percentile(ordered, share) for share in SHARES])


def in_flight(samples: Sequence[Sample], seconds: float) -> tuple[float, int]:
    """How many requests were under way: on average, and at most."""
    if seconds <= 0:
        return 0.0, 0
    steps = sorted([(sample.due, 1) for sample in samples] + [(sample.end, -1) for sample in samples])
    return math.fsum(sample.e2e for sample in samples) / seconds, max(accumulate(step for _, step in steps), default=0)


def series(samples: Sequence[Sample], pieces: Mapping[int, int]) -> Series:
    """What happened when. `pieces` are those that came in each `TICK`, by its number."""
    samples = [sample for sample in samples if sample.error != INTERRUPTED]
    length = max((sample.end for sample in samples), default=0.0)
    step = next((step for step in _STEPS if length / step <= _POINTS), _STEPS[-1])
    count = math.ceil(length / step) or 1
    whole = sum(sample.pieces for sample in samples)
    weight = sum(sample.tokens for sample in samples) / whole if whole else 1.0
    busy, answered, failed, tokens = ([0.0] * count for _ in range(4))
    for sample in samples:
        end = min(int(sample.end / step), count - 1)
        (answered if sample.error is None else failed)[end] += 1 / step
        for at in range(int(sample.due / step), end + 1):
            busy[at] += max(0.0, min(sample.end, (at + 1) * step) - max(sample.due, at * step)) / step
    for tick, number in pieces.items():
        tokens[min(int((tick + 0.5) * TICK / step), count - 1)] += number * weight / step
    rounded = [tuple(round(value, 4) for value in values) for values in (busy, answered, failed, tokens)]
    return Series(step=step, in_flight=rounded[0], answered=rounded[1], failed=rounded[2], tokens=rounded[3])


def _of_histogram(histogram: Histogram) -> Spread | None:
    if not histogram.count:
        return None
    return _spread(histogram.count, histogram.total, histogram.percentiles(SHARES))


def _spread(count: int, total: float, curve: list[float]) -> Spread:
    at = dict(zip(SHARES, curve, strict=True))
    return Spread(
        count=count,
        mean=total / count,
        p50=at[0.5],
        p90=at[0.9],
        p95=at[0.95],
        p99=at[0.99],
        greatest=curve[-1],
        curve=tuple(float(f"{value:.5g}") for value in curve),
    )


def _counted_by(whole: Sequence[Sample]) -> str:
    told = sum(sample.output_tokens is not None for sample in whole)
    if not whole:
        return "none"
    return "usage" if told == len(whole) else "both" if told else "pieces"


def _rate(number: float, seconds: float) -> float:
    return number / seconds if seconds > 0 else 0.0
