"""Every file, page and man page that the installed package names exists."""

import functools
import gzip
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import built
from tests.support.debfile import unpacked

pytestmark = pytest.mark.apt

DOCUMENTATION = "usr/share/doc/tcpnewconn"
REPOSITORY = "https://github.com/tcpnewconn/tcpnewconn/"
# A file of ours, in running text: up to what cannot be part of a name here.
OURS = re.compile(r"(?<![\w.])/(?:usr|etc|var/lib|run)/[\w./@-]*tcpnewconn[\w./@-]*\w")
# They exist while the service runs, and after it (tests/booted looks there).
MADE_BY_THE_SERVICE = re.compile(
    r"/(var/lib|run)/tcpnewconn(-ledger)?(/(snapshot|state\.tail|tcpnewconn\.prom|trace\.repair|ledger\.db))?"
    r"|/run/tcpnewconn-trace/instance"
)
# They exist where an administrator made them.
MADE_BY_ADMINISTRATORS = re.compile(
    r"/(etc|run|usr/lib|usr/local/lib)/tcpnewconn\.conf(\.d(/[\w-]+\.conf)?)?"
    r"|/etc/systemd/system/tcpnewconn(-metrics|-trace)?\.\w+\.d(/[\w-]+\.conf)?"
    r"|/etc/systemd/system/tcpnewconn-journal-upload\.service|/var/lib/tcpnewconn-journal-upload/state"
    r"|/etc/systemd/journald@tcpnewconn\.conf\.d(/[\w-]+\.conf)?"
    r"|/etc/fail2ban/jail\.d/tcpnewconn-portscan\.local"
    r"|/etc/(apt|rsyslog\.d|modules-load\.d)/\S+|/var/lib/(prometheus/node-exporter|systemd/journal-upload)/\S+"
)


@functools.cache
def root() -> Path:
    return unpacked(built.deb(), Path(tempfile.mkdtemp(prefix="tcpnewconn-pointers-")))


def pages(section: str) -> Iterator[Path]:
    yield from root().glob(f"usr/share/man/man{section}/*.gz")


def man_pages() -> list[str]:
    names = sorted(path.name.removesuffix(".gz") for path in pages("[0-9]"))
    assert len(names) >= 3
    return names


def man_page(name: str) -> str:
    """Without roff's escapes, as far as names of files and pages need it."""
    text = gzip.decompress((root() / "usr/share/man" / f"man{name[-1]}" / f"{name}.gz").read_bytes()).decode()
    return re.sub(r"\\f.|\\&", "", text).replace("\\-", "-")


def texts() -> dict[str, str]:
    """Everything a person reads of the package: documentation, units, configuration."""
    kinds = (".md", ".conf", ".service", ".socket", ".yml", ".catalog")
    found = {str(path.relative_to(root())): path.read_text() for path in root().rglob("*") if path.suffix in kinds}
    return found | {name: man_page(name) for name in man_pages()}


def exists(path: str) -> bool:
    return (root() / path.lstrip("/")).exists()


def test_every_file_of_ours_that_a_text_names_is_in_the_package_or_made_by_somebody_named() -> None:
    named = {(where, path) for where, text in texts().items() for path in OURS.findall(text)}
    assert len(named) > 20
    elsewhere = re.compile(f"{MADE_BY_THE_SERVICE.pattern}|{MADE_BY_ADMINISTRATORS.pattern}")
    assert [(where, path) for where, path in sorted(named) if not elsewhere.fullmatch(path) and not exists(path)] == []


def test_every_man_page_refers_to_others_of_ours_and_they_exist() -> None:
    for name in man_pages():
        references = {
            f"{page}.{section}" for page, section in re.findall(r"\b(tcpnewconn[\w.]*)\((\d)\)", man_page(name))
        }
        assert references - {name}
        assert references <= set(man_pages())


def test_the_documentation_of_every_unit_is_there() -> None:
    units = list((root() / "usr/lib/systemd/system").iterdir())
    assert len(units) >= 4
    for unit in units:
        ((_, *documented),) = (
            re.split(r"[= ]", line) for line in unit.read_text().splitlines() if line.startswith("Documentation=")
        )
        assert documented
        for pointer in documented:
            kind, _, target = pointer.partition(":")
            if kind == "man":
                page = re.fullmatch(r"(.+)\((\d)\)", target)
                assert page, pointer
                assert f"{page[1]}.{page[2]}" in man_pages()
            else:
                assert kind == "file", pointer
                assert exists(target), pointer


def test_the_runbook_of_every_alert_is_there_without_the_network_too() -> None:
    rules = (root() / DOCUMENTATION / "examples/prometheus/tcpnewconn.rules.yml").read_text()
    urls = re.findall(r"runbook_url: (\S+)", rules)
    assert len(urls) == rules.count("- alert: ") > 0
    for url in urls:
        assert url.startswith(f"{REPOSITORY}blob/main/docs/runbooks/")
        assert exists(f"{DOCUMENTATION}/{url.removeprefix(f'{REPOSITORY}blob/main/')}")


def test_every_link_in_the_documentation_leads_to_a_file_beside_it_or_into_the_repository() -> None:
    pages = [*(root() / DOCUMENTATION).rglob("*.md")]
    assert len(pages) > 10
    links = [(page, target) for page in pages for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())]
    assert len(links) > 30
    for page, target in links:
        if target.startswith(REPOSITORY):
            kind, _, path = target.removeprefix(REPOSITORY).partition("/main/")
            assert {"blob": (built.TREE / path).is_file(), "tree": (built.TREE / path).is_dir()}[kind], (page, target)
        elif not re.match(r"https?:", target):
            assert (page.parent / target).exists(), (page, target)


def test_nothing_that_links_lead_to_is_compressed() -> None:
    compressed = {path.name for path in (root() / DOCUMENTATION).rglob("*.gz")}
    assert compressed == {"changelog.gz", "changelog.Debian.gz", "NEWS.Debian.gz"}
