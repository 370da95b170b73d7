"""Puts together who may call a gateway, from its settings."""

from gateway.core.context import Gateway
from gateway.identity.callers import Callers
from gateway.identity.local import LocalIdentity
from gateway.identity.munge import Munge
from gateway.identity.oidc import Oidc
from gateway.identity.seal import Seal


def open_callers(gateway: Gateway) -> Callers:
    """Everybody who may call. SettingsInvalid if the gateway's own token is not private."""
    settings = gateway.settings.identity.oidc
    provider = Oidc(settings, settings.issuer, gateway.settings.state_dir) if settings.issuer else None
    munging = gateway.settings.identity.munge
    munge = Munge(gateway, munging, Seal.of(gateway.settings.state_dir)) if munging.hosts else None
    return Callers(gateway, LocalIdentity.open(gateway.settings.state_dir), provider, munge)
