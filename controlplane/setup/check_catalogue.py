"""Every system check that the project can report, read from its source.

A check's id appears only when it fires, so a list made by running checks would have holes. The calls
that build findings are found in the source instead: the table in the documentation cannot fall behind.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from controlplane.kernel.checks import docs_url

#: Functions that build a finding, with the level they give it.
BUILDERS = {"check_error": "error", "check_warning": "warning", "Error": "error", "Warning": "warning"}
PACKAGES = ("controlplane", "ratelimits")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class KnownCheck:
    """One place in the source that reports a finding; ``…`` stands for what is only known when it fires.

    ``docs`` is the page as far as the source names it; ``has_page`` is also true where the helpers add one.
    """

    id: str
    level: str
    message: str
    hint: str
    docs: str
    has_page: bool
    where: str
    function: str


def known_checks(root: Path = ROOT, packages: Iterable[str] = PACKAGES) -> list[KnownCheck]:
    """All findings of the packages, by id."""
    found = [
        check
        for package in packages
        for path in sorted((root / package).rglob("*.py"))
        for check in _checks_of(path, path.relative_to(root).as_posix())
    ]
    return sorted(found, key=lambda check: check.id)


def table() -> str:
    """The checks as a Markdown table: what ``docs/checks.md`` holds between its two marks."""
    lines = ["| id | level | what it means | what to do |", "|---|---|---|---|"]
    anchored = set()
    for check in known_checks():
        anchor = "" if check.id in anchored else f'<a id="{anchor_of(check.id)}"></a>'
        anchored.add(check.id)
        more = f" ({check.docs})" if check.docs and check.docs not in check.hint else ""
        cells = (f"{anchor}`{check.id}`", check.level, check.message, check.hint + more)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def anchor_of(check_id: str) -> str:
    """What a link to a check's line ends with."""
    return check_id.replace(".", "").lower()


def _checks_of(path: Path, name: str) -> Iterator[KnownCheck]:
    source = path.read_text(encoding="utf-8")
    if "zantara." not in source:
        return
    tree = ast.parse(source)
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            around = [f for f in functions if f.lineno <= node.lineno <= (f.end_lineno or f.lineno)]
            innermost = max(around, key=lambda function: function.lineno, default=None)
            check = _check(node, constants, innermost, name)
            if check is not None:
                yield check


def _check(
    call: ast.Call, constants: dict[str, ast.expr], function: ast.FunctionDef | None, file: str
) -> KnownCheck | None:
    builder = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if builder not in BUILDERS:
        return None
    ours = builder.startswith("check_")
    order = ("id", "msg", "hint", "docs") if ours else ("msg", "hint", "obj", "id")
    arguments: dict[str, ast.expr] = dict(zip(order, call.args, strict=False))
    arguments |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    texts = {name: _text(value, constants) for name, value in arguments.items()}
    check_id, message, hint, docs = (texts.get(name, "") for name in ("id", "msg", "hint", "docs"))
    if not check_id.startswith("zantara."):
        return None
    if not _says_something(message) and function is not None:
        said = (ast.get_docstring(function) or "A setting cannot be used; the finding names it.").split("\n\n")[0]
        message = " ".join(said.split())
    return KnownCheck(
        id=check_id,
        level=BUILDERS[builder],
        message=message,
        hint=hint if _says_something(hint) else "What the finding itself says.",
        docs=docs if _says_something(docs) else "",
        has_page=ours or "docs/" in hint,
        where=f"{file}:{call.lineno}",
        function=f"{file}:{function.name if function else ''}",
    )


def _says_something(text: str) -> bool:
    """More than the holes of an f-string."""
    return any(character.isalpha() for character in text)


def _text(node: ast.expr, constants: dict[str, ast.expr]) -> str:
    """The text that an expression gives, as far as it stands in the source."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, constants) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, constants)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, constants) + _text(node.right, constants)
    if isinstance(node, ast.Name) and node.id in constants:
        return _text(constants[node.id], {})
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "docs_url":
        return docs_url(*(_text(argument, constants) for argument in node.args))
    return "…"
