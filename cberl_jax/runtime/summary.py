"""What an object shows of itself: a few lines as text, and a table in a notebook."""

import html
from collections.abc import Sequence
from typing import NamedTuple


class Summary(NamedTuple):
    """An object in short.

    Attributes:
      lines: what a person wants to know first, a line each.
      head: titles of the columns of a notebook's table.
      rows: its cells.
    """

    lines: Sequence[str]
    head: Sequence[str]
    rows: Sequence[Sequence[object]]

    def to_html(self) -> str:
        """The lines and the table for a notebook; names in them stay text."""
        said = "<br>".join(html.escape(line) for line in self.lines)
        head = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in self.head)
        rows = [
            "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
            for row in self.rows
        ]
        return f"<p>{said}</p><table><tr>{head}</tr>{''.join(rows)}</table>"


class Summarised:
    """Gives an object with ``_summarise`` its text and its table."""

    def _summarise(self) -> Summary:
        raise NotImplementedError

    def __repr__(self) -> str:
        return "\n".join(self._summarise().lines)

    def _repr_html_(self) -> str:
        return self._summarise().to_html()


def list_names(names: Sequence[object], most: int = 12) -> str:
    """Names, joined by commas; of many the first ones and how many more there are."""
    listed = ", ".join(map(str, names[:most]))
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"
