"""What the router's refusals mean: the error that its problem document names, or the nearest to its status."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from pam_jobs import errors

__all__ = ["error_of"]


def _by_code() -> dict[str, type[errors.PamJobsError]]:
    kinds = [getattr(errors, name) for name in errors.__all__]
    return {kind.code: kind for kind in kinds if isinstance(kind, type) and issubclass(kind, errors.PamJobsError)}


_ERRORS: Final = _by_code()
_ERRORS_BY_STATUS: Final[Mapping[int, type[errors.PamJobsError]]] = {
    401: errors.AccessDenied,
    403: errors.AccessDenied,
    404: errors.NotFound,
    409: errors.StateError,
    422: errors.InvalidInput,
}


def error_of(status: int, content: bytes) -> errors.PamJobsError:
    """Return what the router said instead of an answer.

    Args:
        status: of HTTP, no success.
        content: the problem document, or whatever came in its place.
    """
    try:
        problem = json.loads(content)
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    fallback = _ERRORS_BY_STATUS.get(status, errors.VaultError)
    kind = _ERRORS.get(str(problem.get("code")), fallback)
    detail = problem.get("detail") or f"the router refused the call with status {status}"
    return kind(str(detail), remedy=problem.get("remedy"))
