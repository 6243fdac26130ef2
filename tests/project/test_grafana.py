"""The dashboard: the committed JSON is that of its source, Grafana's own types accept it, every panel has a description."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.support import npm
from tests.support.terminal import TESTS, TREE

COMMITTED = TREE / "monitoring" / "grafana" / "tcpnewconn.json"
DASHBOARD: dict[str, Any] = json.loads(COMMITTED.read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
DRAWN = [panel for panel in PANELS if panel["type"] != "row"]

# The SDK knows only the expression of an annotation.
UNKNOWN_TO_THE_SDK = {f".annotations.list[0].{name}" for name in ("step", "tagKeys", "textFormat", "titleFormat")}


def test_the_committed_dashboard_is_that_of_its_source() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "monitoring.grafana.dashboard"], cwd=TREE, capture_output=True, text=True, check=True
    )

    assert made.stdout == COMMITTED.read_text()


def lost(before: object, after: object, path: str = "") -> Iterator[str]:
    """The paths at which the second does not have the values of the first; it may have more."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after[key], f"{path}.{key}") if key in after else [f"{path}.{key}"]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from lost(one, other, f"{path}[{index}]")
    elif before != after:
        yield path


def through_the_sdk(dashboard: dict[str, Any]) -> Any:
    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


def test_grafana_s_sdk_reads_it_and_loses_nothing() -> None:
    assert set(lost(DASHBOARD, through_the_sdk(DASHBOARD))) == UNKNOWN_TO_THE_SDK


def test_the_sdk_would_lose_what_it_does_not_know() -> None:
    wrong = json.loads(COMMITTED.read_text().replace('"graphMode"', '"graphmode"', 1))

    assert any(name.endswith(".options.graphmode") for name in lost(wrong, through_the_sdk(wrong)))


def compiled(directory: Path, dashboard: str) -> subprocess.CompletedProcess[str]:
    """The dashboard as a constant of the type that tests/fixtures/grafana/written.ts puts together, through tsc."""
    directory.mkdir()
    for name in ("written.ts", "tsconfig.json"):
        shutil.copy(TESTS / "fixtures" / "grafana" / name, directory)
    modules = npm.modules(TESTS / "fixtures" / "grafana")
    (directory / "node_modules").symlink_to(modules)
    (directory / "dashboard.ts").write_text(
        f'import type {{ Written }} from "./written";\nexport const dashboard: Written = {dashboard};\n'
    )
    return subprocess.run(
        ["node", modules / "typescript" / "bin" / "tsc", "--project", "."],
        cwd=directory,
        capture_output=True,
        text=True,
    )


@pytest.mark.apt
def test_it_has_the_types_of_grafana_s_schema(tmp_path: Path) -> None:
    done = compiled(tmp_path / "right", COMMITTED.read_text())

    assert done.returncode == 0, done.stdout


@pytest.mark.apt
def test_the_types_find_a_wrong_value_and_an_unknown_name(tmp_path: Path) -> None:
    wrong = COMMITTED.read_text().replace('"graphMode": "area"', '"graphMode": "hills"', 1)
    done = compiled(tmp_path / "wrong", wrong.replace('"showPoints"', '"showDots"', 1))

    assert done.returncode != 0
    assert '"hills"' in done.stdout
    assert '"showDots"' in done.stdout


@pytest.mark.parametrize("panel", DRAWN, ids=lambda panel: f"{panel['id']}-{panel['title']}")
def test_a_panel_says_what_it_shows_and_in_what_unit(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_have_ids_and_places_of_their_own() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= 24 - place["w"], panel["title"]
    for one, other in combinations(PANELS, 2):
        first, second = one["gridPos"], other["gridPos"]
        apart = (
            first["x"] + first["w"] <= second["x"]
            or second["x"] + second["w"] <= first["x"]
            or first["y"] + first["h"] <= second["y"]
            or second["y"] + second["h"] <= first["y"]
        )
        assert apart, f"{one['title']} lies over {other['title']}"


def test_there_is_a_row_for_the_fleet_and_one_for_each_chosen_host() -> None:
    rows = [(panel["title"], panel.get("repeat")) for panel in PANELS if panel["type"] == "row"]

    assert rows == [("All hosts", None), ("Host $instance", "instance")]


def test_an_expression_asks_only_the_chosen_hosts() -> None:
    fleet, host = (panel["gridPos"]["y"] for panel in PANELS if panel["type"] == "row")
    for panel in DRAWN:
        chosen = '{job=~"$job"}' if fleet < panel["gridPos"]["y"] < host else '{job=~"$job",instance=~"$instance"'
        for target in panel["targets"]:
            assert chosen in target["expr"], panel["title"]
            assert target["expr"].count(chosen.rstrip("}")) == target["expr"].count("{"), panel["title"]
