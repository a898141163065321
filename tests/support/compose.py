"""docker-compose.yml as Compose reads it: merged, interpolated, as a document."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import compose_spec

__all__ = ["ROOT", "environment_of", "load"]

ROOT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def load(values: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the file's document.

    Args:
        values: of ``.env``; None leaves the variables as they stand in the file.

    Raises:
        ValueError: the file is not valid, or it needs a variable that has no value.
    """
    text = (ROOT / "docker-compose.yml").read_text()
    parsed = compose_spec.PyOptions(apply_merge=True).from_yaml(text)
    parsed.validate()
    document = json.dumps(parsed.to_dict())
    if values is not None:
        document = _VARIABLE.sub(lambda found: json.dumps(_value(found, values))[1:-1], document).replace("$$", "$")
    return json.loads(document)


def _value(found: re.Match[str], values: Mapping[str, str]) -> str:
    name, sign, text = found.groups()
    value = values.get(name, "")
    if value:
        return value
    if sign == "?":
        raise ValueError(f"{name} has no value: {text}")
    return text or ""


def environment_of(service: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment that the service gives its process."""
    return {name: str(value) for name, value in service.get("environment", {}).items()}
