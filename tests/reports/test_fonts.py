"""Names in any script: drawn with a font that has their letters, else as numbers with a key."""

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.image import imread

from cberl_jax.reports.plots import fonts
from cberl_jax.reports.plots.fonts import (
    can_draw,
    drawable,
    find_fonts,
    missing_letters,
    spell_key,
    warn_of_numbers,
)
from cberl_jax.reports.plots.run import draw_confusion
from cberl_jax.reports.plots.style import drawing

CLASSES = ("高兴", "悲伤", "中性")


def make_font(path, letters):
    """A font that has a black square for each of the letters."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    names = [".notdef", *(f"uni{ord(c):04X}" for c in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"uni{ord(c):04X}" for c in letters})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def known(monkeypatch):
    """The fonts that matplotlib knows of: its own alone, however many the machine has."""
    own = [f for f in font_manager.fontManager.ttflist if f.name.startswith(("DejaVu", "Last"))]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    fonts._installed.cache_clear()
    yield own
    fonts._installed.cache_clear()


@pytest.fixture
def install(known, tmp_path):
    """A function that makes a font of some letters known."""

    def add(name, letters):
        font_manager.fontManager.addfont(make_font(tmp_path / f"{name}.ttf", letters))

    return add


def test_letters_of_the_own_font_are_not_missing():
    assert missing_letters(["joy", "Ärger", "грусть", "χαρά", "a\tb\u200b c"]) == frozenset()
    assert missing_letters(["joy 高", "兴"]) == {"高", "兴"}


def test_without_a_font_names_become_numbers_with_a_key(known):
    assert not can_draw("高兴") and can_draw("joy")
    shown = drawable(CLASSES)
    assert shown == ["1", "2", "3"]
    # All of them: a picture of names and numbers would be read wrongly.
    assert drawable(["joy", "高兴"]) == ["1", "2"]
    assert spell_key(CLASSES, shown) == "1 = 高兴, 2 = 悲伤, 3 = 中性"
    warning = warn_of_numbers(CLASSES, shown)
    assert "1 = 高兴, 2 = 悲伤, 3 = 中性" in warning and "\n" not in warning
    assert drawable(["joy", "fear"]) == ["joy", "fear"]
    assert warn_of_numbers(["joy"], ["joy"]) is None


def test_an_installed_font_is_found_and_used(install, tmp_path, monkeypatch):
    install("Other", "語")
    install("Some", "高兴")
    install("Whole", "高兴悲伤中性")
    assert find_fonts(missing_letters(CLASSES)) == (["Whole"], frozenset())
    assert find_fonts(missing_letters(["高語"]))[1] == frozenset()
    assert drawable(CLASSES) == list(CLASSES)
    families = {}

    def watched(self, *arguments, **options):
        labels = [label for axes in self.axes for label in axes.get_yticklabels()]
        families.update({label.get_text(): label.get_fontfamily() for label in labels})

    monkeypatch.setattr(Figure, "savefig", watched)
    draw_confusion(tmp_path / "a.png", CLASSES, np.eye(3))
    assert families == {f"{name} (1)": ["DejaVu Sans", "Whole"] for name in CLASSES}


def test_a_letter_of_an_installed_font_has_its_ink(install, tmp_path):
    """The square of the made font is much darker than the frame of a letter that is missing."""

    def ink(name):
        with drawing(tmp_path / f"{name}.png") as axes:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "高" * 5, fontsize=40)
        return (imread(tmp_path / f"{name}.png")[..., 0] < 0.5).sum()

    without = ink("without")
    install("Some", "高兴")
    assert ink("with") > 2 * without
    # 5 squares of 0.9 em, 40 points at 200 dots per inch.
    assert ink("with") == pytest.approx(5 * (0.9 * 40 / 72 * 200) ** 2, rel=0.02)


def test_a_font_file_that_is_gone_is_passed_over(install, tmp_path):
    install("Some", "高兴")
    (tmp_path / "Some.ttf").unlink()
    assert not can_draw("高兴")
