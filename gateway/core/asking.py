"""May they? The policies asked, as things are now."""

from datetime import datetime
from zoneinfo import ZoneInfo

from gateway.core.context import Gateway
from gateway.core.policies import require
from gateway.model.policy import Action, Decision, Thing
from gateway.model.principal import Principal


def decide(gateway: Gateway, caller: Principal, action: Action, subject: Thing) -> Decision:
    """What the policies say."""
    return gateway.policies.decide(caller, action, subject, now(gateway))


def may(gateway: Gateway, caller: Principal, action: Action, subject: Thing) -> Decision:
    """The decision, if it is a yes. PolicyDenied."""
    return require(decide(gateway, caller, action, subject))


def now(gateway: Gateway) -> datetime:
    """Local time, as policies see it."""
    return gateway.clock().astimezone(ZoneInfo(gateway.settings.policy.timezone))
