"""What is worth a look: each notice where it is due, with its place, and not elsewhere."""

import dataclasses

import numpy as np
import pytest

from cberl_jax.data.corpus import Corpus, describe
from cberl_jax.data.holdout import with_dev
from cberl_jax.data.notices import describe_with_notices, notices
from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.validate import validate
from cberl_jax.errors import UserError

COUNT = 18


def corpus(**changes) -> Corpus:
    """Nine dialogues of two turns, a third in each split, with nothing to say of them."""
    random = np.random.default_rng(0)
    made = Corpus(
        classes=("calm", "glad"),
        dialogue=np.array([f"d{k}" for k in range(9)]),
        split=np.repeat(["train", "dev", "test"], 3),
        length=np.full(9, 2, np.int32),
        speaker=np.array(["A", "B"] * 9),
        label=np.array([0, 1] * 9, np.int32),
        features={m: random.normal(size=(COUNT, 3)).astype("f4") for m in ("text", "audio")},
        present={m: np.ones(COUNT, bool) for m in ("text", "audio")},
    )
    return validate(dataclasses.replace(made, **changes))


def features(name: str, row, column, value) -> dict[str, np.ndarray]:
    made = {m: array.copy() for m, array in corpus().features.items()}
    made[name][row, column] = value
    return made


DUE = {
    "classes in two cases": (
        {"classes": ("Glad", "glad")},
        "the classes 'Glad' and 'glad' count as two, but differ only in letter case or in how "
        "accents are written",
    ),
    "accents in two ways": (
        {"classes": ("caf\u00e9", "cafe\u0301")},
        "the classes 'caf\u00e9' and 'cafe\u0301' count as two, but differ only in letter "
        "case or in how accents are written",
    ),
    "a word for nothing": (
        {"classes": ("None", "glad")},
        "the class None may stand for no label; leave those labels empty if it does",
    ),
    "rows of zeros": (
        {"features": features("audio", [3, 8], slice(None), 0)},
        "audio is all zeros in 2 of the 18 utterances that have it, first at dialogue 'd1', "
        "utterance 1; if it is missing there, say so (present.audio)",
    ),
    "constant column": (
        {"features": features("text", slice(0, 6), 1, 7.5)},
        "1 of the 3 columns of text are constant in train, first column 1",
    ),
    "class without train utterances": (
        {"label": np.array([0] * 6 + [0, 1] * 6, np.int32)},
        "the class glad has no train utterance (3 in dev, 3 in test), so it cannot be learnt",
    ),
    "modality that is nowhere": (
        {
            "features": corpus().features | {"visual": np.zeros((COUNT, 0), "f4")},
            "present": corpus().present | {"visual": np.ones(COUNT, bool)},
        },
        "the file has a place for visual, but it is absent everywhere",
    ),
    "modality that is in train alone": (
        {"present": corpus().present | {"audio": np.arange(COUNT) < 6}},
        "audio is absent from all of dev and test",
    ),
    "dialogues in no split": (
        {"left_out": 4},
        "4 dialogues of the file stand in no split and are left out",
    ),
    "IEMOCAP's mark": (
        {"classes": ("calm", "xxx")},
        "the class xxx is IEMOCAP's mark for no class; leave those labels empty to train without "
        "them",
    ),
}


@pytest.mark.parametrize("case", DUE)
def test_notice_is_given_where_it_is_due(case):
    changes, expected = DUE[case]
    assert notices(corpus(**changes)) == [expected]


def test_absent_rows_are_no_rows_of_zeros():
    present = corpus().present | {"audio": np.arange(COUNT) % 2 == 0}
    assert notices(corpus(present=present)) == []


def test_nothing_is_said_without_a_reason():
    assert describe_with_notices(corpus()) == describe(corpus())
    assert notices(load_corpus("simulated:small")) == []


def test_notices_stand_under_their_heading():
    lines = describe_with_notices(corpus(left_out=2)).splitlines()
    assert lines[-3:] == [
        "",
        "Worth a look:",
        "- 2 dialogues of the file stand in no split and are left out",
    ]


def test_a_dev_split_is_made_where_there_is_none_and_said():
    split = np.where(corpus().split == "dev", "train", corpus().split)
    without = dataclasses.replace(corpus(), split=split)
    made = with_dev(without, 0.3)
    assert [np.sum(made.split == s) for s in ("train", "dev", "test")] == [4, 2, 3]
    assert "2 of 6 train dialogues are held out as dev" in notices(made)[0]
    assert with_dev(without, 0.0) is without and with_dev(made, 0.3) is made
    with pytest.raises(UserError, match="the dev split has no dialogue; --dev_share=0.1 takes"):
        validate(without)
