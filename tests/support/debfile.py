"""Looks into a .deb."""

import email
import email.message
import subprocess
import tarfile
import tempfile
from pathlib import Path

MAINTAINER_SCRIPTS = ("preinst", "postinst", "prerm", "postrm", "conffiles", "triggers")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """The output of a command, which must succeed."""
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stdout}"
    return done.stdout


def files_in(deb: Path) -> dict[str, tarfile.TarInfo]:
    """The files that a .deb installs, by path."""
    archive = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], check=True, capture_output=True).stdout
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            return {member.name.removeprefix("."): member for member in tar.getmembers()}


def control_of(deb: Path, directory: Path) -> dict[str, str]:
    """The maintainer scripts and their like, without the version of debhelper that wrote them."""
    run("dpkg-deb", "--control", deb, directory)
    return {name: (directory / name).read_text() for name in MAINTAINER_SCRIPTS if (directory / name).exists()}


def fields_of(deb: Path) -> email.message.Message:
    return email.message_from_string(run("dpkg-deb", "--field", deb))


def unpacked(deb: Path, directory: Path) -> Path:
    """The package's files, below a root of their own."""
    run("dpkg-deb", "--extract", deb, directory)
    return directory
