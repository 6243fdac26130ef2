"""Records the data of the dashboard: Prometheus scrapes a small fleet for a while; then every expression is evaluated.

python3 -m monitoring.grafana.picture.record run MINUTES DIRECTORY
python3 -m monitoring.grafana.picture.record ask DIRECTORY >recorded.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from monitoring.grafana.asking import expressions
from monitoring.grafana.panels import Json
from monitoring.grafana.picture.fleet import Host, hosts, with_a_small_buffer, without_notifications
from monitoring.grafana.picture.traffic import Flow, Traffic
from tests.support.terminal import TREE

# The same as panels.INTERVAL.
STEP = 60
PROMETHEUS = "127.0.0.1:19190"
RULES = TREE / "monitoring" / "prometheus" / "tcpnewconn.recording.yml"
DASHBOARD = TREE / "monitoring" / "grafana" / "tcpnewconn.json"
# The host whose row is in the picture.
CHOSEN = "web-1"
WATCHED = ("web-1", "web-2", "db-1", "cache-1", "mail-1")


def flows(client: Host, web_1: Host, web_2: Host, database: Host, cache: Host, mail: Host) -> list[Flow]:
    return [
        Flow(client, web_1, 443, 14),
        Flow(client, web_1, 443, 7, ipv6=True),
        Flow(client, web_1, 443, 0.8, lasting=60),
        Flow(client, web_2, 443, 9),
        Flow(client, web_2, 443, 4, ipv6=True),
        Flow(web_1, database, 5432, 5),
        Flow(web_1, database, 5432, 0.1, lasting=240),
        Flow(web_2, database, 5432, 3),
        Flow(web_1, cache, 6379, 4, ipv6=True),
        Flow(web_2, cache, 6379, 2, ipv6=True),
        Flow(web_1, web_1, 9000, 3),
        Flow(database, database, 5432, 0.5),
        Flow(client, mail, 25, 0.6, lasting=5),
        Flow(mail, client, 25, 0.4),
    ]


def events(client: Host, web: Host, traffic: Traffic) -> list[tuple[float, Callable[[], None]]]:
    """Other events of a host, each at a share of the time. While the service hangs, its receive buffer overflows."""
    burst, flood = Flow(client, web, 443, 1), Flow(client, web, 80, 1)
    return [
        (0.25, web.restart),
        (0.4, lambda: traffic.connect(burst, 600)),
        (0.5, lambda: traffic.scan(client, web, range(8000, 8008))),
        (0.65, web.suspend),
        (0.7, lambda: traffic.connect(flood, 8000)),
        (0.74, web.resume),
    ]


@contextmanager
def prometheus(fleet: list[Host], directory: Path) -> Iterator[None]:
    """A Prometheus that scrapes these hosts with Debian's intervals, and has the recording rules."""
    targets = [{"targets": [host.exporter], "labels": {"instance": host.name}} for host in fleet]
    configuration = {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": [str(RULES)] if fleet else [],
        "scrape_configs": [{"job_name": "node", "static_configs": targets}],
    }
    (directory / "prometheus.yml").write_text(json.dumps(configuration))
    command = ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/tsdb"]
    with (directory / "prometheus.log").open("w") as log:
        program = subprocess.Popen([*command, f"--web.listen-address={PROMETHEUS}"], stderr=log)
    try:
        yield
    finally:
        program.terminate()
        program.wait()


def asked(path: str, **parameters: object) -> list[Json]:
    url = f"http://{PROMETHEUS}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        found: list[Json] = json.load(answer)["data"]["result"]
    return found


def run(minutes: float, directory: Path) -> None:
    with ExitStack() as stack:
        directory.mkdir()
        settings = directory / "settings"
        settings.write_text("[PortScan]\nPorts=3\n")
        client, *fleet = stack.enter_context(hosts(("client", *WATCHED), directory))
        web_1, web_2, database, cache, mail = fleet
        through = {web_1.name: with_a_small_buffer(), mail.name: without_notifications(directory)}
        for host in fleet:
            options = ("--config", str(settings))
            stack.enter_context(host.watched(*options, through=through.get(host.name, ())))
        stack.enter_context(prometheus(fleet, directory))
        traffic = Traffic(flows(client, web_1, web_2, database, cache, mail))
        traffic.start()
        stack.callback(traffic.stop)
        begin = time.time()
        for share, happens in events(client, web_1, traffic):
            time.sleep(max(0.0, begin + 60 * minutes * share - time.time()))
            happens()
        time.sleep(max(0.0, begin + 60 * minutes - time.time()))
        # The first minute has no rates.
        (directory / "time.json").write_text(json.dumps([begin + 60, time.time()]))


def ask(directory: Path) -> Json:
    """The answer to every expression of the dashboard, over the recorded time or at its end."""
    # Grafana, too, evaluates at whole steps.
    begin, end = (STEP * (moment // STEP) for moment in json.loads((directory / "time.json").read_text()))
    dashboard = json.loads(DASHBOARD.read_text())
    answers = []
    with prometheus([], directory):
        wait_for_it()
        for each in expressions(dashboard, {"job": "node", "instance": CHOSEN}):
            if each.instant:
                result = asked("query", query=each.expr, time=end)
            else:
                result = asked("query_range", query=each.expr, start=begin, end=end, step=STEP)
            answers.append({"panel": each.panel, "query": each.query, "result": result})
    return {"from": begin, "to": end, "host": CHOSEN, "step": STEP, "answers": answers}


def wait_for_it() -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            asked("query", query="1")
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def main() -> None:
    match sys.argv[1:]:
        case ["run", minutes, directory]:
            run(float(minutes), Path(directory))
        case ["ask", directory]:
            json.dump(ask(Path(directory)), sys.stdout)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
