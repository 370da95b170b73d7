"""Writes docs/reference/contract.md from the table: `python -m tests.contract.page`."""

from pathlib import Path

from tests.contract.matrix import FAKE, WAYS, cases, why_not

PAGE = Path(__file__).parents[2] / "docs/reference/contract.md"

_HEAD = """# What every way to Slurm does

Generated from the tests by `python -m tests.contract.page`; do not edit. One suite, `tests/contract`, asks the same
of every back end before every release of Slurm that it is tried with: ✓ must pass in `make test`; a number says why it
is not asked there. `fake` is the Slurm in memory that fast tests use; `cli-local` runs Slurm's commands on the login
node itself, `cli-ssh` over ssh.
"""


def page() -> str:
    heads = [way.backend if way == FAKE else f"{way.backend} {way.release}" for way in WAYS]
    lines = [_HEAD, f"| case | {' | '.join(heads)} |", f"|---|{':-:|' * len(WAYS)}"]
    reasons: list[str] = []
    for name, words in cases():
        cells = []
        for way in WAYS:
            reason = why_not(name, way)
            if reason is not None and reason not in reasons:
                reasons.append(reason)
            cells.append("✓" if reason is None else f"{reasons.index(reason) + 1}")
        lines.append(f"| {words} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
