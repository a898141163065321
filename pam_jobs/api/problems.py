"""Errors as problem details (RFC 9457): one type a cause, the sentence and its remedy for a person."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pam_jobs import errors

__all__ = ["install", "problem", "status_of"]

_STATUS: list[tuple[type[errors.PamJobsError], HTTPStatus]] = [
    (errors.InvalidInput, HTTPStatus.UNPROCESSABLE_ENTITY),
    (errors.AccessDenied, HTTPStatus.FORBIDDEN),
    (errors.NotFound, HTTPStatus.NOT_FOUND),
    (errors.StateError, HTTPStatus.CONFLICT),
    (errors.VaultConflict, HTTPStatus.CONFLICT),
    (errors.VaultError, HTTPStatus.BAD_REQUEST),
]


def status_of(error: errors.PamJobsError) -> int:
    """Return the HTTP status of an error."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


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


def _ours(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, errors.PamJobsError):
        raise TypeError("this handler is for our own errors")
    return problem(status_of(error), error.code, error.message, error.remedy)


def _validation(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise TypeError("this handler is for validation errors")
    fields = [
        {"field": ".".join(str(part) for part in entry["loc"][1:]), "message": entry["msg"]} for entry in error.errors()
    ]
    first = fields[0] if fields else {"field": "", "message": "the request is not valid"}
    detail = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
    return problem(422, "invalid_input", detail, "correct the named field and send the request again", fields=fields)


def _http(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise TypeError("this handler is for HTTP errors")
    answer = problem(error.status_code, "http", str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


def install(app: FastAPI) -> None:
    """Make the application answer every error as a problem; input values are never echoed, they may be secret."""
    app.add_exception_handler(errors.PamJobsError, _ours)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
