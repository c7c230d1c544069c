"""Names in any script: the installed fonts that have their letters, and numbers where none has."""

import functools
import unicodedata
from collections.abc import Iterable, Sequence

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

# Comes with matplotlib, and so is there on every machine.
OWN = "DejaVu Sans"
# Has a box for every letter, and the letter itself for none.
_BOXES = "Last Resort"


def missing_letters(texts: Iterable[str]) -> frozenset[str]:
    """The letters that matplotlib's own font lacks; spaces and marks without ink do not count."""
    letters = frozenset().union(*texts)
    inked = [c for c in letters if unicodedata.category(c) not in ("Cc", "Cf", "Zs", "Zl", "Zp")]
    own = font_manager.get_font(font_manager.findfont(OWN))
    return frozenset(c for c in inked if not own.get_char_index(ord(c)))


def find_fonts(letters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Looks for letters among the fonts that matplotlib knows of.

    Args:
      letters: from ``missing_letters``.

    Returns:
      Names of fonts that together have as many of the letters as there are in any font, and the
      letters that no font has.
    """
    found, left = [], letters
    # A notebook may add a font after it has seen numbers.
    held = _installed(left, len(font_manager.fontManager.ttflist)) if left else {}
    while left and held:
        # Upright fonts without serifs before others that have as many.
        name = min(held, key=lambda n: (-len(held[n] & left), "Sans" not in n, n))
        if not held[name] & left:
            break
        found.append(name)
        left -= held[name]
    return found, left


@functools.lru_cache(maxsize=32)
def _installed(letters: frozenset[str], known: int) -> dict[str, frozenset[str]]:
    """Font -> those of the letters that it has, among so many known fonts."""
    del known  # part of the cache's key
    held: dict[str, frozenset[str]] = {}
    for entry in font_manager.fontManager.ttflist:
        if entry.name.startswith(_BOXES) or entry.style != "normal" or entry.name in held:
            continue
        try:
            font = FT2Font(entry.fname, face_index=entry.index)
        except (OSError, RuntimeError):  # matplotlib's list is older than the folder of fonts
            continue
        held[entry.name] = frozenset(c for c in letters if font.get_char_index(ord(c)))
    return held


def use_fonts(figure: Figure) -> None:
    """Gives every text of a figure the fonts that its letters need."""
    for axes in figure.axes:
        # Labels of ticks have no text before they are asked for.
        axes.get_xticklabels(), axes.get_yticklabels()
    texts = figure.findobj(Text)
    names, _ = find_fonts(missing_letters(text.get_text() for text in texts))
    if names:
        for text in texts:
            text.set_fontfamily([OWN, *names])


def can_draw(text: str) -> bool:
    """Whether the installed fonts have all letters of a text."""
    return not find_fonts(missing_letters([text]))[1]


def drawable(names: Sequence[str], kind: str = "") -> list[str]:
    """Names as pictures show them: as they are, or all as numbers from 1 if one cannot be drawn.

    Args:
      names: all of one kind.
      kind: what stands before the numbers.
    """
    if all(map(can_draw, names)):
        return list(names)
    return [f"{kind}{number}" for number in range(1, len(names) + 1)]


def spell_key(names: Sequence[str], shown: Sequence[str]) -> str:
    """What the numbers of ``drawable`` stand for; empty where the names are shown themselves."""
    if list(names) == list(shown):
        return ""
    return ", ".join(f"{number} = {name}" for number, name in zip(shown, names))


def warn_of_numbers(names: Sequence[str], shown: Sequence[str]) -> str | None:
    """A sentence for a person whose class names are numbers in the pictures, None if they are not.

    Args:
      names: of the classes.
      shown: from ``drawable``.
    """
    key = spell_key(names, shown)
    if not key:
        return None
    return (
        "no installed font has all letters of the class names, so pictures number the classes: "
        f"{key}. With a font that has them (for Chinese, Japanese and Korean: Noto Sans CJK) they "
        "show the names."
    )
