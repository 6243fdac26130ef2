"""The command line of `ledger`. Nothing else of the ledger is loaded for it."""

from __future__ import annotations

import argparse

PATH = "/var/lib/tcpnewconn-ledger/ledger.db"

EXAMPLES = """\
actions:
  update          add the journal's new entries
  copy TARGET     copy the ledger into one file, consistently

examples:
  tcpnewconn ledger update
  tcpnewconn ledger update --directory /var/log/journal/remote --ledger /srv/ledgers
  tcpnewconn ledger copy /srv/web1.db

tcpnewconn-ledger.timer runs the update. See tcpnewconn-report(8).
"""


def add_options(to: argparse.ArgumentParser) -> None:
    to.add_argument("action", choices=("update", "copy"), metavar="ACTION", help="update or copy")
    to.add_argument("target", nargs="?", metavar="TARGET", help="with copy: the file to write")
    source = to.add_mutually_exclusive_group()
    source.add_argument("--namespace", metavar="NAME", help="with update: read this journal namespace")
    source.add_argument(
        "--directory",
        metavar="DIR",
        help="with update: read a log server's journal files, into one ledger for each host",
    )
    to.add_argument(
        "--ledger", metavar="FILE", help=f"the ledger; with --directory, a directory of them; default: {PATH}"
    )
