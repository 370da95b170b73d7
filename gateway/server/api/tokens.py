"""`/api/v1/tokens`: Sluice's own tokens."""

from typing import Annotated

from fastapi import APIRouter, Query

from gateway.core import tokens
from gateway.model.api import Page
from gateway.model.token import NewTokenView, TokenRequest, TokenView
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import problems

router = APIRouter(prefix="/tokens", tags=["identity"])


@router.post("", operation_id="createToken", summary="Make a token", status_code=201, responses=problems(404, 422))
async def create(gateway: Gw, caller: Caller, request: TokenRequest) -> NewTokenView:
    """Shown this once. It reaches no further than the token that makes it; only one with the scope `admin` may."""
    return await tokens.create(gateway, caller, request)


@router.get("", operation_id="listTokens", summary="List your tokens")
async def list_tokens(
    gateway: Gw,
    caller: Caller,
    *,
    revoked: Annotated[bool, Query(description="Those that were revoked, too.")] = False,
) -> Page[TokenView]:
    """Yours, and those of service accounts of projects that you manage; newest first."""
    return Page[TokenView](items=await tokens.list_tokens(gateway, caller, all_=revoked))


@router.get("/{ref}", operation_id="getToken", summary="Get a token", responses=problems(404))
async def get(gateway: Gw, caller: Caller, ref: str) -> TokenView:
    """By its id, or by the name of one of yours."""
    return await tokens.get(gateway, caller, ref)


@router.delete("/{ref}", operation_id="revokeToken", summary="Revoke a token", responses=problems(404))
async def revoke(gateway: Gw, caller: Caller, ref: str) -> TokenView:
    """When this is answered no replica takes it any more. Any number of times."""
    return await tokens.revoke(gateway, caller, ref)
