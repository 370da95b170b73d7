"""Examples for OpenAPI; a test reads every one of them with the model that it stands for."""

from typing import Any

REQUESTS: dict[str, Any] = {
    "model server": {
        "summary": "A small model, served for half an hour",
        "value": {"recipe": "llama-cpp", "name": "demo", "resources": {"time": "30m"}},
    },
    "training": {
        "summary": "A training run on two nodes",
        "value": {
            "recipe": "train",
            "parameters": {"script": "project/train.py"},
            "resources": {"nodes": 2, "gpus": {"count": 4, "type": "a100"}},
            "labels": {"experiment": "42"},
        },
    },
}

SESSION: dict[str, Any] = {
    "id": "01J9Z3V8K4T6Q2M5N7P0R1S2T3",
    "name": "demo",
    "owner": "admin",
    "project": "default",
    "cluster": "local",
    "unix_user": "alice",
    "recipe": "llama-cpp",
    "recipe_version": "1.0",
    "kind": "service",
    "phase": "ready",
    "reason": "",
    "message": "",
    "ended": False,
    "conditions": {"EndpointReachable": {"status": True, "message": "", "since": "2026-01-05T10:00:09Z"}},
    "model": "demo",
    "image": "llama-cpp",
    "image_sha256": "6d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f00f1e",
    "parameters": {"context": 512},
    "resources": {"nodes": 1, "cpus": 2, "memory": 2048, "time": 30},
    "labels": {},
    "stop_requested": False,
    "created_at": "2026-01-05T10:00:00Z",
    "updated_at": "2026-01-05T10:00:09Z",
    "ready_at": "2026-01-05T10:00:09Z",
    "ended_at": None,
    "keep_until": None,
    "job": {
        "attempt": 1,
        "name": "sluice-01j9z3v8k4t6q2m5n7p0r1s2t3-1",
        "job_id": 4711,
        "state": "RUNNING",
        "reason": "",
        "nodes": "node1",
        "exit_code": None,
        "signal": None,
        "restarts": 0,
        "submitted_at": "2026-01-05T10:00:01Z",
        "started_at": "2026-01-05T10:00:02Z",
        "ended_at": None,
    },
    "queue_position": None,
}

SCRIPT: dict[str, Any] = {
    "script": "#!/bin/bash\n#SBATCH --job-name=sluice-01j9z3v8k4t6q2m5n7p0r1s2t3-1\n...",
    "options": {"name": "sluice-01j9z3v8k4t6q2m5n7p0r1s2t3-1", "partition": "gpu", "time_limit": 30, "nodes": 1},
    "image": "/home/alice/.sluice/images/llama-cpp.sif",
    "sha256": "6d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f00f1e",
}

EVENT: dict[str, Any] = {
    "id": 17,
    "session": "01J9Z3V8K4T6Q2M5N7P0R1S2T3",
    "type": "session.phase",
    "at": "2026-01-05T10:00:09Z",
    "data": {"phase": "ready", "before": "starting", "reason": "", "message": ""},
}
EVENTS = (
    "retry: 1000\n\n"
    "id: 17\nevent: session.phase\n"
    'data: {"id":17,"session":"01J9Z3V8K4T6Q2M5N7P0R1S2T3","type":"session.phase",'
    '"at":"2026-01-05T10:00:09Z","data":{"phase":"ready","before":"starting","reason":"","message":""}}\n\n'
)

LOG: dict[str, Any] = {
    "file": "service-1.log",
    "offset": 0,
    "next": 38,
    "size": 38,
    "text": "main: server is listening on a socket\n",
}

CLUSTER: dict[str, Any] = {
    "name": "local",
    "backend": "rest",
    "version": "26.05.0",
    "reachable": True,
    "message": "",
    "polled_at": "2026-01-05T10:00:09Z",
    "partitions": [{"name": "gpu", "up": True, "default": True, "max_time": 1440, "nodes": "node[1-2]"}],
    "nodes": [
        {
            "name": "node1",
            "address": "10.77.0.11",
            "states": ["MIXED"],
            "available": True,
            "partitions": ["gpu"],
            "cpus": 16,
            "cpus_used": 2,
            "memory": 65536,
            "memory_used": 2048,
            "gpus": [{"name": "gpu", "type": "a100", "total": 4, "used": 1}],
        }
    ],
    "gpus": [{"name": "gpu", "type": "a100", "total": 4, "used": 1}],
}

HEALTH: dict[str, Any] = {
    "status": "ok",
    "version": "0.1.0",
    "checks": {
        "database": "ok",
        "cluster local": "answered 0.8 s ago",
        "lease local": "gw1.example.org (process 4711), this server: term 3, renewed 1.2 s ago",
    },
}

IMAGE: dict[str, Any] = {
    "cluster": "local",
    "name": "llama-cpp",
    "sha256": "6d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f00f1e",
    "path": "/home/alice/.sluice/images/llama-cpp-6d3c4b5a6978.sif",
    "size": 104857600,
    "built_at": "2026-01-05T09:00:00Z",
}

AUDIT: dict[str, Any] = {
    "at": "2026-01-05T10:00:00.000000Z",
    "who": "ann",
    "user_id": "01J9Z3V8K4T6Q2M5N7P0R1S2T4",
    "kind": "person",
    "origin": "cli",
    "token": None,
    "action": "session.create",
    "object_kind": "session",
    "object": "01J9Z3V8K4T6Q2M5N7P0R1S2T3",
    "project": "physics",
    "session": "01J9Z3V8K4T6Q2M5N7P0R1S2T3",
    "job_id": None,
    "decision": "allow",
    "policy": "",
    "outcome": "done",
    "reason": "",
    "request_id": "01J9Z3V8K4T6Q2M5N7P0R1S2T5",
    "details": {"name": "demo", "recipe": "llama-cpp", "cluster": "local"},
    "id": 17,
    "previous": "0b9c2625dc21ef05f6ad4ddf47c5f203837aa32c2e7a5b1c6a5b4c3d2e1f00f1",
    "hash": "6d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f00f1e",
}
