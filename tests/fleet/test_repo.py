"""`make repo`: several versions in one signed repository, and what Debian 12's and 13's own apt make of it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tcpnewconn
from tests.support import built, root_image
from tests.support.booted import make_root, place_of_its_own
from tests.support.booted_package import HIGHER_VERSION
from tests.support.namespace import Namespace, namespace
from tests.support.signed_repository import Signer, published, signer

OLD, NEW = f"{tcpnewconn.__version__}-1", f"{HIGHER_VERSION}-1"
SOURCES = """\
Types: deb
URIs: http://127.0.0.1:8080/
Suites: ./
Signed-By: /etc/apt/keyrings/tcpnewconn.asc
"""


@pytest.fixture(scope="module")
def key() -> Iterator[Signer]:
    with signer() as made:
        yield made


@pytest.fixture(scope="module")
def repository(key: Signer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions, published one after the other."""
    directory = tmp_path_factory.mktemp("published") / "repository"
    published(key, directory, built.deb())
    published(key, directory, built.deb_of_version(HIGHER_VERSION))
    return directory


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(f"repo-{name}")) for name in root_image.DISTRIBUTIONS],
)
def root(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A Debian's files. Not booted: apt needs no more."""
    with place_of_its_own() as place:
        make_root(root_image.container_tar(request.param), place)
        directory = place / "root"
        (directory / "etc/apt/sources.list.d/tcpnewconn.sources").write_text(SOURCES)
        yield directory


class Apt:
    """apt of a root, with a copy of the repository that a test may spoil, on a web server on loopback."""

    def __init__(self, root: Path, repository: Path, network: Namespace) -> None:
        self.root = root
        self.network = network
        self.repository = root / "srv/repository"
        shutil.rmtree(self.repository, ignore_errors=True)
        shutil.copytree(repository, self.repository)
        self.trust(repository / "key.asc")
        for directory in ("var/lib/apt/lists", "var/cache/apt"):
            shutil.rmtree(root / directory, ignore_errors=True)
            (root / directory).mkdir()

    def trust(self, key: Path) -> None:
        shutil.copy(key, self.root / "etc/apt/keyrings/tcpnewconn.asc")

    def __call__(self, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            self.network.command("chroot", str(self.root), *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        )
        return done.returncode, done.stdout

    def refuses(self) -> str:
        """The output of apt about the repository, of whose packages it must know none."""
        status, said = self("apt-get", "update", "--error-on=any")
        assert status != 0, said
        assert "tcpnewconn" not in self("apt-cache", "pkgnames")[1].split()
        return said


@pytest.fixture
def apt(root: Path, repository: Path) -> Iterator[Apt]:
    with namespace() as network:
        apt = Apt(root, repository, network)
        serve = ["-m", "http.server", "8080", "--bind=127.0.0.1", f"--directory={apt.repository}"]
        server = subprocess.Popen(network.command(sys.executable, *serve), stderr=subprocess.DEVNULL)
        try:
            network.output(*["curl", "--silent", "--retry", "30", "--retry-connrefused", "http://127.0.0.1:8080/"])
            yield apt
        finally:
            server.terminate()
            server.wait()


def test_apt_finds_every_version_and_fetches_any_of_them(apt: Apt) -> None:
    status, said = apt("apt-get", "update", "--error-on=any")
    assert status == 0, said
    versions = [line.split("|")[1].strip() for line in apt("apt-cache", "madison", "tcpnewconn")[1].splitlines()]
    assert versions == [NEW, OLD]
    for version in (NEW, OLD):
        status, said = apt("apt-get", "install", "--yes", "--allow-downgrades", f"tcpnewconn={version}")
        assert status == 0, said
        assert f"Setting up tcpnewconn ({version})" in said
        assert "cannot be authenticated" not in said
    apt("dpkg", "--purge", "tcpnewconn")


def test_a_host_that_reads_while_the_next_version_is_published_sees_one_state(apt: Apt) -> None:
    """InRelease is read first; the index that it names must be there although another has taken its place."""
    for index in apt.repository.glob("Packages*"):
        index.write_text("of the next version")
    status, said = apt("apt-get", "update", "--error-on=any")
    assert status == 0, said
    assert "tcpnewconn" in apt("apt-cache", "pkgnames")[1].split()


def test_a_tampered_index_is_refused(apt: Apt) -> None:
    for index in [*apt.repository.glob("Packages*"), *apt.repository.glob("by-hash/*/*")]:
        contents = bytearray(index.read_bytes())
        contents[len(contents) // 2] ^= 1
        index.write_bytes(contents)
    assert "mismatch" in apt.refuses().lower()


def test_an_index_that_lists_another_package_is_refused_though_its_checksums_agree(apt: Apt) -> None:
    """An index as an attacker would write it who can change the web server and does not have the key."""
    signed = apt.repository / "InRelease"
    signed.write_text(signed.read_text().replace("Label: tcpnewconn", "Label: something else"))
    said = apt.refuses()
    assert "not signed" in said or "BADSIG" in said or "signature" in said.lower()


def test_an_unsigned_repository_is_refused(apt: Apt) -> None:
    (apt.repository / "InRelease").unlink()
    assert "is not signed" in apt.refuses()


def test_a_wrong_key_is_refused(apt: Apt, repository: Path, tmp_path: Path) -> None:
    with signer("somebody") as other:
        published(other, tmp_path / "theirs", built.deb())
    apt.trust(tmp_path / "theirs" / "key.asc")
    assert "is not signed" in apt.refuses()


def test_a_tampered_package_is_refused(apt: Apt) -> None:
    assert apt("apt-get", "update", "--error-on=any")[0] == 0
    (deb,) = apt.repository.glob(f"*_{NEW}_*.deb")
    contents = bytearray(deb.read_bytes())
    contents[-100] ^= 1
    deb.write_bytes(contents)
    status, said = apt("apt-get", "install", "--yes", "tcpnewconn")
    assert status != 0
    assert "mismatch" in said.lower()
    assert apt("dpkg-query", "--show", "tcpnewconn")[0] != 0


def test_make_repo_publishes_what_it_is_given(key: Signer, tmp_path: Path) -> None:
    made = tmp_path / "repository"
    command = ["make", "--silent", "repo", f"REPOSITORY={made}", f"DEBS={built.deb()}", "KEY=tests@example.org"]
    done = subprocess.run(command, cwd=built.TREE, env=key.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Version: {OLD}" in (made / "Packages").read_text()


def test_a_published_package_is_never_replaced(key: Signer, repository: Path, tmp_path: Path) -> None:
    (published_deb,) = repository.glob(f"*_{NEW}_*.deb")
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    other = tmp_path / published_deb.name
    other.write_bytes(published_deb.read_bytes() + b" ")
    done = key.publish(repository, other)
    assert done.returncode != 0
    assert "give it another version" in done.stdout
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_a_repository_that_cannot_be_signed_stays_as_it_was(repository: Path, tmp_path: Path) -> None:
    nobody = Signer(tmp_path)
    before = (repository / "InRelease").read_bytes()
    try:
        done = nobody.publish(repository, built.deb_of_version(HIGHER_VERSION))
    finally:
        nobody.end()
    assert done.returncode != 0
    assert (repository / "InRelease").read_bytes() == before
