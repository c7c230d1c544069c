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

from cberl_jax.runtime.files import write_text

_SPECIAL = re.compile(
    r"[\\`*\[\]<>|~$]|&(?=#?\w+;)|(?<!\w)_|_(?!\w)"
    # What makes a heading, a list or a rule of a line that opens with it.
    r"|^[#+=-](?=[#=\s-]|$)|(?:(?<=^\d)|(?<=^\d\d))[.)](?=\s|$)"
)
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2 { line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.7rem; text-align: left; border-bottom: 1px solid #ddd;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { border-bottom: 2px solid #888; }
img { max-width: 100%; height: auto; }
code, pre { background: #f3f3f3; border-radius: 3px; overflow-x: auto; }
pre { padding: 0.7rem; }
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


class _Renderer(RendererHTML):
    """Renders a picture only if it is one of the report's own."""

    pictures: Mapping[str, bytes] = {}

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
    tokens = parser.parse(markdown)
    body = parser.renderer.render(tokens, parser.options, {})
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
