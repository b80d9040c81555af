"""Turn every error into a problem document as defined by RFC 9457."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from powerflow.api.governance import NAME
from powerflow.api.job_spec import JOB_NAME
from powerflow.api.records import Forbidden, NodeAway, NotFound, NotSure, Refused, Unavailable
from powerflow.errors import InputError

MEDIA_TYPE = "application/problem+json"
BUG = "this is a bug in PowerFlow; the controller's log says where"
#: Most characters of each text in an answer, because it may repeat what a client sent.
_LONGEST = 500
#: How to correct a request whose body was not sent as JSON.
JSON = "send Content-Type: application/json"

#: How to correct a name, by the pattern that it must match.
_NAMES = {
    NAME: "use letters, digits and ._@-; begin with a letter, digit or _",
    JOB_NAME: "remove line breaks, control characters and marks that change the direction of text",
}

#: Kind of problem and its title, by status.
KINDS = {
    400: ("bad-request", "The request cannot be read"),
    401: ("unauthenticated", "A valid bearer token is needed"),
    403: ("forbidden", "This caller may not make this request"),
    404: ("not-found", "The named thing does not exist"),
    405: ("method-not-allowed", "This path does not have this method"),
    409: ("refused", "The present state does not allow this change"),
    413: ("too-large", "The request is too large"),
    415: ("unsupported-media-type", "The body is not JSON"),
    421: ("unknown-host", "This service does not answer to this host name"),
    422: ("invalid", "A value cannot be used"),
    428: ("not-sure", "The change would stop jobs or cannot be kept"),
    429: ("too-many", "This user has too many requests at a time"),
    500: ("internal", "The service failed"),
    503: ("unavailable", "The request cannot be answered now"),
    504: ("node-away", "The node that has the answer does not answer"),
}


class Problem(BaseModel):
    """Error as a problem document (RFC 9457)."""

    model_config = ConfigDict(json_schema_extra={"example": {
        "type": "urn:powerflow:problem:not-found",
        "title": "The named thing does not exist",
        "status": 404,
        "detail": "there is no job 12",
        "instance": "/api/v1/jobs/12",
    }})  # fmt: skip

    type: str = Field(description="`urn:powerflow:problem:` and the name of the kind, which never changes.")
    title: str = Field(description="The kind of the problem, in words.")
    status: int
    detail: str = Field(description="What is wrong with this request, in one line.")
    instance: str = Field(description="Path of the request.")
    where: str | None = Field(default=None, description="Place of the fault, such as `body.gpus`.")
    fix: str | None = Field(default=None, description="How to correct the request.")


def problem(status: int, detail: str, instance: str, *, where: str = "", fix: str = "") -> Problem:
    """Return the problem document for an HTTP status."""
    kind, title = _kind(status)
    return Problem(
        type=f"urn:powerflow:problem:{kind}",
        title=title,
        status=status,
        detail=_cut(detail),
        instance=_cut(instance),
        where=_cut(where) or None,
        fix=_cut(fix) or None,
    )


def _cut(text: str) -> str:
    """Shorten a text to a fixed length, because it may repeat what a client has sent."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def of_error(error: Exception, instance: str) -> Problem:
    """Return the problem document for an exception. An unexpected exception's message is not shown to the client."""
    if isinstance(error, InputError):
        return problem(_status(error), error.what, instance, where=error.where, fix=error.fix)
    if isinstance(error, OSError):
        return problem(503, f"the system refused: {(error.strerror or type(error).__name__).lower()}", instance)
    return problem(500, BUG, instance)


def of_invalid(errors: Any, instance: str) -> Problem:
    """Return the problem document for an invalid request: its first error, and the number of further errors."""
    faults = list(errors)
    first = faults[0]
    if first["type"] == "json_invalid":
        return problem(400, f"the body is not JSON ({first.get('ctx', {}).get('error', 'invalid')})", instance)
    if first["loc"] == ("body",) and isinstance(first.get("input"), bytes):  # not even looked at: not sent as JSON
        return problem(422, "the body was not sent as JSON", instance, where="body", fix=JSON)
    said = first.get("ctx", {})  # our own rules say what, fix and field apart (`powerflow.api.job_spec.broken`)
    for pattern, fix in _NAMES.items():
        if pattern in said.get("pattern", ""):
            said = {"what": f"{first['input']!r} is no name", "fix": fix}
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    where = ".".join(str(part) for part in (*first["loc"], said.get("field")) if part)
    return problem(
        422, f"{said.get('what') or first['msg']}{more}", instance, where=where, fix=str(said.get("fix", ""))
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of errors with these HTTP statuses."""
    return {
        status: {
            "description": _kind(status)[1],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def _kind(status: int) -> tuple[str, str]:
    return KINDS.get(status) or _unlisted(status)


def _unlisted(status: int) -> tuple[str, str]:
    phrase = HTTPStatus(status).phrase
    return phrase.lower().replace(" ", "-"), phrase


def _status(error: InputError) -> int:
    match error:
        case Forbidden():
            return 403
        case NotSure():
            return 428
        case Refused():
            return 409
        case NotFound():
            return 404
        case Unavailable():
            return 503
        case NodeAway():
            return 504
        case _:
            return 422
