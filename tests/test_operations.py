"""The example alert rules and the dashboard: well-formed, and of metrics that there are."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from ruamel.yaml import YAML

from soundmill.models.station import Station
from soundmill.storage.broker import resolve_broker
from soundmill.storage.database import Database
from soundmill.storage.leader import lead
from soundmill.storage.schema import migrate
from soundmill.storage.settings import Settings
from soundmill.worker.commands.metrics import PORT
from soundmill.worker.metrics.card import CardMeasures, ProcessCollector
from soundmill.worker.metrics.exporter import Exporter
from soundmill.worker.metrics.host import HostMeasures
from soundmill.worker.metrics.shared import FiguresWriter
from soundmill.worker.supervisor import _REASONS

from .worker.metrics.scrapes import names_of
from .worker.metrics.test_card import JOB

OPERATIONS = Path(__file__).parent.parent / "operations"
RULES: dict[str, Any] = YAML(typ="safe").load((OPERATIONS / "alerts.yml").read_text())
ALERTS: list[dict[str, Any]] = [rule for group in RULES["groups"] for rule in group["rules"]]
BOARD: dict[str, Any] = json.loads((OPERATIONS / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = BOARD["panels"]
TARGETS = [(panel, target) for panel in PANELS for target in panel.get("targets", ())]

OF_PROMETHEUS = {"up"}
LABELS = {
    "model", "device", "outcome", "reason", "phase", "state", "step", "part", "place", "le", "instance", "job",
}  # fmt: skip
DURATION = re.compile(r"\d+(s|m|h|d)")

each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
each_target = pytest.mark.parametrize(
    ("panel", "target"), TARGETS, ids=[f"{panel['title']}-{target['refId']}" for panel, target in TARGETS]
)


@pytest.fixture(scope="module")
def exposed() -> Iterator[set[str]]:
    """The names of everything that a supervisor and the exporter really serve."""
    with tempfile.TemporaryDirectory(prefix="sm") as name:
        folder = Path(name)
        settings = Settings(state_dir=folder / "state", runtime_dir=folder / "run")
        database = Database(settings.database_url)
        migrate(database)
        with database.write() as connection:
            lead(connection, database, holder="here", lease_s=10)
        database.close()
        with resolve_broker(settings), closing(Exporter(settings)) as exporter:
            yield names_of([*_of_host().registry.collect(), *exporter.registry.collect()])


def _of_host() -> HostMeasures:
    measures, card = HostMeasures(), CardMeasures("cpu:0")
    card.serves("toy", 1)
    card.ended(JOB, "completed", code=None, took_s=1.0, seconds={}, metrics={})
    card.registry.register(ProcessCollector(Station("cpu:0"), "cpu:0"))
    reader = measures.card("cpu:0")
    FiguresWriter(reader.descriptor, card.registry).write()
    families = reader.read()
    reader.close()
    reader._before = families  # gauges, too
    return measures


def selectors(expression: str) -> list[Any]:
    """The places of an expression where a metric is named; raises `ValueError` where it is no PromQL."""
    found: list[Any] = []
    open_ = [promql_parser.parse(expression)]
    while open_:
        node = open_.pop()
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        children = (getattr(node, name, None) for name in ("expr", "lhs", "rhs", "vector_selector", "param"))
        open_ += [child for child in children if child is not None and not isinstance(child, str | float)]
        open_ += list(getattr(node, "args", None) or ())
    return found


def plain(expression: str) -> str:
    """A panel's expression with Grafana's variables filled in."""
    filled = expression.replace("$__rate_interval", "5m").replace("$__interval", "1m")
    return re.sub(r"\$(model|instance|device)", ".*", filled)


def assert_is_known(expression: str, exposed: set[str]) -> None:
    places = selectors(expression)
    assert places
    for place in places:
        assert place.name in exposed | OF_PROMETHEUS, place.name
        assert {matcher.name for matcher in place.matchers.matchers} <= LABELS, expression


def test_the_parser_refuses_what_is_no_promql_and_finds_every_metric() -> None:
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        promql_parser.parse("sum by (model) (rate(x[5m])")
    with pytest.raises(ValueError, match="expected type matrix"):
        promql_parser.parse("rate(x)")
    nested = "sum by (a) (rate(one[5m])) / on (a) group_left () (two > 0) unless histogram_quantile(0.5, three) == -four"
    assert {place.name for place in selectors(nested)} == {"one", "two", "three", "four"}


def test_what_is_exposed_is_what_the_operator_was_promised(exposed: set[str]) -> None:
    assert {
        "soundmill_num_requests_running", "soundmill_num_requests_waiting", "soundmill_oldest_waiting_seconds",
        "soundmill_attempts_total", "soundmill_requests_failed_total", "soundmill_lease_rescues_total",
        "soundmill_batch_size_bucket", "soundmill_batch_padding_ratio_bucket", "soundmill_audio_seconds_total",
        "soundmill_device_busy_seconds_total", "soundmill_device_memory_used_bytes", "soundmill_card_restarts_total",
        "soundmill_e2e_request_latency_seconds_bucket", "soundmill_request_queue_wait_seconds_bucket",
        "soundmill_audio_duration_seconds_bucket", "soundmill_audio_rtf_bucket", "soundmill_retries_total",
    } <= exposed  # fmt: skip


@each_alert
def test_an_alert_asks_for_metrics_that_there_are(alert: dict[str, Any], exposed: set[str]) -> None:
    assert_is_known(alert["expr"], exposed)


@each_alert
def test_an_alert_is_formed_as_prometheus_wants_it(alert: dict[str, Any]) -> None:
    assert set(alert) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Soundmill[A-Z]\w+", alert["alert"])
    assert DURATION.fullmatch(alert.get("for", "0s"))
    assert alert["labels"]["severity"] in ("info", "warning", "critical")
    assert set(alert["annotations"]) == {"summary", "description"}
    for words in alert["annotations"].values():
        assert re.sub(r"\{\{ (\$value|\$labels\.\w+)( \| humanize\w*)? \}\}", "", words).count("{{") == 0


@each_alert
def test_an_alert_speaks_only_of_labels_that_its_expression_keeps(alert: dict[str, Any]) -> None:
    named = set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"])))
    by = re.search(r"^sum(?: by \(([^)]*)\))?", alert["expr"])
    if by is not None:
        assert named <= set(re.findall(r"\w+", by[1] or "")), alert["expr"]


def test_the_rules_are_a_file_of_rules() -> None:
    assert set(RULES) == {"groups"}
    assert all(set(group) <= {"name", "rules", "interval"} for group in RULES["groups"])
    names = [alert["alert"] for alert in ALERTS]
    assert len(set(names)) == len(names)
    assert len({group["name"] for group in RULES["groups"]}) == len(RULES["groups"])


def test_the_reasons_that_a_rule_names_are_those_that_are_counted() -> None:
    counted = {
        *_REASONS.values(),
        "crashed",
        "stuck",
        "killed",
        "expired",
        "completed",
        "failed",
        "discarded",
    }
    for alert in ALERTS:
        for place in selectors(alert["expr"]):
            for matcher in place.matchers.matchers:
                if matcher.name in ("reason", "outcome"):
                    assert set(matcher.value.split("|")) <= counted, alert["expr"]


def test_what_is_scraped_is_what_is_served() -> None:
    example = YAML(typ="safe").load((OPERATIONS / "prometheus.yml").read_text())
    assert example["rule_files"] == ["alerts.yml"]
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in example["scrape_configs"]}
    assert jobs["soundmill"] == [f"127.0.0.1:{PORT}"]
    assert set(jobs) == {"soundmill", "soundmill-workers"}


# -- the dashboard -----------------------------------------------------------------------------------


@each_target
def test_a_panel_asks_for_metrics_that_there_are(
    panel: dict[str, Any], target: dict[str, Any], exposed: set[str]
) -> None:
    assert_is_known(plain(target["expr"]), exposed)
    assert "$" not in plain(target["expr"])
    assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"


def test_the_dashboard_is_one_that_grafana_loads() -> None:
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= set(BOARD)
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    assert {panel["type"] for panel in PANELS} <= {"row", "timeseries", "stat"}
    named = {variable["name"] for variable in BOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(?!__)(\w+)", json.dumps(PANELS)))
    assert used == named
    for panel in PANELS:
        references = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(references)) == len(references)


def test_the_variables_of_the_dashboard_ask_for_metrics_that_there_are(exposed: set[str]) -> None:
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
            assert found is not None
            assert found[1] in exposed
            assert found[2] == variable["name"]
            assert variable["query"]["query"] == variable["definition"]


def test_no_panel_lies_over_another() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
