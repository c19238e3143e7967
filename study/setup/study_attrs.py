"""What stands on a study, for whoever reads it later."""

from __future__ import annotations

from pathlib import Path

from objectives.trial import Bench
from study.config import StudyConfig


def study_attrs(config: StudyConfig, bench: Bench) -> dict[str, object]:
    """What stands on the study, for whoever reads it later."""
    device = bench.device
    return {
        **_common_attrs(config),
        "device": {
            "kind": device.kind,
            "name": device.name,
            "uuid": device.uuid,
            "total_bytes": device.total_bytes,
        },
        "device_facts": device.describe(),
        "weights": bench.weights,
        "load": {**bench.profile.to_dict(), "trace_sha256": bench.trace.sha256},
        "engines": {name: server.engine.to_dict() for name, server in bench.servers.items()},
    }


def _common_attrs(config: StudyConfig) -> dict[str, object]:
    document = config.document
    return {
        "schema": 1,
        "objectives": {
            name: {"direction": way, "target": document.objectives[name].target}
            for name, way in config.directions.items()
        },
        "constraints": list(config.constraint_names),
        "baseline": config.baseline,
        "seed": document.seed,
        "config": document.model_dump(mode="json"),
        "space": {
            parameter.name: {
                "binding": str(parameter.binding),
                "choices": list(parameter.values() or ()),
                "low": parameter.low,
                "high": parameter.high,
            }
            for parameter in config.space
        },
    }


def replay_attrs(config: StudyConfig, table: Path) -> dict[str, object]:
    """The same for a study that draws from a recorded table."""
    return {**_common_attrs(config), "weights": "replay", "replay": table.name}
