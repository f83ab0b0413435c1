"""Our documentation pages as HTML: raw HTML is shown as text, links between pages work, nothing is fetched."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token


@dataclass(frozen=True)
class Rendered:
    title: str
    html: SafeString


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.inline.ruler.before("html_inline", "named_place", _named_place)
    return parser


_NAMED_PLACE = re.compile(r'<a id="([A-Za-z][\w.-]*)"></a>|<!--.*?-->', re.DOTALL)


def _named_place(state: StateInline, silent: bool) -> bool:
    """The two pieces of HTML that our pages use: a named place is kept, a comment is dropped."""
    if state.src[state.pos] != "<":
        return False
    found = _NAMED_PLACE.match(state.src, state.pos)
    if found is None:
        return False
    if not silent and found.group(1):
        # The pattern admits nothing that could end the attribute.
        state.push("html_inline", "", 0).content = f'<span id="{found.group(1)}"></span>'
    state.pos = found.end()
    return True


def anchor(heading: str) -> str:
    """The heading's anchor as the usual forges make it: lower case, words joined by hyphens."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def page_title(text: str, fallback: str) -> str:
    """The first heading of the first level."""
    found = re.search(r"^# +(.+?)\s*#*$", text, re.MULTILINE)
    return found.group(1).replace("`", "") if found else fallback


def render_page(text: str, *, page: str, root: str) -> Rendered:
    """Render the page named ``page`` (``limits``, ``adr/0001-x``), with links below the address ``root``."""
    parser = _parser()
    tokens = parser.parse(text)
    folder = posixpath.dirname(page)
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            name = anchor(tokens[index + 1].content)
            seen[name] = seen.get(name, 0) + 1
            token.attrSet("id", name if seen[name] == 1 else f"{name}-{seen[name] - 1}")
        for child in token.children or ():
            _repoint(child, folder, root)
    # The parser escapes all text and drops raw HTML and script addresses; what it gives is safe to show.
    html = mark_safe(parser.renderer.render(tokens, parser.options, {}))  # noqa: S308
    return Rendered(page_title(text, page), html)


def _repoint(token: Token, folder: str, root: str) -> None:
    if token.type == "link_open":
        target = str(token.attrGet("href") or "")
        if urlsplit(target).scheme in ("http", "https"):
            token.attrSet("rel", "noopener noreferrer")
        else:
            token.attrSet("href", _inside(target, folder, root))
    elif token.type == "image":
        source = str(token.attrGet("src") or "")
        parts = urlsplit(source)
        if parts.scheme or parts.netloc:
            # Nothing is fetched from other hosts: the picture's description stands for it.
            token.type, token.tag, token.content = "text", "", token.content or source
            token.children = None
        else:
            token.attrSet("src", _inside(source, folder, root))


def _inside(target: str, folder: str, root: str) -> str:
    """A relative address between files, as the address of the page that shows the file."""
    parts = urlsplit(target)
    if not parts.path or parts.scheme or parts.netloc or parts.path.startswith("/"):
        return target
    path = posixpath.normpath(posixpath.join(folder, parts.path)).removeprefix("../")
    page = path.removesuffix(".md")
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    return f"{root}{page}/{fragment}" if page != path else f"{root}{path}{fragment}"
