"""A test's directory says what it needs, and is its marker: `pytest -m unit`. The slowest tests begin first.

Hypothesis makes the same examples each time, so that a tree that passed passes again. TCPNEWCONN_EXAMPLES=200000 searches among
new ones (of each module's tests, and of the histories of tests/model).
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

HERE = Path(__file__).parent
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("new", deadline=None, max_examples=int(os.environ.get("TCPNEWCONN_EXAMPLES", 0)) // 8 or 1)
settings.load_profile("new" if "TCPNEWCONN_EXAMPLES" in os.environ else "same")
# The longest begin first, so that none is left alone in the end. Booted systems take their tests one after the other. Of the
# files that share one (booted/conftest.py), each has its turn: the first installs the package, the last purges it.
ORDER = (
    "project/test_stages",
    "project/test_release",
    "project/test_package",
    "unit/test_exporter",
    "kernel/test_soak",
    # These wait for TIME_WAIT, which lasts a minute.
    "kernel/test_kernel_killed",
    "kernel/test_kernel_held",
    "kernel/test_hostile",
    "fleet/test_fleet",
    "fleet/test_monitoring",
    "machine/test_vm",
    "booted/test_booted_engines",
    "booted/test_booted_restart",
    "booted/test_booted_crashes",
    "booted/test_booted_flood",
    "booted/test_booted_namespace",
    "booted/test_booted_metrics",
    "booted/test_booted_install",
    "booted/test_booted_configuration",
    "booted/test_booted_sandbox",
    "booted/test_booted_autopkgtest",
    "booted/test_booted_purge",
    "booted/test_booted_state",
    "booted/test_booted_journald",
)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory on tmpfs."""
    with tempfile.TemporaryDirectory(prefix="tcpnewconn-", dir="/dev/shm") as directory:
        yield Path(directory)


# After pytest's own, which puts together what shares a fixture.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    names = [str(item.path.relative_to(HERE).with_suffix("")) for item in items]
    for item, name in zip(items, names, strict=True):
        item.add_marker(name.partition("/")[0])
    ranked = sorted(zip(names, items, strict=True), key=lambda each: _rank(each[0]))
    items[:] = [item for _, item in ranked]


def _rank(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Print a failure when it happens: who ends a long run before its end sees it, too."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        crash = getattr(report.longrepr, "reprcrash", None)
        print(f"\n{report.nodeid}: {report.when} failed: {crash.message if crash else report.longrepr}", flush=True)
