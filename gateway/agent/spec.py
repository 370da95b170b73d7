"""Reads the job spec. The model, with every field's meaning, is gateway/model/jobspec.py."""

from __future__ import annotations

import json
from typing import Any, Dict

VERSION = 1

_DEFAULTS: Dict[str, Any] = {
    "attempt": 1,
    "launcher": [],
    "service": None,
    "stop": {},
    "secrets": [],
    "secrets_timeout": 300,
    "client_ca": "",
    "comment_field": "comment",
    "gateway": "",
    "requeue": False,
}
_CONTAINER: Dict[str, Any] = {
    "sha256": None,
    "verify": False,
    "gpu": "none",
    "binds": [],
    "command": None,
    "script": None,
    "env": {},
}
_SERVICE: Dict[str, Any] = {
    "listen": "socket",
    "prefix": "",
    "start_timeout": 1800,
    "probe_interval": 0.5,
    "activity": None,
}
_STOP: Dict[str, Any] = {"grace": 15, "kill_after": 30, "before_limit": 60}
_PROBE_TIMEOUT = {"http": 10, "completion": 120, "tcp": 10}
_PROBE: Dict[str, Dict[str, Any]] = {
    "http": {"path": "/health", "status": 200},
    "completion": {"path": "/v1/completions"},
    "tcp": {},
}


def load(path: str) -> Dict[str, Any]:
    """The spec with its defaults filled in. ValueError if it is not one that this agent understands."""
    with open(path, encoding="utf-8") as file:
        given = json.load(file)
    if not isinstance(given, dict) or given.get("version") != VERSION:
        raise ValueError(f"this agent reads job specs of version {VERSION}")
    try:
        spec = {**_DEFAULTS, **given}
        spec["container"] = {**_CONTAINER, **given["container"]}
        spec["container"]["binds"] = [{"read_only": False, **bind} for bind in spec["container"]["binds"]]
        spec["stop"] = {**_STOP, **spec["stop"]}
        if spec["service"] is not None:
            spec["service"] = {**_SERVICE, **spec["service"]}
            probe = spec["service"]["probe"]
            defaults = {**_PROBE[probe["kind"]], "timeout": _PROBE_TIMEOUT[probe["kind"]]}
            spec["service"]["probe"] = {**defaults, **probe}
        for name in ("session", "kind", "directory"):
            spec[name]
    except (KeyError, TypeError) as error:
        raise ValueError(f"the job spec is incomplete: {error}") from None
    return spec
