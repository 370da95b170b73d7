"""Where runs are kept: a folder each under the user's own data: `report.json`, `samples.csv`, `report.html`."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from gateway.errors import Invalid, NotFound
from gateway.model.bench import SCHEMA, Report, Sample
from gateway.sdk.bench import page
from gateway.sdk.bench.run import Run

REPORT, SAMPLES, PAGE = "report.json", "samples.csv", "report.html"
LATEST = "latest"
_COLUMNS = (
    *("stage", "due", "sent", "first", "end", "pieces", "longest_gap", "prompt_tokens", "output_tokens"),
    *("ttft", "tpot", "e2e", "error"),
)


def folder() -> Path:
    """`$XDG_DATA_HOME/sluice/bench`, else `~/.local/share/sluice/bench`."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "sluice/bench"


def save(run: Run, into: Path | None = None) -> Path:
    """Write a run into a folder of its own there, or into the one that is named; the folder."""
    place = into or _free(folder() / run.report.id)
    try:
        place.mkdir(parents=True, exist_ok=True)
        report = run.report.model_copy(update={"id": place.name})
        (place / REPORT).write_text(report.model_dump_json(indent=1))
        _save_samples(place / SAMPLES, run.samples)
        (place / PAGE).write_text(page.of_run(report))
    except OSError as error:
        raise Invalid(f"cannot write {place}: {error.strerror}") from error
    return place


def load(ref: str) -> Report:
    """A run by its id, the beginning of it, `latest`, or the path of a folder or of a report."""
    return _read(find(ref) / REPORT)


def find(ref: str) -> Path:
    """The folder of a run; NotFound."""
    path = Path(ref)
    if path.name == REPORT and path.is_file():
        return path.parent
    if (path / REPORT).is_file():
        return path
    there = names()
    if ref == LATEST and there:
        return folder() / there[0]
    found = [name for name in there if name == ref] or [name for name in there if name.startswith(ref)]
    if len(found) == 1:
        return folder() / found[0]
    if found:
        raise NotFound(f"several runs begin with {ref!r}", hint=f"There are: {', '.join(found[:5])}.")
    raise NotFound(f"there is no run {ref!r} in {folder()}", hint="Those that there are: sluice bench list")


def names() -> list[str]:
    """Ids of all runs, the newest first."""
    return sorted((path.parent.name for path in folder().glob(f"*/{REPORT}")), reverse=True)


def every() -> Iterator[Report]:
    """All that can be read, the newest first."""
    for name in names():
        try:
            yield _read(folder() / name / REPORT)
        except Invalid:
            continue


def _read(path: Path) -> Report:
    try:
        report = Report.model_validate_json(path.read_text())
    except (OSError, ValueError, ValidationError) as error:
        raise Invalid(f"{path} is no report of a benchmark") from error
    if report.schema_version > SCHEMA:
        raise Invalid(f"{path} was written by a newer version: {report.environment.version}")
    return report


def _free(wanted: Path) -> Path:
    number, place = 1, wanted
    while place.exists():
        number, place = number + 1, wanted.with_name(f"{wanted.name}-{number + 1}")
    return place


def _save_samples(path: Path, stages: Sequence[Sequence[Sample]]) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(_COLUMNS)
        for number, samples in enumerate(stages, start=1):
            for sample in sorted(samples, key=lambda one: one.due):
                rows.writerow([number, *(_cell(getattr(sample, name)) for name in _COLUMNS[1:])])


def _cell(value: float | str | None) -> object:
    return f"{value:.6f}" if isinstance(value, float) else "" if value is None else value
