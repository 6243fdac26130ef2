"""A poll of a few rows, in this process's network namespace: prints CPU time and elapsed time in milliseconds.

python -m bench.little ROWS ROUNDS
"""

from __future__ import annotations

import sys

from bench.polls import PolledOnce
from bench.table import Table
from bench.timing import in_turns, median


def main(rows: int, rounds: int) -> None:
    table = Table()
    table.grow(rows)
    observer = PolledOnce()
    (costs,) = in_turns(rounds, observer.quiet_poll)
    table.close()
    cost = median(costs)
    print(cost.cpu * 1e3, cost.wall * 1e3)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
