"""What routes are given: the gateway of their app."""

from typing import Annotated

from fastapi import Depends, FastAPI, Request

from gateway.core.context import Gateway


def hold(app: FastAPI, gateway: Gateway) -> None:
    """Let the routes of an app find the gateway."""
    app.state.gateway = gateway


def of(request: Request) -> Gateway:
    found: Gateway = request.app.state.gateway
    return found


Gw = Annotated[Gateway, Depends(of)]
