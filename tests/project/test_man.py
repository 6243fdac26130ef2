"""The man pages against the code: they describe everything that exists, and nothing else."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tcpnewconn import arguments, cli
from tcpnewconn.health import status
from tcpnewconn.ledger import firstseen
from tcpnewconn.report.options import QUESTIONS
from tcpnewconn.reporting.entries import KINDS, MESSAGE_IDS
from tcpnewconn.reporting.fields import FIELDS
from tcpnewconn.settings import config, files
from tcpnewconn.settings.rule import parse_rule
from tcpnewconn.settings.setting import SETTINGS
from tests.support import built

SOURCES = sorted((built.TREE / "man").glob("*.scd"))
PAGES = ("tcpnewconn-report.8", "tcpnewconn.8", "tcpnewconn.conf.5", "tcpnewconn.fields.7")


def source(page: str) -> str:
    return (built.TREE / "man" / f"{page}.scd").read_text()


def section(page: str, title: str) -> str:
    """The text below one heading."""
    found = re.search(rf"(?ms)^# {re.escape(title)}$(.*?)(?=^# [A-Z[]|\Z)", source(page))
    assert found is not None, f"{page} has no section {title}"
    return found[1]


def entries(text: str) -> dict[str, str]:
    """The text below each `*TERM*`; two terms may share one text."""
    found: dict[str, str] = {}
    for heading, below in re.findall(r"(?m)^(\*\S.*)\n((?:\t.*\n|\n(?=\t))*)", text):
        for term in re.findall(r"\*([^*]+)\*", heading):
            found[term] = below
    return found


def rendered(page: str, tmp_path: Path) -> str:
    """The page as a terminal of 80 columns shows it; a warning of the formatter is a failure."""
    roff = tmp_path / page
    roff.write_bytes(subprocess.run(["scdoc"], input=source(page).encode(), check=True, capture_output=True).stdout)
    shown = subprocess.run(
        ["man", "--warnings", "--local-file", roff],
        env=os.environ | {"MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MANPAGER": "cat", "MAN_KEEP_FORMATTING": ""},
        capture_output=True,
        text=True,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    return shown.stdout


def test_there_are_these_four() -> None:
    assert [path.name for path in SOURCES] == [f"{page}.scd" for page in PAGES]


@pytest.mark.apt
@pytest.mark.parametrize("page", PAGES)
def test_a_page_can_be_shown(page: str, tmp_path: Path) -> None:
    text = rendered(page, tmp_path)
    name, number = page.rsplit(".", 1)
    assert text.startswith(f"{name}({number})")
    headings = re.findall(r"(?m)^(?!tcpnewconn)\S.*$", text)
    assert {"NAME", "DESCRIPTION", "SEE ALSO"} <= set(headings)
    # A line of text that begins with # would be one, too.
    assert all(re.fullmatch(r"[A-Z \[\]]+", heading) for heading in headings), headings
    # Nothing of the source's mark-up is left.
    assert not re.search(r"(?<![\w/.])\*\w+\*", text)
    # The other pages are named.
    for other in PAGES:
        if other != page:
            name, number = other.rsplit(".", 1)
            assert f"*{name}*({number})" in section(page, "SEE ALSO")


def options(command: str) -> set[str]:
    return {option for action in arguments.parser(command)._actions for option in action.option_strings}


# The ledger has a page of its own.
OF_THE_LEDGER = ("ledger", "report")
COMMANDS = [name for name in arguments.COMMANDS if name not in OF_THE_LEDGER]


@pytest.mark.parametrize(
    ("page", "commands"), [("tcpnewconn.8", ("", *COMMANDS)), ("tcpnewconn-report.8", OF_THE_LEDGER)]
)
def test_every_option_is_explained_and_no_other(page: str, commands: tuple[str, ...]) -> None:
    explained = entries(section(page, "OPTIONS"))
    assert set(explained) == set().union(*map(options, commands))
    assert all(len(text.split()) > 3 for text in explained.values())


def test_every_question_and_action_is_explained() -> None:
    assert tuple(entries(section("tcpnewconn-report.8", "QUESTIONS"))) == QUESTIONS
    assert list(entries(section("tcpnewconn-report.8", "ACTIONS"))) == ["update", "copy"]


def test_the_synopsis_has_every_command_with_its_options() -> None:
    synopsis = section("tcpnewconn.8", "SYNOPSIS")
    ledger = [line for line in synopsis.split("\n\n") if any(f"*{name}*" in line for name in OF_THE_LEDGER)]
    assert len(ledger) == len(OF_THE_LEDGER)
    for line in ledger:
        synopsis = synopsis.replace(line, "")
    synopsis += section("tcpnewconn-report.8", "SYNOPSIS")
    shown = {
        words[0]: set(words[1:])
        for line in synopsis.split("\n\n")
        if "_COMMAND_" not in line and (words := re.findall(r"\*(-?-?[a-z][a-z-]*)\*", line)[1:])
    }
    assert shown.pop("--version") == set()
    assert shown == {name: options(name) - {"-h", "--help"} for name in arguments.COMMANDS}
    assert "*tcpnewconn* [*run*] " in synopsis
    assert "*tcpnewconn* [_COMMAND_] *--help*" in synopsis


def test_every_command_is_explained() -> None:
    assert list(entries(section("tcpnewconn.8", "COMMANDS"))) == list(arguments.COMMANDS)


def test_every_status_of_the_service_is_explained_with_its_exit_status() -> None:
    text = entries(section("tcpnewconn.8", "COMMANDS"))["status"]
    assert {word: int(number) for word, number in re.findall(r"- \*([a-z ]+)\* \((?:exit status )?(\d)\)", text)} == (
        status.EXIT_STATUSES
    )


def test_every_kind_of_output_is_explained() -> None:
    (kinds,) = [action.choices for action in arguments.parser()._actions if "--output" in action.option_strings]
    assert kinds
    text = entries(section("tcpnewconn.8", "OPTIONS"))["--output"]
    for kind in kinds:
        assert f"*{kind}*" in text


def test_every_setting_is_explained_with_its_default_and_no_other() -> None:
    sections = dict.fromkeys(setting.section for setting in SETTINGS)
    headings = re.findall(r"(?m)^# \[(\w+)\] SECTION$", source("tcpnewconn.conf.5"))
    assert headings == [name.upper() for name in sections]
    for name in sections:
        explained = entries(section("tcpnewconn.conf.5", f"[{name.upper()}] SECTION"))
        here = [setting for setting in SETTINGS if setting.section == name]
        assert list(explained) == [f"{setting.name}=" for setting in here]
        for setting in here:
            default = f"The default is {setting.default or 'empty'}"
            assert re.search(rf"{re.escape(default)}[.:]", explained[f"{setting.name}="])


def test_every_directory_of_the_configuration_is_named_in_order() -> None:
    directories = re.findall(r"_/([\w/]+)/tcpnewconn\.conf_", section("tcpnewconn.conf.5", "SYNOPSIS"))
    assert tuple(directories) == files.DIRECTORIES


def test_the_example_of_a_configuration_is_a_good_one(tmp_path: Path) -> None:
    example, _ = re.findall(r"(?s)\n```\n(.*?)```", section("tcpnewconn.conf.5", "EXAMPLES"))
    file = tmp_path / "example.conf"
    file.write_text(example)
    settings = config.load(str(file))
    assert settings.interval == 1
    assert len(settings.ignore.given) == 4


def test_the_example_of_an_error_is_what_is_printed(tmp_path: Path) -> None:
    _, example = re.findall(r"(?s)\n```\n(.*?)```", section("tcpnewconn.conf.5", "EXAMPLES"))
    file = tmp_path / "example.conf"
    file.write_text("[Poll]\nInterval=1s\n\n[Report]\nIgnore=10.1.2.3/8\n")
    with pytest.raises(config.ConfigError) as error:
        config.load(str(file))
    assert f"tcpnewconn: {error.value}\n" == example.replace("/etc/tcpnewconn.conf.d/10-local.conf", str(file))


def test_every_rule_in_the_text_is_one(tmp_path: Path) -> None:
    """Each that is written without blanks and has the look of a rule, in both pages."""
    text = entries(section("tcpnewconn.conf.5", "[REPORT] SECTION"))["Ignore="].replace("\\", "")
    text += entries(section("tcpnewconn.8", "OPTIONS"))["--ignore"].replace('"', " ")
    found = re.findall(
        r"(?<![\w*])(?:[a-z]+:)*(?:[\d.]+/\d+|\[?[\da-f:]*::[\da-f/]+\]?|:\d+)[\w:/-]*|(?:unit|user):\S+", text
    )
    rules = [rule.rstrip(",.") for rule in found]
    assert len(rules) >= 12
    for rule in rules:
        parse_rule(rule)


def test_every_field_is_explained_with_a_journalctl_example_and_no_other() -> None:
    explained = entries(section("tcpnewconn.fields.7", "FIELDS"))
    known = {*FIELDS, "SYSLOG_IDENTIFIER"}
    assert set(explained) == known
    for field, text in explained.items():
        examples = re.findall(r"\t(journalctl .*)", text)
        assert examples, field
        for example in examples:
            # An example matches or picks fields that exist.
            for name in re.findall(r"(?<= )[A-Z_]+(?==)|(?<=\.)[A-Z_]+\b", example):
                assert name in known, example
            for action in re.findall(r"EVENT_ACTION=(\S+)", example):
                assert action in MESSAGE_IDS
        shorthand = {"MESSAGE": "--grep", "PRIORITY": "-p "}
        assert any(shorthand.get(field, field) in example for example in examples), field


def test_every_event_is_in_the_page_with_its_message_id_and_priority_and_explained() -> None:
    events = section("tcpnewconn.fields.7", "EVENTS")
    listed = re.findall(r"(?m)^([\w-]+) +([0-9a-f]{32}) +(\d)$", events)
    assert set(listed) == {(kind.action, kind.message_id, str(kind.priority)) for kind in KINDS.values()}
    assert set(entries(events)) == set(MESSAGE_IDS)
    for page in PAGES:
        for message_id in re.findall(r"\b[0-9a-f]{32}\b", source(page)):
            assert message_id in {*MESSAGE_IDS.values(), firstseen.MESSAGE_ID}


def test_the_pages_admit_what_it_costs_and_cannot_do() -> None:
    assert len(section("tcpnewconn.8", "OVERHEAD").split()) > 50
    assert len(section("tcpnewconn.8", "CAVEATS").split()) > 100


def test_every_exit_status_is_explained() -> None:
    explained = {int(number) for number in entries(section("tcpnewconn.8", "EXIT STATUS"))}
    named = {value for name, value in {**vars(arguments), **vars(cli)}.items() if name.startswith("EXIT_")}
    assert explained == {0, *named, *status.EXIT_STATUSES.values()}
