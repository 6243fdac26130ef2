"""The real chain: tcpnewconn -> node_exporter -> Prometheus -> Alertmanager -> a webhook.

The first two are units of Debian 13 in a booted container, the others run in the network namespace at the other end of its veth.
Prometheus and Alertmanager have the shipped rules and route with their times divided by SPEED, so that no test waits for minutes:
`for`, the windows of counters, the waits of the route. The thresholds, such as three intervals, are as shipped. The unit tests
of the rules have the shipped times.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.support import built, root_image
from tests.support.booted import CONTAINER_ADDRESS, Booted, booted
from tests.support.booted_package import METRICS, add_repository, install

MONITORING = built.TREE / "monitoring"
SPEED = 30
INTERVAL = 3
LINK = "/var/lib/prometheus/node-exporter/tcpnewconn.prom"
INSTANCE = f"{CONTAINER_ADDRESS}:9100"
PROMETHEUS, ALERTMANAGER, WEBHOOK = 9090, 9093, 9095

TIMES = re.compile(r"((?:(?:for|group_wait): )|(?:increase|changes)\(\w+\[)(\d+)([smh])\b")
# A busy machine fires it by itself.
LEFT_OUT = "alert: TcpnewconnPollsSkipped"

SETTINGS = f"""
[Poll]
Interval={INTERVAL}s
[Report]
# The scrapes.
Ignore=:9100
BurstLimit=0
TotalLimit=0
"""

PROMETHEUS_CONFIGURATION = f"""
global: {{scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 1s}}
rule_files: [rules/tcpnewconn.*.yml]
alerting:
  alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{ALERTMANAGER}"]}}]}}]
scrape_configs:
  - job_name: node
    static_configs: [{{targets: ["{INSTANCE}"]}}]
"""


class Chain:
    """The chain, running."""

    def __init__(self, container: Booted, directory: Path) -> None:
        self.container = container
        self._directory = directory
        self._programs: list[subprocess.Popen[bytes]] = []
        self._clock = time.time() - time.monotonic()

    def start(self) -> None:
        (self._directory / "rules").mkdir()
        for file in (MONITORING / "prometheus").glob("*.yml"):
            (self._directory / "rules" / file.name).write_text(faster(file.read_text()))
        (self._directory / "prometheus.yml").write_text(PROMETHEUS_CONFIGURATION)
        route = faster((MONITORING / "alertmanager" / "tcpnewconn.yml").read_text())
        # Alertmanager reports resolved alerts at once, those of every severity.
        route = route.replace("group_interval: 5m", "group_interval: 1s").replace("resolved: false", "resolved: true")
        (self._directory / "alertmanager.yml").write_text(route)
        self._run(
            "prometheus-alertmanager",
            f"--config.file={self._directory}/alertmanager.yml",
            f"--storage.path={self._directory}/alertmanager",
            f"--web.listen-address=127.0.0.1:{ALERTMANAGER}",
            "--cluster.listen-address=",
        )
        self._prometheus = self._run(
            "prometheus",
            f"--config.file={self._directory}/prometheus.yml",
            f"--storage.tsdb.path={self._directory}/prometheus",
            f"--web.listen-address=127.0.0.1:{PROMETHEUS}",
        )
        self._launch(
            sys.executable,
            "-m",
            "tests.support.webhook",
            str(WEBHOOK),
            str(self._directory / "received"),
            log="webhook",
        )
        self.wait_for(lambda: self.values("tcpnewconn_build_info"), "Prometheus to have tcpnewconn's metrics")

    def stop(self) -> None:
        for program in self._programs:
            program.terminate()
        for program in self._programs:
            program.wait(60)

    @contextmanager
    def unscraped(self) -> Iterator[None]:
        """Prometheus sees what was before and what is after.

        Where times are a thirtieth, what one scrape sees lasts until the next one: as long as a rule waits.
        """
        self._prometheus.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._prometheus.send_signal(signal.SIGCONT)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The vector that an instant query returns, as Prometheus spells it: metric, value."""
        url = f"http://127.0.0.1:{PROMETHEUS}/api/v1/query?{urlencode({'query': expression})}"
        answer = json.loads(self._get(url) or '{"data": {"result": []}}')
        if answer.get("status") == "error":
            raise AssertionError(f"{expression}: {answer['error']}")
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def values(self, expression: str) -> list[float]:
        return [float(sample["value"][1]) for sample in self.query(expression)]

    def firing(self, since: float | None = None) -> set[str]:
        """The alerts that fire in Prometheus now, or that fired at any time since then."""
        alerts = 'ALERTS{alertstate="firing"}'
        if since is not None:
            alerts = f"last_over_time({alerts}[{max(1, int((time.time() - since) * 1000))}ms])"
        return {sample["metric"]["alertname"] for sample in self.query(alerts)}

    def history(self, since: float) -> str:
        """What there was since then: alerts and what they depend on, what was received; and whether the clock was set."""
        seconds = int(time.time() - since) + 1
        names = ("ALERTS", "tcpnewconn_(last_poll_timestamp_seconds|running|journal_entries_waiting)", "up")
        series = [one for name in names for one in self.query(f'{{__name__=~"{name}"}}[{seconds}s]')]
        lines = [f"{one['metric']}: {one['values']}" for one in series]
        lines += [f"received: {one}" for one in self.received(since)]
        # A machine that is continued after a pause sets it forward.
        set_forward = time.time() - time.monotonic() - self._clock
        return "\n".join([*lines, f"the clock was set forward by {set_forward:.3f} s since the start"])

    def received(self, since: float = 0) -> list[dict[str, Any]]:
        """The messages that the webhook received."""
        file = self._directory / "received"
        lines = file.read_text().splitlines() if file.exists() else []
        return [one for one in map(json.loads, lines) if one["came"] >= since]

    def inhibited(self) -> set[str]:
        """The alerts that Alertmanager mutes because of an inhibit rule."""
        url = f"http://127.0.0.1:{ALERTMANAGER}/api/v2/alerts?active=false&silenced=false&inhibited=true"
        return {alert["labels"]["alertname"] for alert in json.loads(self._get(url) or "[]")}

    def wait_for(self, condition: Any, what: str, within: float = 120) -> Any:
        try:
            return self.container.wait_for(condition, what, within=within)
        except AssertionError as error:
            logs = "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in self._directory.glob("*.log"))
            metrics = self.container.run("cat", METRICS, check=False)
            raise AssertionError(f"{error}\n{logs}\n{self.history(time.time() - within)}\n{metrics}") from None

    def _get(self, url: str) -> str:
        """An empty text where nothing answers yet, or only that it is starting."""
        answer = self.container.from_peer("sh", "-c", 'curl --silent --globoff "$1" || true', "-", url)
        return answer if answer.startswith(("{", "[")) else ""

    def _run(self, program: str, *options: str) -> "subprocess.Popen[bytes]":
        programs = root_image.monitoring_programs()
        # Alertmanager wants its templates in /usr/share, where Debian's package would have put them.
        shared = 'mount --bind "$1" /usr/share && shift && exec "$@"'
        apart = ("unshare", "--mount", "sh", "-c", shared, "-", str(programs / "share"))
        return self._launch(*apart, str(programs / "bin" / program), *options, log=program)

    def _launch(self, *command: str, log: str) -> "subprocess.Popen[bytes]":
        """It becomes the program itself, by exec."""
        kept = self._directory / f"{log}.log"
        # It ends with the test worker, however that ends.
        script = f'cd {built.TREE} && exec setpriv --pdeathsig KILL "$@" 2>{kept}'
        self._programs.append(self.container.start_from_peer("sh", "-c", script, "-", *command))
        return self._programs[-1]


def faster(text: str) -> str:
    """Rules or a route with their times divided by SPEED; the recording rules, which the dashboard uses, stay as they are."""

    def divided(match: re.Match[str]) -> str:
        seconds = int(match[2]) * {"s": 1, "m": 60, "h": 3600}[match[3]]
        return f"{match[1]}{max(1, seconds // SPEED) if seconds else 0}s"

    rules = re.split(r"(?m)(?=^      - )", text)
    return "".join(rule if "record: " in rule else TIMES.sub(divided, rule) for rule in rules if LEFT_OUT not in rule)


@contextmanager
def monitored(directory: Path) -> Iterator[Chain]:
    """`directory` is for the files of the programs, such as a test's tmp_path."""
    with booted("trixie") as container:
        container.write("/etc/tcpnewconn.conf.d/chain.conf", SETTINGS)
        add_repository(container, built.deb())
        install(container)
        container.run("ln", "--symbolic", METRICS, LINK)
        container.run("systemctl", "start", "prometheus-node-exporter.service")
        chain = Chain(container, directory)
        try:
            chain.start()
            yield chain
        finally:
            chain.stop()
            # Otherwise it may take 20 s to stop.
            container.run("systemctl", "kill", "--signal=KILL", "prometheus-node-exporter.service", check=False)
