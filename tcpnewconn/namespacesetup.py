"""
The program of tcpnewconn-namespaces.service: lets a socket that systemd holds receive from all network namespaces.

    python3 -m tcpnewconn.namespacesetup

Runs with CAP_NET_BROADCAST alone. A failure is logged; tcpnewconn.service, which receives from the socket, polls these namespaces
then.
"""

from __future__ import annotations

import sys

from systemd.daemon import listen_fds
from tcpnewconn.kernel.allnamespaces import listen_to_all
from tcpnewconn.kernel.sockdiag import NAMESPACES, Unavailable, received


def main() -> int:
    try:
        given = received(listen_fds(), [NAMESPACES]).namespaces
        if given is None:
            raise Unavailable("there is no socket: this is the program of tcpnewconn-namespaces.service")
        listen_to_all(given)
    except (Unavailable, OSError) as error:
        print(f"tcpnewconn: cannot receive from other network namespaces: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
