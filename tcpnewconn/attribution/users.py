"""The name of a user id."""

import pwd
import time
from collections.abc import Callable

# Names may change while the service runs, in /etc/passwd or in a directory elsewhere.
_NAME_IS_VALID_FOR = 60.0  # seconds


class Users:
    """The names of user ids, as getent(1) gives them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = 1024) -> None:
        """No more than `most` users are remembered."""
        self._most = most
        self._clock = clock
        self._names: dict[int, tuple[float, str | None]] = {}

    def name(self, uid: int) -> str | None:
        """The user's name, None if it has none. What was found, or not, is believed for a minute."""
        now = self._clock()
        known = self._names.get(uid)
        if known is not None and now < known[0]:
            return known[1]
        name: str | None
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = None
        self._names.pop(uid, None)
        if len(self._names) >= self._most:
            del self._names[next(iter(self._names))]
        self._names[uid] = (now + _NAME_IS_VALID_FOR, name)
        return name
