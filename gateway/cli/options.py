"""Options that several commands share, and types of options."""

import click

PHASES = ("requested", "queued", "starting", "ready", "running", "stopping", "succeeded", "failed", "stopped")


def duration(text: str) -> float:
    """Seconds, from `90s`, `10m`, `2h` or a number of seconds."""
    from gateway.model.text import parse_duration

    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(parse_duration(text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


timeout_option = click.option(
    "--timeout", type=duration, metavar="TIME", help="Longest time to wait: 90s, 10m, 2h. Unset: as long as it takes."
)
