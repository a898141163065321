"""Errors as problem details (RFC 9457): one type a cause, the sentence and its remedy for a person."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from pam_jobs import errors

__all__ = ["Problem", "Unauthenticated", "answer_to", "install", "problem", "problem_of", "status_of"]


class Unauthenticated(errors.AccessDenied):
    """Nobody is signed in, or no device has proved itself."""


_STATUS: list[tuple[type[errors.PamJobsError], HTTPStatus]] = [
    (errors.InvalidInput, HTTPStatus.UNPROCESSABLE_ENTITY),
    (errors.ClockDiffers, HTTPStatus.UNAUTHORIZED),
    (Unauthenticated, HTTPStatus.UNAUTHORIZED),
    (errors.AccessDenied, HTTPStatus.FORBIDDEN),
    (errors.NotFound, HTTPStatus.NOT_FOUND),
    (errors.StateError, HTTPStatus.CONFLICT),
    (errors.VaultConflict, HTTPStatus.CONFLICT),
    (errors.VaultError, HTTPStatus.BAD_REQUEST),
]


_BEARER = "an API token of `pam token new`, or a token signed with the user's key"
_OPEN = frozenset({"/api/v1/server", "/api/v1/sign-in", "/api/v1/sign-in/parameters"})
_REMEDIES: dict[int, str] = {
    HTTPStatus.NOT_FOUND: "look for the path in /api/v1/openapi.json",
    HTTPStatus.METHOD_NOT_ALLOWED: "look for the method in /api/v1/openapi.json",
}


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    remedy: str | None = None


def status_of(error: errors.PamJobsError) -> int:
    """Return the HTTP status of an error."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


def problem_of(error: errors.PamJobsError) -> Problem:
    """Return the problem of one part of a request whose other parts were carried out."""
    status = status_of(error)
    return Problem(
        type=f"urn:pam-jobs:error:{error.code}",
        title=HTTPStatus(status).phrase,
        status=status,
        code=error.code,
        detail=error.message,
        remedy=error.remedy,
    )


def problem(status: int, code: str, detail: str, remedy: str | None = None, **more: Any) -> JSONResponse:
    """Return a problem-details answer."""
    body: dict[str, Any] = {
        "type": f"urn:pam-jobs:error:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        **more,
    }
    if remedy:
        body["remedy"] = remedy
    return JSONResponse(body, status_code=status, media_type="application/problem+json")


def _handler(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, errors.PamJobsError | RequestValidationError | HTTPException):
        raise TypeError("this handler is for errors of requests")
    return answer_to(error)


def _of_ours(error: errors.PamJobsError) -> JSONResponse:
    answer = problem(status_of(error), error.code, error.message, error.remedy)
    if isinstance(error, Unauthenticated):
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def _of_input(error: RequestValidationError) -> JSONResponse:
    fields = [
        {"field": ".".join(str(part) for part in entry["loc"][1:]), "message": entry["msg"]} for entry in error.errors()
    ]
    if error.errors() and error.errors()[0]["type"] == "json_invalid":
        return problem(422, "invalid_input", "the body is not valid JSON", "send one JSON document")
    first = fields[0] if fields else {"field": "", "message": "the request is not valid"}
    detail = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
    return problem(422, "invalid_input", detail, "correct the named field and send the request again", fields=fields)


def _of_http(error: HTTPException) -> JSONResponse:
    answer = problem(error.status_code, "http", str(error.detail), _REMEDIES.get(error.status_code))
    answer.headers.update(error.headers or {})
    return answer


def answer_to(error: errors.PamJobsError | RequestValidationError | HTTPException) -> JSONResponse:
    """Return what is answered to an error; input values are never echoed, they may be secret."""
    match error:
        case errors.PamJobsError():
            return _of_ours(error)
        case RequestValidationError():
            return _of_input(error)
        case _:
            return _of_http(error)


def install(app: FastAPI) -> None:
    """Make the application answer every error as a problem; input values are never echoed, they may be secret."""
    for kind in (errors.PamJobsError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _handler)
    app.openapi = partial(_document, app)  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, with the problems that are really answered and with what authorises a request."""
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            openapi_version=app.openapi_version,
            routes=app.routes,
        )
        parts = found.setdefault("components", {})
        parts["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer", "description": _BEARER}}
        schemas = parts.setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema()
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        for path, operations in found["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                if not path.startswith("/api/v1/"):
                    continue
                operation["responses"]["default"] = {"description": "what is wrong, and its remedy", "content": content}
                if path not in _OPEN:
                    operation["security"] = [{"bearer": []}]
        app.openapi_schema = found
    return app.openapi_schema
