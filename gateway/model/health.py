"""How the parts of a service do, each apart: whether it is well, and what it says of itself."""

from collections.abc import Mapping
from typing import NamedTuple

from gateway.model.api import HealthView


class Pulse(NamedTuple):
    """One part's. `says` is for people: nothing is concluded from its words."""

    well: bool
    says: str


WELL = Pulse(well=True, says="ok")


def ill(says: str) -> Pulse:
    """It is not well, and this is why."""
    return Pulse(well=False, says=says)


def view(pulses: Mapping[str, Pulse], version: str) -> HealthView:
    """The health of all, by name: `ok` if every one is well."""
    well = all(pulse.well for pulse in pulses.values())
    checks = {name: pulse.says for name, pulse in pulses.items()}
    return HealthView(status="ok" if well else "degraded", version=version, checks=checks)
