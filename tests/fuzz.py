"""Coverage-guided fuzzing of a reader: ``python tests/fuzz.py READER [flags of libFuzzer]``.

``make fuzz MINUTES=10`` does it for all readers. A file that makes a reader raise anything but a
``UserError``, or take over 30 seconds or 2 GB, is left in ``runs/fuzz`` and ends the fuzzing.
"""

import os
import random
import sys
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["cberl_jax", "json", "pickle", "zipfile"]):
    from readers import READERS, check

FOUND = Path("runs/fuzz")
LIMITS = ["-max_len=65536", "-timeout=30", "-rss_limit_mb=2048", "-print_final_stats=1"]


def mutate(content: bytes, most: int, seed: int) -> bytes:
    """Damages an archive as it lies, or a member of it that is then packed anew."""
    chance = random.Random(seed)
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:
        members = []
    if not members or chance.random() < 0.2:
        return atheris.Mutate(content, most)
    chosen = chance.randrange(len(members))
    name, data = members[chosen]
    members[chosen] = (name, atheris.Mutate(data, max(len(data) + 64, 128)))
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()[:most]


def main() -> None:
    reader = READERS[sys.argv[1]]
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    corpus, words = folder / "corpus", folder / "words"
    corpus.mkdir()
    FOUND.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(reader.seeds):
        (corpus / str(number)).write_bytes(seed)
    quoted = ("".join(f"\\x{byte:02x}" for byte in word) for word in reader.words)
    words.write_text("".join(f'"{word}"\n' for word in quoted))
    flags = [*LIMITS, f"-dict={words}", f"-artifact_prefix={FOUND}/{sys.argv[1]}-", *sys.argv[2:]]
    options = {"custom_mutator": mutate} if sys.argv[1] == "npz" else {}
    path = folder / "input"
    atheris.Setup(
        [sys.argv[0], *flags, str(corpus)], lambda data: check(reader, path, data), **options
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
