"""The alerts, by the tools of Prometheus and Alertmanager; and that rules, unit tests and runbooks belong together."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support import root_image
from tests.support.terminal import TREE

RULES = TREE / "monitoring" / "prometheus" / "tcpnewconn.rules.yml"
RECORDING = TREE / "monitoring" / "prometheus" / "tcpnewconn.recording.yml"
ROUTE = TREE / "monitoring" / "alertmanager" / "tcpnewconn.yml"
README = TREE / "monitoring" / "README.md"
RUNBOOKS = TREE / "docs" / "runbooks"
UNIT_TESTS = TREE / "monitoring" / "prometheus" / "tests"


def alerts() -> dict[str, str]:
    """Each alert, with the text of its rule and of the comment above it."""
    parts = re.split(r"\n{2}(?=      #)|(?<=    rules:\n)", RULES.read_text())[1:]
    named = {re.findall(r"(?m)^      - alert: (\w+)$", part)[0]: part for part in parts}
    assert len(named) == RULES.read_text().count("- alert: ")
    return named


def recorded() -> list[str]:
    return re.findall(r"(?m)^      - record: (\S+)$", RECORDING.read_text())


def ran(program: str, *arguments: str | Path) -> str:
    command = [root_image.monitoring_programs() / "bin" / program, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.apt
def test_prometheus_takes_the_rules_and_has_nothing_to_say() -> None:
    told = ran("promtool", "check", "rules", "--lint=all", "--lint-fatal", RULES, RECORDING)
    assert f"SUCCESS: {len(alerts())} rules found" in told
    assert f"SUCCESS: {len(recorded())} rules found" in told


@pytest.mark.apt
@pytest.mark.parametrize("file", sorted(UNIT_TESTS.glob("*.yml")), ids=lambda file: file.stem)
def test_the_rules_do_what_their_unit_tests_say(file: Path) -> None:
    ran("promtool", "test", "rules", file)


def test_every_alert_has_unit_tests_in_which_it_fires_and_in_which_it_does_not() -> None:
    assert {file.stem for file in UNIT_TESTS.glob("*.yml")} == {*alerts(), "recording"}
    for alert in alerts():
        text = (UNIT_TESTS / f"{alert}.yml").read_text()
        assert set(re.findall(r"alertname: (\w+)", text)) == {alert}
        cases = text.split("  - name: ")[1:]
        firing = [case for case in cases if "exp_labels:" in case]
        silent = [case for case in cases if "exp_labels:" not in case]
        assert firing, alert
        assert silent, alert


def test_every_recording_rule_has_a_unit_test() -> None:
    tested = re.findall(r"(?m)^      - expr: ([\w:]+)", (UNIT_TESTS / "recording.yml").read_text())
    assert set(tested) == set(recorded())


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {file.stem for file in RUNBOOKS.glob("*.md")} == set(alerts())
    for alert, rule in alerts().items():
        assert (
            f"runbook_url: https://github.com/tcpnewconn/tcpnewconn/blob/main/docs/runbooks/{alert}.md"
            in rule.splitlines()[-1]
        )
        runbook = (RUNBOOKS / f"{alert}.md").read_text()
        assert runbook.startswith(f"# {alert}\n")
        assert "\n## Look\n" in runbook
        assert "\n## Do\n" in runbook
        for other in re.findall(r"\]\((\w+)\.md\)", runbook):
            assert other in alerts()


def test_the_table_of_alerts_says_what_the_rules_say() -> None:
    rows = re.findall(r"(?m)^\| \[(\w+)\]\(\.\./docs/runbooks/\1\.md\) \| (\w+) \| (\w+) \| ", README.read_text())
    assert {name: (severity, wait) for name, severity, wait in rows} == {
        name: re.findall(r"(?ms)^        for: (\w+)$.*^          severity: (\w+)$", rule)[0][::-1]
        for name, rule in alerts().items()
    }


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_says_how_bad_it_is_what_it_means_and_why_it_waits_so_long(alert: str) -> None:
    rule = alerts()[alert]
    assert re.search(r"(?m)^        for: \d+m$", rule)
    assert re.match(r"      # \w.*", rule), "a comment says why it waits so long"
    assert re.search(r"(?m)^          severity: (critical|warning|info)$", rule)
    assert re.search(r"(?m)^          service: tcpnewconn$", rule)
    assert re.search(r"(?m)^          summary: .*\{\{ \$labels\.instance \}\}", rule)
    assert re.search(r"(?m)^          description: >-$", rule)


def test_recording_rules_are_named_as_level_metric_operations() -> None:
    for name in recorded():
        assert re.fullmatch(r"(instance|instance_\w+|job):tcpnewconn_\w+:[a-z]+(\d+[mh])?", name)


@pytest.mark.apt
def test_alertmanager_takes_the_route() -> None:
    assert "SUCCESS" in ran("amtool", "check-config", ROUTE)


@pytest.mark.apt
@pytest.mark.parametrize(("severity", "receiver"), [("critical", "pager"), ("warning", "mail"), ("info", "chat")])
def test_an_alert_goes_where_its_severity_wants_it(severity: str, receiver: str) -> None:
    labels = ("service=tcpnewconn", f"severity={severity}")
    told = ran("amtool", "config", "routes", "test", f"--config.file={ROUTE}", *labels)
    assert told.splitlines()[-1] == receiver


def test_the_route_knows_no_alert_that_does_not_exist() -> None:
    assert set(re.findall(r"Tcpnewconn\w+", ROUTE.read_text())) <= set(alerts())
