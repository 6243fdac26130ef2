"""The package of this tree, built with packaging/make-deb.

It is built once per state of its sources; tests, workers of pytest-xdist and later sessions share it.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tcpnewconn-tests"


def deb() -> Path:
    """The .deb of this tree."""
    return deb_in(package())


def deb_of_version(version: str) -> Path:
    """The .deb of this tree as if its version were another, such as "0.1.1": something to upgrade to."""
    return deb_in(package(version=version))


def deb_in(directory: Path) -> Path:
    (found,) = directory.glob("*.deb")
    return found


def package(*, version: str | None = None, stdeb: bool = False, again: bool = False) -> Path:
    """The directory with .dsc, .deb, .changes and sdist of this tree; in a release, those to be released.

    version: another one than the tree's; stdeb: with stdeb's own control, rules and changelog; again: a second build of
    the same, as another person in another place would make it.
    """
    released = os.environ.get("TCPNEWCONN_PACKAGE")
    if released and version is None and not stdeb and not again:
        return Path(released)
    name = f"{state()}{f'-{version}' if version else ''}{'-stdeb' if stdeb else ''}{'-again' if again else ''}"
    directory = CACHE / "debs" / name
    with lock(CACHE / "debs" / f"{name}.lock"):
        if not directory.exists():
            _forget_old()
            _build(directory, version, stdeb, again)
    return directory


def state() -> str:
    """A hash of the tree: all of it goes into the sdist, if not into the .deb."""
    digest = hashlib.sha256()
    for name in _listed():
        path = TREE / name
        digest.update(f"{name}\0{path.stat().st_mode:o}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def copy_of_tree(directory: Path) -> Path:
    """A scratch copy."""
    for name in _listed():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(TREE / name, directory / name, follow_symlinks=False)
    return directory


def _listed() -> list[str]:
    """The files that git knows or would add, and that are there."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    listed = subprocess.run(command, cwd=TREE, check=True, capture_output=True).stdout.decode()
    return sorted(name for name in listed.split("\0") if name and (TREE / name).is_file())


def set_version(tree: Path, version: str) -> None:
    """Gives a scratch copy another version, at the two places where it stands."""
    module = tree / "tcpnewconn" / "__init__.py"
    module.write_text(re.sub(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', module.read_text()))
    changelog = tree / "debian" / "changelog"
    newest = changelog.read_text().split("\n\n", 1)[0]
    entry = re.sub(r"\(.*?\)", f"({version}-1)", newest)
    signed = re.search(r"(?m)^ -- .*$", changelog.read_text())
    assert signed
    changelog.write_text(f"{entry}\n\n  * Made for a test.\n\n{signed.group()}\n\n{changelog.read_text()}")


def _build(directory: Path, version: str | None, stdeb: bool, again: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        tree = TREE
        if version is not None:
            tree = copy_of_tree(Path(scratch) / "tree")
            set_version(tree, version)
        results = Path(scratch) / "results"
        options = ["--stdeb"] if stdeb else []
        elsewhere = {"TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "HOME": scratch, "TMPDIR": scratch}
        built = subprocess.run(
            [TREE / "packaging" / "make-deb", *options, tree, results],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | (elsewhere if again else {}),
            umask=0o027 if again else 0o022,
        )
        if built.returncode:
            raise AssertionError(f"make-deb failed:\n{built.stdout}")
        (results / "build.log").write_text(built.stdout)
        unfinished = directory.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(results, unfinished)
        unfinished.rename(directory)


def _forget_old(keep: int = 20) -> None:
    """The cache holds the last few states only."""
    directories = sorted((p for p in (CACHE / "debs").iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime)
    for old in directories[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
