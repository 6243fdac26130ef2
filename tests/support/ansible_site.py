"""sitecustomize of the Python that Ansible's modules run with on the hosts of tests/support/fleet.py: it keeps what it compiles.

Ansible sends each module with its library in a zip, of which Python keeps nothing that it has compiled: a third of a task's CPU
time there (measured).
"""

import _imp
import marshal
import os
import zipimport
from types import CodeType

KEPT = "/var/cache/ansible-compiled"
# Not for the programs that a module runs.
os.environ.pop("PYTHONPATH", None)
_compile = zipimport._compile_source  # type: ignore[attr-defined]


def _kept(path: str, source: bytes) -> CodeType:
    """What a module's text was compiled to the first time. The path that a traceback names is the one of then."""
    name = f"{KEPT}/{_imp.source_hash(0, source).hex()}"
    try:
        with open(name, "rb") as file:
            code: CodeType = marshal.load(file)
    except FileNotFoundError:
        code = _compile(path, source)
        os.makedirs(KEPT, exist_ok=True)
        # Complete, whoever else does the same.
        with open(f"{name}.{os.getpid()}", "wb") as file:
            marshal.dump(code, file)
        os.rename(f"{name}.{os.getpid()}", name)
    return code


zipimport._compile_source = _kept  # type: ignore[attr-defined]
