"""Reports as pages that need nothing besides themselves: HTML with the pictures inside.

The tables and sentences come from Markdown. Names in it are a person's own (classes, files,
speakers, variants): ``plain`` keeps them from being read as Markdown, and whatever gets through
stays text on the page, since HTML, links and pictures from elsewhere are not rendered at all.
"""

import base64
import html
import pathlib
import re
from collections.abc import Mapping, Sequence

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from cberl_jax.runtime.files import write_text

# How a paragraph begins that is the caption of the table after it.
CAPTION = "Table: "
# Characters of a word that may be parted in a cell.
LONGEST_WORD = 12
# Zero-width space, which the page has as an element: what is copied from it stays as it was.
_BREAK = "\u200b"
# An interval, or a number with its deviation.
_WHOLE = re.compile(r"\[[-+]?\d+\.\d+, [-+]?\d+\.\d+\]|\d ± \d")
_WORDS = ("text", "text_special", "code_inline")

_SPECIAL = re.compile(
    r"[\\`*\[\]<>|~$]|&(?=#?\w+;)|(?<!\w)_|_(?!\w)"
    # What makes a heading, a list or a rule of a line that opens with it.
    r"|^[#+=-](?=[#=\s-]|$)|(?:(?<=^\d)|(?<=^\d\d))[.)](?=\s|$)"
)
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2, p, li, pre, caption { overflow-wrap: anywhere; }
h1, h2 { line-height: 1.25; }
h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: 0.85em; margin: 1.5em 0; max-width: 100%; }
caption { text-align: left; font-weight: 600; padding-bottom: 0.3rem; }
th, td { padding: 0.3rem 0.5rem; text-align: left; border-bottom: 1px solid #ddd;
  font-variant-numeric: tabular-nums; vertical-align: top; }
th { border-bottom: 2px solid #888; }
img { max-width: 100%; height: auto; }
code, pre { background: #f3f3f3; border-radius: 3px; white-space: pre-wrap; }
pre { padding: 0.7rem; }
@media print {
  body { font-size: 11px; margin: 0; padding: 0; max-width: none; }
  th, td { padding: 0.15rem 0.25rem; }
  tr, img { break-inside: avoid; }
  h2, caption { break-after: avoid; }
}
"""
# What a browser is told besides: to load nothing from anywhere, whatever the page says.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}</body>
</html>
"""


def plain(name: str) -> str:
    r"""A name as Markdown that shows the name and nothing else, on one line.

    >>> plain("fear | *anger*")
    'fear \\| \\*anger\\*'
    >>> plain("mean_f1")
    'mean_f1'
    """
    return _SPECIAL.sub(lambda match: "\\" + match[0], " ".join(name.split()))


def _move_captions(tokens: Sequence[Token]) -> list[Token]:
    """Makes of a paragraph that opens with ``CAPTION`` the caption of the table after it."""
    kept: list[Token] = []
    for token in tokens:
        words = kept[-2].content if len(kept) > 2 and kept[-2].type == "inline" else ""
        if token.type == "table_open" and words.startswith(CAPTION):
            kept, caption = kept[:-3], kept[-2]
            text = "".join(x.content for x in caption.children or [] if x.type in _WORDS)
            token.meta["caption"] = text.removeprefix(CAPTION)
        kept.append(token)
    return kept


def _set_line_breaks(tokens: Sequence[Token]) -> None:
    """Says where lines may end in cells: not within an interval, but within a long word."""

    def part(word: re.Match) -> str:
        return _BREAK.join(re.findall(f".{{1,{LONGEST_WORD}}}", word[0]))

    for before, token in zip(tokens, tokens[1:]):
        if before.type in ("td_open", "th_open") and token.children:
            for child in token.children:
                whole = _WHOLE.sub(lambda m: m[0].replace(" ", "\xa0"), child.content)
                child.content = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", part, whole)


class _Renderer(RendererHTML):
    """Renders a picture only if it is one of the report's own."""

    pictures: Mapping[str, bytes] = {}

    def table_open(self, tokens, idx, options, env) -> str:
        """A table with its caption, if it has one."""
        caption = tokens[idx].meta.get("caption")
        inside = f"<caption>{html.escape(caption)}</caption>\n" if caption else ""
        return f"<table>\n{inside}"

    def image(self, tokens, idx, options, env) -> str:
        """An embedded picture, or the words that stand for one."""
        alternative = html.escape(tokens[idx].content)
        data = self.pictures.get(str(tokens[idx].attrs["src"]))
        if data is None:
            return alternative
        encoded = base64.b64encode(data).decode()
        return f'<img alt="{alternative}" src="data:image/png;base64,{encoded}">'


def render_page(markdown: str, pictures: Mapping[str, bytes]) -> str:
    """A report as one HTML file without any link to another.

    Args:
      markdown: the report; its first line is the title.
      pictures: name in the Markdown -> contents of the PNG.

    Returns:
      The page.
    """
    parser = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")
    parser.disable(["link", "autolink", "reference", "html_block", "html_inline"])
    parser.renderer.pictures = pictures
    tokens = _move_captions(parser.parse(markdown))
    _set_line_breaks(tokens)
    body = parser.renderer.render(tokens, parser.options, {}).replace(_BREAK, "<wbr>")
    heading = next((t for t in tokens if t.type == "inline"), None)
    words = [t.content for t in heading.children if t.type in ("text", "code_inline")]
    return _PAGE.format(title=html.escape("".join(words)), style=_STYLE, body=body)


def write_page(path: pathlib.Path, markdown: str, pictures: Sequence[str]) -> None:
    """Writes a report as one HTML file, whole or not at all.

    Args:
      path: of the file.
      markdown: the report.
      pictures: names of the PNG files beside it that the report shows.
    """
    write_text(path, render_page(markdown, {n: (path.parent / n).read_bytes() for n in pictures}))
