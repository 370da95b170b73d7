"""`/api/v1/policies`: what is in force, why something would be allowed or not, and a look at a file of policies."""

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from gateway.core import admission, checking
from gateway.core.policies import schema_text
from gateway.model.api import Page
from gateway.model.policy import CheckRequest, Decision, FileCheck, PolicyPage, PolicyProblem
from gateway.web.caller import Caller
from gateway.web.context import Gw
from gateway.web.openapi import problems

router = APIRouter(prefix="/policies", tags=["policies"])


@router.get("", operation_id="listPolicies", summary="List the policies in force")
async def list_policies(gateway: Gw, caller: Caller) -> PolicyPage:
    """With their text: rules that people cannot read help nobody. `problems` is what a broken change says."""
    del caller
    return admission.page(gateway)


@router.get("/schema", operation_id="getPolicySchema", summary="What policies can speak of")
async def schema(caller: Caller) -> PlainTextResponse:
    """The Cedar schema."""
    del caller
    return PlainTextResponse(schema_text())


@router.post("/check", operation_id="checkPolicy", summary="Would it be allowed?", responses=problems(404, 409, 422))
async def check(gateway: Gw, caller: Caller, question: CheckRequest) -> Decision:
    """The decision and the policies that make it; nothing is done."""
    return await checking.check(gateway, caller, question)


@router.post("/validate", operation_id="validatePolicies", summary="Look at a file of policies")
async def validate(gateway: Gw, caller: Caller, file: FileCheck) -> Page[PolicyProblem]:
    """What is wrong with it, with line and column; it does not come into force."""
    del caller
    return Page(items=admission.validate(gateway, file))
