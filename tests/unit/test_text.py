"""Text that comes from outside, in one line that a person reads."""

import pytest

from tcpnewconn.text import printable


def test_printable_text_stays_as_it_is() -> None:
    assert printable("Grüße: 10.0.0.5:22 → done") == "Grüße: 10.0.0.5:22 → done"
    assert printable("") == ""


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a\nb\x1b\udcff", r"a\nb\x1b\udcff"),
        ("\r\t\0\x7f\x85", r"\r\t\x00\x7f\x85"),
        ("\u2028\u202e\U000e0001", r"\u2028\u202e\U000e0001"),
    ],
)
def test_nothing_starts_a_second_line_or_steers_a_terminal(text: str, escaped: str) -> None:
    assert printable(text) == escaped


def test_a_long_text_is_cut_and_says_so() -> None:
    assert printable("x" * 10, 10) == "x" * 10
    assert printable("x" * 11, 10) == "x" * 9 + "…"
    assert printable("\n" * 11, 3) == r"\n\n…"
