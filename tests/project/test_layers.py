"""The packages' imports: data flows one way, and so do they."""

import ast
import graphlib
from pathlib import Path

import pytest

from tests.support.terminal import TREE

PACKAGE = TREE / "tcpnewconn"

# The modules that each package or module may import; any other import runs against the flow.
ALLOWED: dict[str, set[str]] = {
    # Values; how text that is not printable is written.
    "__init__": set(),
    "model": set(),
    "eventtypes": {"model"},
    "text": set(),
    # The sources, and the settings.
    "settings": {"model", "text"},
    "kernel": {"model", "text"},
    "attribution": {"model", "text", "state", "kernel"},
    # The state log: record kinds, no meanings. Each owner writes and reads its own records.
    "state": set(),
    # The program of tcpnewconn-trace.service.
    "tracesetup": {"model", "text", "kernel", "settings"},
    # That of tcpnewconn-namespaces.service.
    "namespacesetup": {"kernel"},
    # Tracking: which connections are new.
    "tracking": {"model", "kernel", "state"},
    # The reports.
    "health": {"__init__", "model", "eventtypes", "settings", "text", "state"},
    "reporting": {"__init__", "model", "eventtypes", "settings", "text", "state", "attribution", "health"},
    # Sums of the journal, and the answers that they give. The service imports nothing of both.
    "ledger": {"__init__", "model", "settings", "text", "reporting"},
    "report": {"__init__", "model", "settings", "text", "reporting", "ledger"},
}
# Those that join them, each above the ones before it: one network namespace; the others; the service and its command line.
for joining in (
    "observing",
    "namespaces",
    "intake",
    "servicestatus",
    "polls",
    "wakeups",
    "service",
    "app",
    "arguments",
    "cli",
    "__main__",
):
    ALLOWED[joining] = set(ALLOWED) - ({"ledger", "report"} if joining not in ("arguments", "cli") else set())

MODULES = sorted(PACKAGE.rglob("*.py"))


def layer(module: Path) -> str:
    """The package below tcpnewconn/ that a file belongs to, or the module that it is."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def names_in(module: Path) -> list[list[str]]:
    """The parts of each name that a file imports of this program, without its own first part; wherever in the file."""
    found = []
    for node in ast.walk(ast.parse(module.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            names = [f"{node.module}.{each.name}" for each in node.names]
        found += [parts[1:] for parts in (name.split(".") for name in names) if parts[0] == "tcpnewconn"]
    return found


def imported(module: Path) -> set[str]:
    """Which packages and modules at the top a file imports."""
    found = {parts[0] if parts else "__init__" for parts in names_in(module)}
    return {name if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists() else "__init__" for name in found}


def files_of(module: Path) -> set[Path]:
    """The files that a file imports."""
    found = set()
    for parts in names_in(module):
        # The last part can be a name in a file.
        for path in (PACKAGE.joinpath(*parts), PACKAGE.joinpath(*parts[:-1])):
            if path.with_suffix(".py").exists():
                found.add(path.with_suffix(".py"))
                break
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_no_import_runs_against_the_flow(module: Path) -> None:
    here = layer(module)
    assert here in ALLOWED, f"say in the table what {here} may import"
    assert imported(module) - {here} <= ALLOWED[here]


def test_no_import_goes_in_a_circle_within_a_package_either() -> None:
    with_imports = {module: files_of(module) for module in MODULES}
    assert sum(map(len, with_imports.values())) > len(MODULES)
    # Raises CycleError, with the circle.
    graphlib.TopologicalSorter(with_imports).prepare()
