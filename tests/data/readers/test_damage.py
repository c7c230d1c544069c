"""Sound files damaged at random: a reader reads them, or says in one sentence what is wrong.

``make fuzz`` does the same for as long as one likes, guided by coverage (``tests/fuzz.py``).
"""

import io
import os
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import READERS, check

# Examples of each reader; more by the variable of this name.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 150))


@st.composite
def damages(draw, size: int, words: list[bytes]):
    """A place, how many bytes go there, and what comes in their stead."""
    place = draw(st.integers(0, size))
    gone = draw(st.sampled_from([0, 0, 1, 1, 2, 8, size]))
    come = draw(st.sampled_from(words) | st.binary(max_size=8))
    return place, gone, come * draw(st.sampled_from([1, 1, 1, 2, 300]))


def damage(content: bytes, changes) -> bytes:
    for place, gone, come in changes:
        content = content[:place] + come + content[place + gone :]
    return content


def damage_member(content: bytes, number: int, changes) -> bytes:
    """Damages one array of an archive, and packs it anew: the checksum holds."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        names = old.namelist()
        for name in names:
            data = old.read(name)
            chosen = name == names[number % len(names)]
            new.writestr(name, damage(data, changes) if chosen else data)
    return made.getvalue()


@pytest.mark.parametrize("kind", READERS)
def test_sound_files_are_read(tmp_path, kind):
    for content in READERS[kind].seeds:
        assert check(READERS[kind], tmp_path / "file", content) is None


@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_are_read_or_refused(tmp_path_factory, kind):
    reader = READERS[kind]
    path = tmp_path_factory.mktemp(kind) / "file"

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 150, database=None)
    @given(st.data())
    def reads_or_refuses(data):
        content = data.draw(st.sampled_from(reader.seeds))
        changes = data.draw(st.lists(damages(len(content), reader.words), min_size=1, max_size=4))
        if kind == "npz" and data.draw(st.booleans()):
            content = damage_member(content, data.draw(st.integers(0, 9)), changes)
        else:
            content = damage(content, changes)
        check(reader, path, content)

    reads_or_refuses()
