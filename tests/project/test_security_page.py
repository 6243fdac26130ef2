"""docs/security.md: every test that it names is there."""

import ast
import re

from tests.support.terminal import TREE


def test_every_test_that_the_page_on_security_names_is_there() -> None:
    text = (TREE / "docs/security.md").read_text()
    tests = {
        node.name
        for path in (TREE / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 30
    assert named - tests == set()
    files = set(re.findall(r"`(test_\w+\.py)`", text))
    assert files <= {path.name for path in (TREE / "tests").rglob("test_*.py")}
