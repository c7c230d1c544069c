"""Text read in its conversation: what an encoder is given, and what comes out of it."""

import numpy as np
import pytest
from encoders import needs_encoder, write_encoder

from cberl_jax.data.readers.load import load_conversations
from cberl_jax.data.readers.transcripts import read_transcripts
from cberl_jax.errors import UserError
from cberl_jax.features.context import Context, create_context, make_inputs
from cberl_jax.features.extract import Sources, extract
from cberl_jax.features.text import load_encoder
from cberl_jax.features.tuning import Tuning

TURNS = ["Ross,We were on a break !", "Rachel,No", "Joey,How are you doing ?", "Ross,"]
TURNS += ["Rachel,The cat sat .", "Joey,Good night"]


@pytest.fixture(scope="module", params=["Bert", "MPNet"])
def encoder(request, tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoders") / request.param, request.param)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "conv.csv", TURNS)
    return tmp_path


def write(path, turns, head="dialogue,speaker,text", tail=()):
    rows = [f"d,{turn}" for turn in turns]
    path.write_text("\n".join([head, *(f"{r}{t}" for r, t in zip(rows, tail or [""] * 99))]))


def read(encoder, context):
    """What the encoder reads of each utterance, and which part of it is the utterance's own."""
    loaded = load_encoder(str(encoder))
    inputs = make_inputs(loaded, read_transcripts(["conv.csv"]), context)
    texts = [loaded.tokenizer.convert_ids_to_tokens(ids) for ids in inputs.ids]
    own = [" ".join(text[slice(*span)]) for text, span in zip(texts, inputs.own)]
    return [" ".join(text[1:-1]) for text in texts], own, inputs


@needs_encoder
def test_turns_are_read_from_the_nearest_outward(folder, encoder):
    separator = load_encoder(str(encoder)).tokenizer.sep_token
    texts, own, inputs = read(encoder, Context(2, 1, 60, True))
    # The fourth turn has no text: nothing is read of it, in its own place or in another's.
    assert inputs.rows.tolist() == [0, 1, 2, 4, 5]
    first, second, third = (
        "ross : we were on a break !",
        "rachel : no",
        "joey : how are you doing ?",
    )
    between = f" {separator} "
    assert texts[0] == between.join([first, second])
    assert texts[2] == between.join([first, second, third])
    assert texts[3] == between.join([third, "rachel : the cat sat .", "joey : good night"])
    assert own == [t.split(" : ")[1] for t in (first, second, third)] + [
        "the cat sat .",
        "good night",
    ]


@needs_encoder
def test_the_budget_is_filled_and_never_exceeded(folder, encoder):
    separator = load_encoder(str(encoder)).tokenizer.sep_token
    texts, own, inputs = read(encoder, Context(8, 0, 12, True))
    assert inputs.length.max() == 12
    # Two special tokens and seven of the turn leave room for a separator and two words.
    assert texts[2] == f": no {separator} joey : how are you doing ?"
    # Where the utterance alone is too long, its end is cut.
    texts, own, _ = read(encoder, Context(8, 0, 8, False))
    assert texts[0] == own[0] == "we were on a break !" and own[2] == "how are you doing ?"
    _, own, inputs = read(encoder, Context(0, 0, 6, True))
    assert own[0] == "we were" and inputs.length.max() == 6


@needs_encoder
@pytest.mark.parametrize("tuned", [False, True])
def test_causal_features_do_not_change_with_later_turns(folder, encoder, tuned):
    head, splits = "dialogue,speaker,text,start,end,split,label", ("train", "dev", "test")
    found = []
    for number, last in enumerate((["A,Good night,9,10"], ["B,bad bad day,30,31", "A,no,40,41"])):
        rows = ["A,We were,0,1", "B,The cat,2,3", "A,a dog sat,4,5", *last]
        lines = [
            f"{s},{row},{s},{'joy' if n % 2 else 'fear'}"
            for s in splits[:2]
            for n, row in enumerate(rows[:3])
        ]
        lines += [f"test,{row},test,joy" for row in rows]
        (folder / "conv.csv").write_text("\n".join([head, *lines]))
        sources = Sources(
            ["conv.csv"],
            text_encoder=str(encoder),
            context=create_context(3, speaker_names=True),
            causal=True,
            tuned=f"tuned{number}" if tuned else "",
            tuning=Tuning(1, 1e-3),
        )
        found.append(extract(sources, "out.npz", lambda line: None).features)
    assert found[0]["timing"].shape[1] == 9
    for name in ("text", "timing"):
        # Six rows of train and dev, and three of test before the turns that differ.
        np.testing.assert_allclose(found[0][name][:9], found[1][name][:9], atol=1e-5)
        assert not np.allclose(found[0][name][9], found[1][name][9], atol=1e-3)


@needs_encoder
def test_context_and_names_change_a_row_and_its_own_text_still_counts(folder, encoder):
    def rows(turns, **context):
        write(folder / "conv.csv", turns)
        extract(
            Sources(["conv.csv"], text_encoder=str(encoder), context=create_context(**context)),
            "o.npz",
            str,
        )
        return load_conversations("o.npz").features["text"][1]

    known = rows(["Ross,yes", "Joey,good day"], past=1)
    assert not np.allclose(known, rows(["Ross,no", "Joey,good day"], past=1), atol=1e-3)
    assert not np.allclose(known, rows(["Rachel,yes", "Joey,good day"], past=1), atol=1e-3)
    assert not np.allclose(known, rows(["Ross,yes", "Joey,bad day"], past=1), atol=1e-3)
    unnamed = rows(["Ross,yes", "Joey,good day"], past=1, speaker_names=False)
    same = rows(["Rachel,yes", "Rachel,good day"], past=1, speaker_names=False)
    np.testing.assert_allclose(unnamed, same, atol=1e-5)


@needs_encoder
def test_a_tuned_encoder_reads_as_it_was_tuned(folder, encoder):
    head, tail = "dialogue,speaker,text,split,label", [",train,joy", ",train,fear"]
    write(folder / "a_train.csv", TURNS[:2], head, tail)
    (folder / "dev.csv").write_text(f"{head}\ne,Ross,No,dev,joy\nf,Joey,Good day,test,fear\n")
    given = Sources(["a_train.csv", "dev.csv"], text_encoder=str(encoder), timing="")
    context = Context(3, 0, 40, True)
    tuned = given._replace(tuned="tuned", context=context, tuning=Tuning(1, 1e-3))
    expected = extract(tuned, "o.npz", str).features["text"]
    again = given._replace(text_encoder="tuned")
    np.testing.assert_allclose(extract(again, "o.npz", str).features["text"], expected, atol=1e-5)
    with pytest.raises(UserError, match="tuned: was tuned with --context_past=3 .*take these"):
        extract(again._replace(context=context._replace(past=2)), "o.npz", str)
    (folder / "tuned" / "cberl_jax.json").write_text('{"context": {"past": "x"}, "tuning": {}}')
    with pytest.raises(UserError, match="cberl_jax.json: is damaged"):
        extract(again, "o.npz", str)


@needs_encoder
def test_what_cannot_be_read_in_context_is_refused(folder, encoder):
    given = Sources(["conv.csv"], text_encoder=str(encoder), causal=True)
    for context, message in (
        (Context(1, 1, 32, True), "--causal: the text encoder .* would read 1 later turns"),
        (Context(1, 0, 200, True), "--context_tokens=200: the text encoder reads at most 6[46]"),
    ):
        with pytest.raises(UserError, match=message):
            extract(given._replace(context=context), "o.npz", str)
    with pytest.raises(UserError, match="--context_tokens needs"):
        create_context(tokens=32)
    assert create_context() is None and create_context(past=0).is_alone
