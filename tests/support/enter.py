"""Runs a command in the namespaces of a process, and in another network namespace: enter.py PID NETWORK COMMAND...

Signals are passed on, and it ends as the command does. Where it is killed, the command is, too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def main(process: str, network: str, *command: str) -> int:
    directory = os.getcwd()
    paths = (network, f"/proc/{process}/ns/pid", f"/proc/{process}/ns/mnt")
    for descriptor in [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]:
        if _LIBC.setns(descriptor, 0) < 0:
            raise OSError(ctypes.get_errno(), "setns")
    os.chdir(directory)
    child = os.fork()
    if not child:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.execvp(command[0], command)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(child, number))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    ended = main(*sys.argv[1:])
    if ended < 0:
        signal.signal(-ended, signal.SIG_DFL)
        os.kill(os.getpid(), -ended)
    sys.exit(ended)
