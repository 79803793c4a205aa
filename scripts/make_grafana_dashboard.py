"""Writes docs/grafana-dashboard.json, a dashboard of the server's metrics to import into Grafana.

    python scripts/make_grafana_dashboard.py        less than a second

A test makes the dashboard again, compares it, and looks up each metric in the server's registry.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "docs" / "grafana-dashboard.json"
SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH, HEIGHT, COLUMNS = 8, 8, 3  # size of a panel in units of Grafana's grid, which is 24 wide; panels per row


def rate(by: str, metric: str) -> str:
    return f"sum by ({by}) (rate({metric}[$__rate_interval]))"


def increase(by: str, metric: str, interval: str = "$__rate_interval") -> str:
    return f"sum by ({by}) (increase({metric}[{interval}]))"


def quantile(share: float, by: str, histogram: str) -> str:
    return f"histogram_quantile({share:g}, {rate(f'le, {by}', f'{histogram}_bucket')})"


def median_and_p95(by: str, histogram: str) -> list[tuple[str, str]]:
    return [
        (quantile(0.5, by, histogram), f"{{{{{by}}}}} median"),
        (quantile(0.95, by, histogram), f"{{{{{by}}}}} p95"),
    ]


# title, unit, stacked, then (query, legend) of each line
PANELS: list[tuple[str, str, bool, list[tuple[str, str]]]] = [
    ("Waiting jobs by reason", "short", True, [
        ("sum by (type, reason) (agentname_queue_jobs)", "{{type}}: {{reason}}"),
    ]),
    ("Running jobs", "short", True, [("sum by (type) (agentname_running_jobs)", "{{type}}")]),
    ("Ended jobs per minute", "short", True, [
        (rate("type, status", "agentname_jobs_ended_total") + " * 60", "{{type}} {{status}}"),
    ]),
    ("Wait from submission to start", "s", False, median_and_p95("type", "agentname_queue_wait_seconds")),
    ("Step time", "s", False, median_and_p95("model", "agentname_step_seconds")),
    ("Mean batch size (rows)", "short", False, [
        (rate("model", "agentname_batch_rows_sum") + " / " + rate("model", "agentname_batch_rows_count"), "{{model}}"),
    ]),
    ("Memory by holder", "bytes", True, [("agentname_memory_bytes", "{{device}} {{holder}} {{kind}}")]),
    ("Free memory for models", "bytes", False, [
        ("agentname_memory_free_bytes", "{{device}} free"), ("agentname_memory_total_bytes", "{{device}} total"),
    ]),
    ("Model loads and evictions per hour", "short", False, [
        (increase("model", "agentname_model_loads_total", "1h"), "{{model}} loads"),
        (increase("model", "agentname_model_evictions_total", "1h"), "{{model}} evictions"),
    ]),
    ("Tokens per second", "short", True, [(rate("kind", "agentname_tokens_total"), "{{kind}}")]),
    ("Delay from a chat step to the sent text, p95", "s", False, [
        (quantile(0.95, "text", "agentname_text_seconds"), "{{text}} text"),
    ]),
    ("Images and videos per minute", "short", True, [
        (rate("model", "agentname_outputs_total") + " * 60", "{{model}}"),
    ]),
    ("Forwards that ran out of memory", "short", True, [
        (increase("model", "agentname_out_of_memory_total"), "{{model}}"),
    ]),
    ("Failed jobs by error code", "short", True, [(increase("code", "agentname_jobs_failed_total"), "{{code}}")]),
    ("HTTP requests per second", "reqps", True, [(rate("status", "agentname_http_requests_total"), "{{status}}")]),
    ("HTTP time to the first byte of the reply, p95", "s", False, [
        (quantile(0.95, "route", "agentname_http_seconds"), "{{route}}"),
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
