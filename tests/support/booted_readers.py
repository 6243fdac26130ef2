"""A booted Debian that has what reads a journal: fail2ban with nftables, jq, rsyslog, systemd-journal-upload."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import root_image
from tests.support.booted import Booted, booted

PACKAGES = ("fail2ban", "jq", "nftables", "rsyslog", "systemd-journal-remote")
# The tests start what they need.
NOT_ENABLED = ("fail2ban", "nftables", "rsyslog", "systemd-journal-remote.socket", "systemd-journal-upload")
HOOK = f'systemctl --root="$1" --quiet disable {" ".join(NOT_ENABLED)}'


@contextmanager
def booted_with_readers(distribution: str) -> Iterator[Booted]:
    with booted(distribution, root_image.container_tar_with(distribution, "readers", PACKAGES, (HOOK,))) as container:
        yield container
