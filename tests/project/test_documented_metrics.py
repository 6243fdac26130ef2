"""docs/metrics.md against the code."""

import re

from tcpnewconn.health.counters import Counters, ServiceStatistics
from tcpnewconn.health.metrics import METRICS, PREFIX, exposition
from tests.support import exposition as written
from tests.support.terminal import TREE


def labels_of(name: str) -> str:
    """As the table has them: each label with its values, but for that of the version."""
    values: dict[str, dict[str, None]] = {}
    for one in written.series(exposition(Counters(), ServiceStatistics(10.0))):
        if re.fullmatch(rf"{name}(_sum|_count)?(\{{.*\}})?", one):
            for label, value in re.findall(r'(\w+)="([^"]*)"', one):
                values.setdefault(label, {})[f"`{value}`"] = None
    listed = (
        f"`{label}`: {', '.join(given)}" if label != "version" else "`version`" for label, given in values.items()
    )
    return "; ".join(listed)


def test_every_metric_is_documented_with_its_type_labels_and_meaning_and_no_other() -> None:
    lines = re.findall(r"(?m)^\| `tcpnewconn_.*$", (TREE / "docs" / "metrics.md").read_text())
    documented = [tuple(cell.strip() for cell in line.split("|")[1:5]) for line in lines]
    names = [PREFIX + metric.name for metric in METRICS]
    assert documented == [
        (f"`{name}`", metric.kind, labels_of(name), metric.meaning) for name, metric in zip(names, METRICS, strict=True)
    ]
