"""The field's pickles in small, and ways to spoil them."""

import pickle

import numpy as np

LENGTHS = (3, 1, 4, 2, 3, 2, 5, 1, 2, 3, 2, 4, 3, 2)
IEMOCAP_IDS = tuple(f"Ses0{k}F_é" for k in range(len(LENGTHS)))
MELD_IDS = tuple(range(len(LENGTHS)))
TESTED = 3  # the last so many dialogues are the test split


def table(ids, make):
    return {
        key: [make(where, turn) for turn in range(length)]
        for where, (key, length) in enumerate(zip(ids, LENGTHS))
    }


def vectors(ids, width, salt):
    random = np.random.default_rng(salt)
    return table(ids, lambda *_: random.normal(size=width).astype(np.float32))


def layout(name):
    """The entries of one of the seven files, small but with the true order and forms."""
    meld = "meld" in name.lower() or name == "GraphSmile" or name == "DialogueRNN"
    ids = MELD_IDS if meld else IEMOCAP_IDS
    classes = 7 if meld else 6
    texts, widths = {
        "MMGCN IEMOCAP": (1, (100, 1582, 342)),
        "COGMEN IEMOCAP": (1, (768, 100, 512)),
        "MMGCN MELD": (1, (600, 300, 342)),
        "SDT IEMOCAP": (4, (1024, 1582, 342)),
        "SDT MELD": (4, (1024, 300, 342)),
        "GraphSmile": (4, (1024, 300, 342)),
        "DialogueRNN": (1, (600, 300)),
    }[name]
    one_hot = np.eye(9, dtype=int).tolist()
    speakers = table(ids, lambda d, t: one_hot[(d + t) % 9] if meld else "MF"[t % 2])
    sentiment = table(ids, lambda d, t: (d + t) % 3)
    entries = [
        table(ids, lambda d, t: f"utt_{d}_{t}"),
        speakers,
        table(ids, lambda d, t: (d + 2 * t) % classes),
    ]
    entries += [sentiment] if name == "GraphSmile" else []
    entries += [vectors(ids, widths[0], salt) for salt in range(texts)]
    entries += [vectors(ids, width, 10 + salt) for salt, width in enumerate(widths[1:])]
    entries += [
        table(ids, lambda d, t: f"Sentence é {d} {t}"),
        list(ids[:-TESTED]),
        list(ids[-TESTED:]),
    ]
    entries += {"DialogueRNN": [sentiment]}.get(name, [None] if meld else [])
    return tuple(entries)


COUNTS = {
    "MMGCN IEMOCAP": 9,
    "COGMEN IEMOCAP": 9,
    "MMGCN MELD": 10,
    "SDT IEMOCAP": 12,
    "SDT MELD": 13,
    "GraphSmile": 14,
    "DialogueRNN": 9,
}


# Twenty dialogues as people's own files have them: any ids, speakers, labels and lists.

TURNS = (4, 3, 5, 4, 6, 3, 4, 5, 4, 3, 5, 4, 6, 4, 3, 5, 4, 4, 3, 5)
SESSIONS = tuple(f"Ses0{1 + k // 4}F_impro{k:02d}" for k in range(len(TURNS)))
NUMBERS = tuple(range(len(TURNS)))
# Within the official splits of MELD: 12 train, 3 dev and 5 test dialogues.
OFFICIAL = (*range(12), *range(1039, 1042), *range(1153, 1158))


def columns(ids, make):
    """dialogue id -> a value per utterance; ``make`` takes the dialogue's place and the turn."""
    return {
        key: [make(place, turn) for turn in range(turns)]
        for place, (key, turns) in enumerate(zip(ids, TURNS))
    }


def gender(place, turn):
    return "MF"[turn % 2]


def one_hot(width):
    return lambda place, turn: np.eye(width, dtype=int)[(place + turn) % width].tolist()


def cycle(*values):
    """Labels that run through the values."""
    return lambda place, turn: values[(place + 2 * turn) % len(values)]


def own(ids=SESSIONS, speaker=gender, label=None, lists=None, widths=(8, 6, 5)):
    """A tuple of nine entries or more: ids, speakers, labels, text, audio, visual, ..."""
    random = np.random.default_rng(0)
    return [
        columns(ids, lambda place, turn: f"{ids[place]}_{turn:03d}"),
        columns(ids, speaker),
        columns(ids, label or cycle(*range(6))),
        *(columns(ids, lambda *_, w=w: random.normal(size=w).astype("f4")) for w in widths),
        columns(ids, lambda place, turn: f"sentence {place} {turn}"),
        *(lists or (list(ids[:14]), list(ids[14:]))),
    ]


def cosmic(ids=SESSIONS, speaker=gender, label=None, lists=None, sentiment=None):
    """COSMIC's layout: no ids of utterances, four text layers, and train, test, dev."""
    made = own(ids, speaker, label, widths=(16,) * 4)
    between = [columns(ids, sentiment)] if sentiment else []
    lists = lists or (list(ids[:12]), list(ids[14:]), list(ids[12:14]))
    return [*made[1:3], *between, *made[3:8], *lists]


def samples(ids=SESSIONS, places=NUMBERS, **more):
    """CORECT's layout of one split: a dictionary for each dialogue."""
    entries = own(ids)
    names = ("speakers", "labels", "text", "audio", "visual", "sentence")
    return [
        {"vid": ids[k]} | {name: e[ids[k]] for name, e in zip(names, entries[1:7])} | more
        for k in places
    ]


def write(path, entries, protocol=2):
    path.write_bytes(pickle.dumps(entries, protocol=protocol))
    return path


def change(place, value, key=None):
    """Replaces an entry of the MMGCN MELD layout, or one dialogue of it."""

    def apply(entries):
        if key is None:
            entries[place] = value
        else:
            entries[place][key] = value

    return apply


def drop(place, key):
    return lambda entries: entries[place].pop(key)


def recast(place, function):
    def apply(entries):
        entries[place] = {
            key: [function(value) for value in row] for key, row in entries[place].items()
        }

    return apply
