"""A signed apt repository, made by packaging/make-repo with a key that exists for the length of a test."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import built

MAKE_REPO = built.TREE / "packaging" / "make-repo"


@dataclass(frozen=True)
class Signer:
    """A gpg home directory that holds one secret key without a passphrase."""

    home: Path

    def publish(self, repository: Path, *debs: Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [MAKE_REPO, repository, *debs],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(),
            check=False,
        )

    def end(self) -> None:
        """Ends the agent that gpg has started."""
        subprocess.run(["gpgconf", "--kill", "all"], env=self.environment(), check=True)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "GNUPGHOME": str(self.home), "PATH": "/usr/bin:/bin"}


@contextmanager
def signer(name: str = "tests") -> Iterator[Signer]:
    # A short path of its own: gpg-agent's sockets are in there.
    with tempfile.TemporaryDirectory(prefix="key-", dir="/tmp") as home:
        made = Signer(Path(home))
        new = ["--passphrase", "", "--quick-generate-key", f"{name} <{name}@example.org>", "ed25519", "sign", "never"]
        subprocess.run(["gpg", "--batch", "--quiet", *new], env=made.environment(), capture_output=True, check=True)
        try:
            yield made
        finally:
            made.end()


def published(signer: Signer, repository: Path, *debs: Path) -> None:
    done = signer.publish(repository, *debs)
    assert done.returncode == 0, done.stdout
