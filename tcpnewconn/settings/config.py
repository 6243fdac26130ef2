"""The configuration: which file assigns which value to a setting, what is in force, and the errors in it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tcpnewconn.settings.files import ConfigError, Problem, find, lines
from tcpnewconn.settings.ignore import Rules
from tcpnewconn.settings.setting import KINDS, RENAMED_SECTIONS, SECTIONS, SETTINGS, Setting, Settings
from tcpnewconn.settings.values import BLANKS
from tcpnewconn.text import nearest, printable

__all__ = ["ConfigError", "Configuration", "Settings", "load", "read"]


class Assignment(NamedTuple):
    """The assignment of one line to a setting."""

    file: str
    line: int
    values: tuple[Any, ...]


class Configuration(NamedTuple):
    """The configuration as read: its files, later ones overriding, and for each setting the assignments in force."""

    files: tuple[str, ...]
    assigned: Mapping[str, tuple[Assignment, ...]]

    @property
    def settings(self) -> Settings:
        values: dict[str, Any] = {}
        for setting in SETTINGS:
            kind = KINDS[setting.kind]
            found = [value for assignment in self.assigned.get(setting.attribute, ()) for value in assignment.values]
            if not found:
                found = [kind.parse(part) for part in setting.parts(setting.default)]
            values[setting.attribute] = Rules(tuple(found)) if kind.is_list else found[-1]
        return Settings(**values)

    def text(self) -> str:
        """The settings in force, each below a comment that says where it comes from: a configuration file in itself."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        for section in SECTIONS:
            if section != SECTIONS[0]:
                yield ""
            yield f"[{section}]"
            for setting in SETTINGS:
                if setting.section == section:
                    yield from self._setting_lines(setting)

    def _setting_lines(self, setting: Setting) -> Iterator[str]:
        kind = KINDS[setting.kind]
        assignments = self.assigned.get(setting.attribute, ())
        if not assignments:
            yield "# default"
            yield f"{setting.name}={setting.default}"
        for assignment in assignments if kind.is_list else assignments[-1:]:
            yield f"# {printable(assignment.file)}:{assignment.line}"
            yield f"{setting.name}={' '.join(map(kind.format, assignment.values))}"


def load(main: str | None = None, root: str = "/") -> Settings:
    """The settings in force; see read()."""
    return read(main, root).settings


def read(main: str | None = None, root: str = "/") -> Configuration:
    """Read the configuration. Raises ConfigError, with every error.

    Without `main`: the configuration file and its drop-ins, see files.find(); `root` is the directory that holds etc, run
    and usr. With `main`: that file alone, as systemd-sysusers(8) and systemd-tmpfiles(8) take a file they are given.
    """
    problems: list[Problem] = []
    files = tuple(find(root, problems)) if main is None else (main,)
    assigned: dict[str, list[Assignment]] = {}
    for file in files:
        _read(file, assigned, problems)
    if problems:
        raise ConfigError(problems)
    return Configuration(files, {attribute: tuple(each) for attribute, each in assigned.items()})


def _read(file: str, assigned: dict[str, list[Assignment]], problems: list[Problem]) -> None:
    """Add the assignments of a file, and its errors."""
    section: str | None = ""
    for number, line in lines(file, problems):
        if line.startswith("["):
            section, text = _section(line)
            if text:
                problems.append(Problem(file, number, line, text))
            continue
        if section is None:
            # The section is an error already.
            continue
        name, equals, value = (part.strip(BLANKS) for part in line.partition("="))
        if not equals or not name:
            problems.append(Problem(file, number, line, "not an assignment; use for example Interval=10s"))
            continue
        setting = _setting(section, name)
        if isinstance(setting, str):
            given = f"[{section}] {name}={value}" if section else f"{name}={value}"
            problems.append(Problem(file, number, given, setting))
        elif not value:
            # As in systemd, earlier assignments are reset.
            assigned.pop(setting.attribute, None)
        else:
            values = tuple(_values(file, number, setting, value, problems))
            assigned.setdefault(setting.attribute, []).append(Assignment(file, number, values))


def _section(line: str) -> tuple[str | None, str]:
    """The section that a line begins (None if it is unknown), and the error in the line."""
    name = line[1:-1]
    if not line.endswith("]"):
        return None, "a section ends with ]; use for example [Poll]"
    if name in RENAMED_SECTIONS:
        return RENAMED_SECTIONS[name], f"renamed; use [{RENAMED_SECTIONS[name]}]"
    if name in SECTIONS:
        return name, ""
    return None, f"unknown section; {_suggestion(name, SECTIONS, '[{}]', RENAMED_SECTIONS)}"


def _setting(section: str, name: str) -> Setting | str:
    """The setting of this name, or the error."""
    for setting in SETTINGS:
        if setting.section == section and setting.name == name:
            return setting
    homes = [f"[{setting.section}]" for setting in SETTINGS if setting.name == name]
    if not section:
        return f"outside of a section; put it below {homes[0] if homes else 'a section such as [Poll]'}"
    if homes:
        return f"in the wrong section; put it below {homes[0]}"
    names = tuple(setting.name for setting in SETTINGS if setting.section == section)
    return f"unknown setting; {_suggestion(name, names, '{}=')}"


def _values(file: str, number: int, setting: Setting, value: str, problems: list[Problem]) -> Iterator[Any]:
    for part in setting.parts(value) or [value]:
        try:
            yield KINDS[setting.kind].parse(part)
        except ValueError as error:
            comment = re.search(r"(^|[ \t])[#;]", part)
            hint = "; a comment needs a line of its own" if comment else ""
            problems.append(Problem(file, number, f"[{setting.section}] {setting.name}={part}", f"{error}{hint}"))
            if comment:
                # Each word of the comment would be one more error.
                return


def _suggestion(given: str, names: tuple[str, ...], form: str, renamed: Mapping[str, str] | None = None) -> str:
    renamed = renamed or {}
    near = nearest(given, (*names, *renamed))
    if near is not None:
        return f"did you mean {form.format(renamed.get(near, near))}?"
    return "use " + " or ".join(form.format(name) for name in names)
