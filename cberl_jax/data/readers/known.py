"""The field's corpora: the order of their classes, and what tells a file of one from the others.

A file of numbers does not name its classes. What it shows instead (dialogue ids, speakers, widths,
labels, sizes) is compared with what is published of each corpus; where that is not enough or does
not agree, the names have to be given.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

EMORYNLP_CLASSES = ("Joyful", "Mad", "Peaceful", "Neutral", "Sad", "Powerful", "Scared")
IEMOCAP_CLASSES = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
MELD_CLASSES = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
SENTIMENT = ("negative", "neutral", "positive")
CORPORA = {
    "meld": MELD_CLASSES,
    "iemocap": IEMOCAP_CLASSES,
    "iemocap4": IEMOCAP_CLASSES[:4],
    "emorynlp": EMORYNLP_CLASSES,
    "mosei": ("negative", "positive"),
    "mosi": ("negative", "positive"),
}
HOW_TO_NAME = (
    "name the classes in the order of their numbers by --classes=a,b,c, or the corpus by "
    f"--corpus={'|'.join(CORPORA)} (data.classes, data.corpus in a config)"
)

MELD_TRAIN_IDS = frozenset(range(1039))
MELD_DEV_IDS = frozenset(range(1039, 1153))
MELD_TEST_IDS = frozenset(range(1153, 1433))
# Dialogues of train, dev and test as published. One of MELD's train dialogues has no features.
MELD_SIZES = ((1038, 114, 280), (1039, 114, 280))
EMORYNLP_SIZES = ((713, 99, 85), (659, 89, 79))
# Widths of (audio, visual) in the published files, visual of 0 where there is none.
_IEMOCAP_WIDTHS = ((1582, 342), (100, 512))
_MELD_WIDTHS = ((300, 342),)
KNOWN_WIDTHS = _IEMOCAP_WIDTHS + _MELD_WIDTHS
DENSEFACE = 342  # Of visual in all but one.
# The same of (text, audio, visual). Widths of 100, 512 and 768 occur in other orders, too.
KNOWN_TRIPLES = tuple(
    (text, audio, DENSEFACE)
    for audio, texts in ((1582, (100, 768, 1024)), (300, (600, 768, 1024)))
    for text in texts
)
_MELD_TEXT_AUDIO = (600, 300)

_MELD_IDS = frozenset(map(str, MELD_TRAIN_IDS | MELD_DEV_IDS | MELD_TEST_IDS))

IEMOCAP_ID = re.compile(r"Ses\d\d?\d?[MF]?_")
_IEMOCAP_SPEAKER = re.compile(r"[MF]|Ses\d\d[MF]")
_EMORYNLP_ID = re.compile(r"s(?:ea)?\d+_e(?:p)?\d+_(?:sc?|c)\d+", re.IGNORECASE)
# Width of the one-hot speakers of MELD's published files.
_MELD_SPEAKERS = 9
MELD_FORM = "numbered dialogues, speakers one-hot and 9 wide, seven labels and sound"
_LIKE_MELD = "numbered dialogues, one-hot speakers and seven labels"
GENDERS = "speakers M and F"
# Shares of MELD's classes in their order. Its three splits differ from them by 5 points at most.
_MELD_SHARES = (0.47, 0.12, 0.03, 0.07, 0.17, 0.03, 0.12)
_CLOSE = 0.06
# From so many labels on their shares tell the corpus.
_MANY = 1000
# From so many labels on neutral has at least this share of MELD's, and Joyful less of EmoryNLP's.
_SOME, _MELD_NEUTRAL = 200, 0.35


class Evidence(NamedTuple):
    """What a file shows of its corpus.

    Attributes:
      ids: dialogue ids, as text.
      length: utterances of each.
      speakers: [N] names.
      form: of the speakers: text, vectors (one-hot) or integers.
      one_hot: width of the one-hot vectors, 0 where there are none or of several widths.
      labels: class number -> utterances, without the unlabelled.
      widths: modality -> width, without those of width 0.
      lists: numbers of dialogues in the file's lists of ids, in its order.
      official: whether its lists are the official splits of MELD by their ids.
    """

    ids: Sequence[str]
    length: Sequence[int]
    speakers: Sequence[str]
    form: str
    one_hot: int
    labels: Counter
    widths: Mapping[str, int]
    lists: Sequence[int]
    official: bool


def identify(seen: Evidence) -> tuple[str, str]:
    """The corpus that a file is of.

    Args:
      seen: what the file shows.

    Returns:
      The key of ``CORPORA``, or "" where it is not certain, and the reason in words: why it is
      not certain, or what points to the corpus if that is one weak sign, else "".
    """
    signs = _signs(seen)
    if not signs:
        return "", f"nothing in the file tells its corpus ({_labels_in_words(seen)})"
    found = sorted(set(signs.values()))
    if len(found) > 1:
        words = " but ".join(f"{sign} are {name}'s" for sign, name in signs.items())
        return "", f"the evidence for its corpus disagrees ({words})"
    name = found[0]
    fault = _faults(seen)[name]
    if not fault and set(signs) in ({GENDERS}, {_LIKE_MELD}):
        fault = "other corpora have them too"
    if fault:
        return "", f"{next(iter(signs))} are {name}'s, but {fault}"
    if name == "iemocap" and max(seen.labels, default=0) == 3:
        name = "iemocap4"
    return name, MELD_FORM if set(signs) == {MELD_FORM} else ""


def _signs(seen: Evidence) -> dict[str, str]:
    """What points to a corpus -> which."""
    signs = {}
    if seen.ids and all(map(IEMOCAP_ID.match, seen.ids)):
        signs[f"dialogue ids such as {seen.ids[0][:40]!r}"] = "iemocap"
    if seen.ids and all(map(_EMORYNLP_ID.match, seen.ids)):
        signs[f"dialogue ids such as {seen.ids[0][:40]!r}"] = "emorynlp"
    if seen.speakers and all(map(_IEMOCAP_SPEAKER.fullmatch, set(seen.speakers))):
        signs[GENDERS] = "iemocap"
    if seen.official:
        signs["the ids of the splits"] = "meld"
    widths = tuple(seen.widths.get(name, 0) for name in ("audio", "visual"))
    if widths in _IEMOCAP_WIDTHS:
        signs[f"audio and visual {widths[0]} and {widths[1]} wide"] = "iemocap"
    if widths in _MELD_WIDTHS or (seen.widths.get("text", 0), *widths) == (*_MELD_TEXT_AUDIO, 0):
        signs[f"audio {widths[0]} and visual {widths[1]} wide"] = "meld"
    sizes = tuple(sorted(seen.lists))
    if 6 in seen.labels:
        if sizes in {tuple(sorted(known)) for known in EMORYNLP_SIZES}:
            signs["the sizes of the splits"] = "emorynlp"
        if sizes in {tuple(sorted(known)) for known in MELD_SIZES}:
            signs["the sizes of the splits"] = "meld"
        if _has_shares_of_meld(seen.labels):
            signs["the shares of its labels"] = "meld"
        if not signs:
            signs |= _form_of_meld(seen)
    return signs


def _form_of_meld(seen: Evidence) -> dict[str, str]:
    """Of seven-class corpora only MELD is published with sound, in a form of its own."""
    if seen.form != "vectors" or not all(map(str.isdecimal, seen.ids)):
        return {}
    count = seen.labels.total()
    is_form = (
        seen.one_hot == _MELD_SPEAKERS
        and "audio" in seen.widths
        and _MELD_IDS.issuperset(seen.ids)
        and (count < _SOME or seen.labels[0] >= _MELD_NEUTRAL * count)
    )
    return {MELD_FORM if is_form else _LIKE_MELD: "meld"}


def _has_shares_of_meld(labels: Counter) -> bool:
    count = labels.total()
    shares = [labels[c] / max(count, 1) for c in range(len(_MELD_SHARES))]
    close = all(abs(x - y) <= _CLOSE for x, y in zip(shares, _MELD_SHARES))
    return count >= _MANY and max(labels) < len(shares) and close


def _faults(seen: Evidence) -> dict[str, str]:
    """Corpus -> what in the file cannot be that corpus, empty where nothing is.

    A label that is too large is not looked at here: it is refused with its place.
    """
    top = max(seen.labels, default=0)
    ranked = [label for label, _ in seen.labels.most_common()]
    many = seen.labels.total() >= _MANY and len(ranked) == top + 1
    most, least = (ranked[0], ranked[-1]) if many else (None, None)
    iemocap = meld = emorynlp = ""
    if top < 5 and top != 3:
        iemocap = f"{_labels_in_words(seen)}, not to 5 (six-way) or 3 (four-way)"
    elif seen.form == "text" and _most_speakers(seen) > 2:
        iemocap = "a dialogue has more than two speakers"
    elif top == 5 and least not in (None, 0):
        iemocap = f"label {least} is the rarest, not 0 (happy)"
    elif top == 3 and most not in (None, 2):
        iemocap = f"label {most} is the most frequent, not 2 (neutral)"
    if top < 6:
        meld = emorynlp = f"{_labels_in_words(seen)}, not to 6"
    elif most is not None:
        # Neutral is by far the most frequent class of both.
        meld = "" if most == 0 else f"label {most} is the most frequent, not 0 (neutral)"
        emorynlp = "" if most == 3 else f"label {most} is the most frequent, not 3 (Neutral)"
    return {"iemocap": iemocap, "meld": meld, "emorynlp": emorynlp}


def _most_speakers(seen: Evidence) -> int:
    most, start = 0, 0
    for length in seen.length:
        most = max(most, len(set(seen.speakers[start : start + length])))
        start += length
    return most


def _labels_in_words(seen: Evidence) -> str:
    if not seen.labels:
        return "there are no labels"
    return f"labels go from {min(seen.labels)} to {max(seen.labels)}"
