"""Dashboard, alert rules and scrape settings of ``deploy/``: well-formed, and every metric and label they name exists."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pam_jobs.access.roles import Scope
from pam_jobs.metrics.catalogue import METRICS

pytestmark = pytest.mark.unit

DEPLOY = Path(__file__).parents[3] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "pam-jobs.json").read_text())
RULES = yaml.safe_load((DEPLOY / "prometheus" / "pam-jobs-alerts.yml").read_text())
SCRAPE = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
ALERTS = RULES["groups"][0]["rules"]

_SOURCE = {"type": "object", "required": ["type", "uid"]}
_TARGET = {
    "type": "object",
    "required": ["refId", "expr", "datasource"],
    "properties": {"refId": {"pattern": "^[A-Z]$"}, "expr": {"minLength": 1}, "datasource": _SOURCE},
}
_PLACE = {
    "type": "object",
    "required": ["h", "w", "x", "y"],
    "properties": {"w": {"maximum": 24}, "x": {"maximum": 23}},
    "additionalProperties": {"type": "integer", "minimum": 0},
}
# What Grafana's import needs of a dashboard and of a panel.
SCHEMA = {
    "type": "object",
    "required": ["title", "uid", "schemaVersion", "panels", "templating", "time"],
    "properties": {
        "schemaVersion": {"type": "integer", "minimum": 36},
        "panels": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["id", "type", "title", "gridPos", "targets", "fieldConfig", "options"],
                "properties": {
                    "type": {"enum": ["timeseries", "stat"]},
                    "gridPos": _PLACE,
                    "targets": {"type": "array", "minItems": 1, "items": _TARGET},
                },
            },
        },
    },
}


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    variables = [entry["query"]["query"] for entry in DASHBOARD["templating"]["list"] if entry["type"] == "query"]
    return panels + variables + [rule["expr"] for rule in ALERTS]


def named(expression: str) -> set[str]:
    return set(re.findall(r"\bpam_\w+", expression))


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_and_labels_that_exist(expression: str) -> None:
    names = named(expression)
    assert names
    assert names <= set(METRICS)
    labels = set(re.findall(r"[{,]\s*(\w+)\s*[=!]~?", expression))
    labels |= {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    assert labels <= {label for name in names for label in METRICS[name].labels}
    for name in re.findall(r"(?:rate|increase)\((pam_\w+)", expression):
        assert METRICS[name].is_counter
    assert all(expression.count(first) == expression.count(last) for first, last in ("()", "{}", "[]"))


def test_the_dashboard_is_what_grafana_imports() -> None:
    jsonschema.validate(DASHBOARD, SCHEMA)
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_every_metric_is_shown_somewhere() -> None:
    shown = set().union(*(named(expression) for expression in expressions()))
    assert set(METRICS) - shown <= {"pam_audit_unsealed", "pam_sink_lag_events"}  # their ages are shown


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"].endswith((".", "}}."))
    assert rule["annotations"]["remedy"]
    told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert told <= {label for name in named(rule["expr"]) for label in METRICS[name].labels}
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))


def test_the_alerts_cover_what_an_operator_must_hear_of() -> None:
    watched = set().union(*(named(rule["expr"]) for rule in ALERTS))
    assert {
        "pam_gateway_oldest_job_seconds",
        "pam_gateway_instances_online",
        "pam_gateway_jobs_unknown",
        "pam_job_outcomes_total",
        "pam_audit_sealing_lag_seconds",
    } <= watched
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)


def test_prometheus_asks_over_tls_with_a_token_of_the_scope_for_it() -> None:
    scrape = yaml.safe_load(SCRAPE)["scrape_configs"][0]
    assert scrape["scheme"] == "https"
    assert scrape["authorization"]["credentials_file"]
    assert scrape["tls_config"]["ca_file"]
    assert scrape.get("metrics_path", "/metrics") == "/metrics"
    assert set(re.findall(r"-s (\S+)", SCRAPE)) == {Scope.METRICS_READ.value}
