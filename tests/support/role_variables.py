"""The table of variables in each role's README, written from its meta/argument_specs.yml.

python3 -m tests.support.role_variables          rewrites them
"""

import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped,unused-ignore]

from tests.support import built

ROLES = built.TREE / "ansible" / "roles"


def readme(role: str) -> Path:
    return ROLES / role / "README.md"


def options(role: str) -> dict[str, Any]:
    specs = yaml.safe_load((ROLES / role / "meta/argument_specs.yml").read_text())
    found: dict[str, Any] = specs["argument_specs"]["main"]["options"]
    return found


def table(role: str) -> str:
    rows = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for name, option in options(role).items():
        rows += _rows(name, option)
    return "\n".join(rows)


def _rows(name: str, option: dict[str, Any]) -> list[str]:
    kind = f"list of {option['elements']}" if "elements" in option else option["type"]
    if "choices" in option:
        kind = ", ".join(f"`{choice}`" for choice in option["choices"])
    if option.get("required"):
        default = "required"
    elif option.get("default") in ("", None, [], {}):
        default = ""
    else:
        value = option["default"]
        default = f"`{str(value).lower() if isinstance(value, bool) else value}`"
    rows = [f"| `{name}` | {kind} | {default} | {option['description']} |"]
    for sub_name, sub_option in option.get("options", {}).items():
        rows += _rows(f"{name}.{sub_name}", sub_option)
    return rows


def with_table(role: str, text: str) -> str:
    """The text of a README with the role's table, which stands between two comments."""
    between = f"<!-- variables -->\n{table(role)}\n<!-- end of variables -->"
    return re.sub(r"<!-- variables -->\n.*?<!-- end of variables -->", lambda _: between, text, flags=re.DOTALL)


def main() -> None:
    for path in sorted(ROLES.iterdir()):
        file = readme(path.name)
        file.write_text(with_table(path.name, file.read_text()))


if __name__ == "__main__":
    main()
