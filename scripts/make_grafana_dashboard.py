"""Writes docs/grafana-dashboard.json, to be imported into Grafana: `python scripts/make_grafana_dashboard.py`.

A test makes it again and looks each metric up in the server's registry.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "docs" / "grafana-dashboard.json"
SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH, HEIGHT, COLUMNS = 8, 8, 3  # of a panel on Grafana's grid of 24

# title, unit, stacked, then (query, legend) of each line
PANELS: list[tuple[str, str, bool, list[tuple[str, str]]]] = [
    ("Jobs that wait, and why", "short", True, [("sum by (type, reason) (agentname_queue_jobs)", "{{type}}: {{reason}}")]),
    ("Jobs that run", "short", True, [("sum by (type) (agentname_running_jobs)", "{{type}}")]),
    ("Jobs ended a minute", "short", True, [
        ("sum by (type, status) (rate(agentname_jobs_ended_total[$__rate_interval])) * 60", "{{type}} {{status}}"),
    ]),
    ("Wait before the start", "s", False, [
        ("histogram_quantile(0.5, sum by (le, type) (rate(agentname_queue_wait_seconds_bucket[$__rate_interval])))", "{{type}} half"),
        ("histogram_quantile(0.95, sum by (le, type) (rate(agentname_queue_wait_seconds_bucket[$__rate_interval])))", "{{type}} 95 %"),
    ]),
    ("Step time", "s", False, [
        ("histogram_quantile(0.5, sum by (le, model) (rate(agentname_step_seconds_bucket[$__rate_interval])))", "{{model}} half"),
        ("histogram_quantile(0.95, sum by (le, model) (rate(agentname_step_seconds_bucket[$__rate_interval])))", "{{model}} 95 %"),
    ]),
    ("Rows of a batch, mean", "short", False, [
        (
            "sum by (model) (rate(agentname_batch_rows_sum[$__rate_interval])) / sum by (model) (rate(agentname_batch_rows_count[$__rate_interval]))",
            "{{model}}",
        ),
    ]),
    ("Memory by holder", "bytes", True, [("agentname_memory_bytes", "{{device}} {{holder}} {{kind}}")]),
    ("Memory free for models", "bytes", False, [
        ("agentname_memory_free_bytes", "{{device}} free"), ("agentname_memory_total_bytes", "{{device}} in all"),
    ]),
    ("Loads and evictions an hour", "short", False, [
        ("sum by (model) (increase(agentname_model_loads_total[1h]))", "{{model}} in"),
        ("sum by (model) (increase(agentname_model_evictions_total[1h]))", "{{model}} out"),
    ]),
    ("Tokens a second", "short", True, [("sum by (kind) (rate(agentname_tokens_total[$__rate_interval]))", "{{kind}}")]),
    ("From a token's step to its going out, 95 %", "s", False, [
        ("histogram_quantile(0.95, sum by (le, text) (rate(agentname_text_seconds_bucket[$__rate_interval])))", "{{text}} text"),
    ]),
    ("Pictures and clips a minute", "short", True, [
        ("sum by (model) (rate(agentname_outputs_total[$__rate_interval])) * 60", "{{model}}"),
    ]),
    ("Forwards that ran out of memory", "short", True, [
        ("sum by (model) (increase(agentname_out_of_memory_total[$__rate_interval]))", "{{model}}"),
    ]),
    ("Failures, out of memory among them", "short", True, [
        ("sum by (code) (increase(agentname_jobs_failed_total[$__rate_interval]))", "{{code}}"),
    ]),
    ("HTTP requests a second", "reqps", True, [
        ("sum by (status) (rate(agentname_http_requests_total[$__rate_interval]))", "{{status}}"),
    ]),
    ("HTTP: until the reply begins, 95 %", "s", False, [
        ("histogram_quantile(0.95, sum by (le, route) (rate(agentname_http_seconds_bucket[$__rate_interval])))", "{{route}}"),
    ]),
]  # fmt: skip


def dashboard() -> str:
    content = {
        "title": "AgentName",
        "uid": "agentname",
        "description": "Queue, memory and models of an AgentName server, from its /metrics.",
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [_panel(number, *panel) for number, panel in enumerate(PANELS)],
    }
    return json.dumps(content, indent=1) + "\n"


def _panel(number: int, title: str, unit: str, stacked: bool, lines: list[tuple[str, str]]) -> dict[str, Any]:
    row, column = divmod(number, COLUMNS)
    drawn = {"stacking": {"mode": "normal"}, "fillOpacity": 30} if stacked else {"fillOpacity": 0}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": drawn}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for i, (query, legend) in enumerate(lines)
        ],
    }


if __name__ == "__main__":
    PATH.write_text(dashboard())
    print(f"{PATH.relative_to(ROOT)}: {len(PANELS)} panels")
