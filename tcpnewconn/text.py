"""Text from outside (a file, a name, a command line) as it may stand in one line that a person reads."""

from collections.abc import Iterable


def printable(text: str, most: int | None = None) -> str:
    """The text with an escape for every character that could start a second line or control a terminal: "a\\x1b" -> "a\\\\x1b".

    One that is longer than `most` characters is cut before it is escaped, and ends in "…".
    """
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def nearest(given: str, names: Iterable[str]) -> str | None:
    """Which of the names was probably meant; None where none is similar."""
    import difflib  # here, because few runs need it and all would pay its memory

    lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(given.lower()[:100], lower, n=1)
    return lower[near[0]] if near else None
