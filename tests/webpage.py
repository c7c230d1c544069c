"""What a browser would make of a page."""

import base64
import re
from html.parser import HTMLParser

ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "img", "h1", "h2", "p", "ul", "li", "hr"),
    *("table", "thead", "tbody", "tr", "th", "td", "wbr", "caption", "code", "pre", "em"),
}


class Page(HTMLParser):
    """What a browser would make of a page: its tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.cells, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        self.text += data
        if self.cells:
            self.cells[-1] += data


def check_self_contained(text):
    """Asserts that a page refers to nothing but itself; returns its pictures."""
    page = Page(text)
    assert set(page.tags) <= ALLOWED, set(page.tags) - ALLOWED
    sources = [value for tag, name, value in page.attributes if name == "src"]
    assert all(x.startswith("data:image/png;base64,") for x in sources)
    names = {name for _, name, _ in page.attributes}
    assert names <= {"lang", "charset", "http-equiv", "content", "name", "alt", "src", "style"}
    styles = [value for _, name, value in page.attributes if name == "style"]
    assert all(re.fullmatch("text-align: ?(left|right|center)", x) for x in styles)
    assert "url(" not in text and "@import" not in text
    return [base64.b64decode(x.split(",", 1)[1]) for x in sources]
