"""The alerts, checked with the tools of Prometheus and Alertmanager; and that rules, unit tests, runbooks and dashboard agree."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml  # type: ignore[import-untyped,unused-ignore]

from monitoring.grafana import asking
from tcpnewconn.health.metrics import METRICS, PREFIX
from tests.support import root_image
from tests.support.terminal import TREE

PROMETHEUS = TREE / "monitoring" / "prometheus"
RULES = PROMETHEUS / "tcpnewconn.rules.yml"
PORT_SCAN = PROMETHEUS / "tcpnewconn.port-scan.rules.yml"
RECORDING = PROMETHEUS / "tcpnewconn.recording.yml"
ROUTE = TREE / "monitoring" / "alertmanager" / "tcpnewconn.yml"
README = TREE / "monitoring" / "README.md"
RUNBOOKS = TREE / "docs" / "runbooks"
UNIT_TESTS = PROMETHEUS / "tests"
DASHBOARD = json.loads((TREE / "monitoring" / "grafana" / "tcpnewconn.json").read_text())
# Unit tests that are not of one alert.
COMMON = {"boot", "recording"}


class Alert(NamedTuple):
    file: Path
    rule: dict[str, Any]
    comment: str


def alerts() -> dict[str, Alert]:
    """Each alert: the file it is in, its rule, and the comment above it."""
    found = {}
    for file in (RULES, PORT_SCAN):
        text = file.read_text()
        commented = re.findall(r"((?:^      # .*\n)*)^      - alert: (\w+)$", text, re.MULTILINE)
        comments = {name: comment for comment, name in commented}
        for group in yaml.safe_load(text)["groups"]:
            for rule in group["rules"]:
                found[rule["alert"]] = Alert(file, rule, comments[rule["alert"]])
    return found


def recorded() -> list[str]:
    return re.findall(r"(?m)^      - record: (\S+)$", RECORDING.read_text())


def ran(program: str, *arguments: str | Path) -> str:
    command = [root_image.monitoring_programs() / "bin" / program, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.apt
def test_promtool_accepts_the_rules_and_has_no_warnings() -> None:
    output = ran("promtool", "check", "rules", "--lint=all", "--lint-fatal", RULES, PORT_SCAN, RECORDING)
    assert f"SUCCESS: {len(alerts()) - 1} rules found" in output
    assert "SUCCESS: 1 rules found" in output
    assert f"SUCCESS: {len(recorded())} rules found" in output


@pytest.mark.apt
@pytest.mark.parametrize("file", sorted(UNIT_TESTS.glob("*.yml")), ids=lambda file: file.stem)
def test_the_unit_tests_of_the_rules_pass(file: Path) -> None:
    ran("promtool", "test", "rules", file)


def test_every_alert_has_unit_tests_in_which_it_fires_and_in_which_it_does_not() -> None:
    assert {file.stem for file in UNIT_TESTS.glob("*.yml")} == {*alerts(), *COMMON}
    for alert in alerts():
        text = (UNIT_TESTS / f"{alert}.yml").read_text()
        assert set(re.findall(r"alertname: (\w+)", text)) == {alert}
        cases = text.split("  - name: ")[1:]
        firing = [case for case in cases if "exp_labels:" in case]
        silent = [case for case in cases if "exp_labels:" not in case]
        assert firing, alert
        assert silent, alert


def test_the_unit_test_of_a_boot_has_all_alerts() -> None:
    rule_files = yaml.safe_load((UNIT_TESTS / "boot.yml").read_text())["rule_files"]
    assert {(UNIT_TESTS / name).resolve() for name in rule_files} == {alert.file for alert in alerts().values()}


def test_every_recording_rule_has_a_unit_test() -> None:
    tested = re.findall(r"(?m)^      - expr: ([\w:]+)", (UNIT_TESTS / "recording.yml").read_text())
    assert set(tested) == set(recorded())


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {file.stem for file in RUNBOOKS.glob("*.md")} == set(alerts())
    for alert, (_, rule, _) in alerts().items():
        url = f"https://github.com/tcpnewconn/tcpnewconn/blob/main/docs/runbooks/{alert}.md"
        assert rule["annotations"]["runbook_url"] == url
        runbook = (RUNBOOKS / f"{alert}.md").read_text()
        assert runbook.startswith(f"# {alert}\n")
        assert "\n## Look\n" in runbook
        assert "\n## Do\n" in runbook
        for other in re.findall(r"\]\((\w+)\.md\)", runbook):
            assert other in alerts()


def test_the_table_of_alerts_agrees_with_the_rules() -> None:
    rows = re.findall(r"(?m)^\| \[(\w+)\]\(\.\./docs/runbooks/\1\.md\) \| (\w+) \| (\w+) \| ", README.read_text())
    assert {name: (severity, wait) for name, severity, wait in rows} == {
        name: (rule["labels"]["severity"], rule["for"]) for name, (_, rule, _) in alerts().items()
    }


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_has_its_severity_its_texts_and_the_reason_for_its_wait(alert: str) -> None:
    _, rule, comment = alerts()[alert]
    assert re.fullmatch(r"\d+m", rule["for"])
    assert comment, "a comment says why it waits so long"
    assert rule["labels"].keys() == {"severity", "service"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["labels"]["service"] == "tcpnewconn"
    assert rule["annotations"].keys() == {"summary", "description", "dashboard_url", "runbook_url"}


@pytest.mark.parametrize("alert", alerts())
def test_a_summary_is_a_sentence_for_a_group_and_a_description_names_the_host(alert: str) -> None:
    annotations = alerts()[alert].rule["annotations"]
    assert re.fullmatch(r"[A-Z][^{}]*\.", annotations["summary"]), "the same for every host of a group"
    assert "{{ $labels.instance }}" in annotations["description"]


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_links_to_the_dashboard_of_its_host(alert: str) -> None:
    base, _, query = alerts()[alert].rule["annotations"]["dashboard_url"].partition("?")
    assert base == f"https://grafana.example.org/d/{DASHBOARD['uid']}"
    chosen = dict(part.split("=") for part in query.split("&"))
    assert chosen == {"var-job": "{{ $labels.job }}", "var-instance": "{{ $labels.instance }}"}
    variables = {f"var-{variable['name']}" for variable in DASHBOARD["templating"]["list"]}
    assert set(chosen) <= variables


def test_the_alert_about_port_scans_can_be_left_out() -> None:
    assert [name for name, alert in alerts().items() if alert.file == PORT_SCAN] == ["TcpnewconnPortScan"]
    assert "port_scan" not in RULES.read_text()
    assert f"`prometheus/{PORT_SCAN.name}`" in README.read_text()


def test_recording_rules_are_named_as_level_metric_operations() -> None:
    for name in recorded():
        assert re.fullmatch(r"(instance|instance_\w+|job):tcpnewconn_\w+:[a-z]+(\d+[mh])?", name)


@pytest.mark.apt
def test_alertmanager_accepts_the_route() -> None:
    assert "SUCCESS" in ran("amtool", "check-config", ROUTE)


@pytest.mark.apt
@pytest.mark.parametrize(("severity", "receiver"), [("critical", "pager"), ("warning", "mail"), ("info", "chat")])
def test_an_alert_is_routed_by_its_severity(severity: str, receiver: str) -> None:
    labels = ("service=tcpnewconn", f"severity={severity}")
    output = ran("amtool", "config", "routes", "test", f"--config.file={ROUTE}", *labels)
    assert output.splitlines()[-1] == receiver


def test_the_route_names_only_alerts_that_exist() -> None:
    assert set(re.findall(r"Tcpnewconn\w+", ROUTE.read_text())) <= set(alerts())


def test_rules_and_dashboard_use_only_metrics_that_the_program_has() -> None:
    exposed = {PREFIX + metric.name for metric in METRICS}
    exposed |= {
        PREFIX + metric.name + end for metric in METRICS if metric.kind == "summary" for end in ("_sum", "_count")
    }
    expressions = [rule["expr"] for _, rule, _ in alerts().values()]
    for group in yaml.safe_load(RECORDING.read_text())["groups"]:
        expressions += [rule["expr"] for rule in group["rules"]]
    expressions += [each.expr for each in asking.expressions(DASHBOARD, {"job": ".*", "instance": ".*"})]
    used = {name for expr in expressions for name in re.findall(rf"(?<![\w:])({PREFIX}\w+)(?![\w:]|\.service)", expr)}
    assert used <= exposed
    assert len(used) > 15
