"""Messages that docs/troubleshooting.md explains are those of the code."""

import ast
import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def messages() -> list[str]:
    """Return the texts of the package; what is put in when they are shown is a null character."""
    found = []
    for path in sorted((CHECKOUT / "biomamba").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "\0" for v in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_messages_that_are_explained_are_those_of_the_code() -> None:
    text = (CHECKOUT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### `(.+)`$", text, re.MULTILINE)
    known = "\n".join(messages())
    missing = [
        heading
        for heading in headings
        if not re.search(r"[^\n]*".join(map(re.escape, heading.split("..."))), known)
    ]
    assert len(headings) > 15
    assert not missing, f"no message of the code is: {missing}"
