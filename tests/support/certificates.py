"""An authority for the length of a test, and the certificates that it gives to the log server and to hosts."""

import subprocess
from pathlib import Path


class Authority:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.certificate = directory / "ca.pem"
        self._key = directory / "ca-key.pem"
        _openssl(
            "req", "-x509", *_new_key(self._key), "-subj", "/CN=tests", "-days", "2", "-out", str(self.certificate)
        )

    def give(self, name: str, address: str) -> tuple[Path, Path]:
        """A certificate and its key, for a host of this name and address."""
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}-key.pem"
        alternative = f"subjectAltName=DNS:{name},IP:{address}"
        signed_by = ["-CA", str(self.certificate), "-CAkey", str(self._key)]
        identity = ["-subj", f"/CN={name}", "-addext", alternative, "-addext", "basicConstraints=critical,CA:FALSE"]
        _openssl("req", "-x509", *_new_key(key), *signed_by, *identity, "-days", "2", "-out", str(certificate))
        return certificate, key


def _new_key(key: Path) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", str(key)]


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"openssl {' '.join(arguments)}\n{done.stderr}"
