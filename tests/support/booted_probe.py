"""
Tries what the service must not be able to do, and says what it could. Runs in place of the service, in its sandbox.

Prints one line of JSON. Needs nothing but the standard library.
"""

import contextlib
import ctypes
import errno
import json
import os
import socket
import subprocess
import sys
from typing import Any

# Pseudo file systems in which no file can be made; what can be written to there is probed by itself.
NO_FILES_HERE = ("/proc", "/sys")


def sockets() -> dict[str, str]:
    families = {"AF_INET": 2, "AF_INET6": 10, "AF_PACKET": 17, "AF_VSOCK": 40, "AF_UNIX": 1, "AF_NETLINK": 16}
    outcome = {}
    for name, number in families.items():
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
            try:
                socket.socket(number, kind).close()
                outcome[name] = "opened"
                break
            except OSError as error:
                outcome[name] = errno.errorcode[error.errno or 0]
    return outcome


def writable_directories() -> list[str]:
    """Directories in which a file could be made."""
    found = []
    for directory, below, _ in os.walk("/"):
        if directory in NO_FILES_HERE:
            below.clear()
            continue
        path = os.path.join(directory, f"probe-{os.getpid()}")
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            found.append(directory)
            os.unlink(path)
    return found


def writable_files() -> list[str]:
    """Regular files that could be opened for writing (nothing is written), those of this process itself left out."""
    found = []
    for directory, below, files in os.walk("/"):
        if directory == "/proc":
            below[:] = [name for name in below if not name.isdigit() and "self" not in name]
        for name in files:
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                if not os.path.islink(path):
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW))
                    found.append(path)
    return found


def other_processes() -> list[int]:
    own = {os.getpid(), os.getppid()}
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in own]


def private_files(processes: list[int]) -> list[str]:
    """The readable files of other processes that are for themselves and root alone."""
    found = []
    for process in processes:
        for name in ("environ", "mem", "maps", "stack", "io"):
            path = f"/proc/{process}/{name}"
            with contextlib.suppress(OSError), open(path, "rb") as file:
                # That of a process that has ended can be opened, and is empty.
                if file.read(1):
                    found.append(path)
        for name in ("fd", "cwd/.", "root/."):
            with contextlib.suppress(OSError):
                found += [f"/proc/{process}/{name}/{entry}" for entry in os.listdir(f"/proc/{process}/{name}")]
    return found


def refused(attempt: str) -> str:
    """The result of an attempt that needs a privilege."""
    libc = ctypes.CDLL(None, use_errno=True)
    calls: dict[str, tuple[Any, ...]] = {
        "mount": (libc.mount, b"none", b"/tmp", b"tmpfs", 0, None),
        "unshare user": (libc.unshare, 0x10000000),
        "unshare net": (libc.unshare, 0x40000000),
        "ptrace": (libc.ptrace, 16, 1, 0, 0),
        "setuid 0": (libc.setuid, 0),
        "bpf": (libc.syscall, 321, 0, 0, 0),
        "write and execute memory": (libc.mmap, 0, 4096, 7, 0x22, -1, 0),
    }
    call, *arguments = calls[attempt]
    return errno.errorcode[ctypes.get_errno()] if call(*arguments) == -1 else "done"


def in_a_child(attempt: str) -> str:
    """A filter of system calls may answer with a signal."""
    done = subprocess.run([sys.executable, __file__, attempt], stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.strip() or f"signal {-done.returncode}"


def main() -> None:
    if len(sys.argv) > 1:
        print(refused(sys.argv[1]))
        return
    attempts = ("mount", "unshare user", "unshare net", "ptrace", "setuid 0", "bpf", "write and execute memory")
    with open("/proc/self/status", encoding="ascii") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    others = other_processes()
    outcome = {
        "other_processes": others,
        "private_files": private_files(others),
        "sockets": sockets(),
        "writable_directories": writable_directories(),
        "writable_files": writable_files(),
        "attempts": {attempt: in_a_child(attempt) for attempt in attempts},
        "capabilities": [status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")],
        "no_new_privileges": status["NoNewPrivs"],
        "user": os.getuid(),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
