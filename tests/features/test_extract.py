"""The extract program, as a person runs it: what it writes, and how it refuses.

The encoder and the sounds are made here: a tiny transformer with random weights and, where
espeak-ng is there, spoken sentences. Without the extra ``features`` only what needs none is tested.
"""

import importlib.util
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from encoders import needs_encoder

from cberl_jax.data.readers.load import load_conversations, load_corpus
from cberl_jax.errors import UserError
from cberl_jax.features.extract import Sources, extract, parse_encoders, parse_vectors
from cberl_jax.features.sound_and_sight import MediaSources
from cberl_jax.features.tuning import Loss, Tuning

ROOT = Path(__file__).parents[2]
TABLE = """dialogue,speaker,text,split,label,start,end,audio
a,Ross,We were on a break!,train,anger,0,2,a0.wav
a,Rachel,I cannot believe this.,train,joy,2.3,4,a1.wav
b,Joey,How are you doing?,dev,joy,0,2,b0.wav
b,Phoebe,Great thank you.,dev,anger,2,3,b1.wav
c,Ross,We were on a break!,test,anger,0,2,
"""


def installed(*names):
    return all(importlib.util.find_spec(name) for name in names)


def needs_smile(test):
    """Marks a test of the real sound features."""
    reason = "needs opensmile and soundfile (extra features)"
    return pytest.mark.slow(
        pytest.mark.skipif(not installed("opensmile", "soundfile"), reason=reason)(test)
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with a table in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conv.csv").write_text(TABLE)
    return tmp_path


def run_program(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "experiments" / "extract.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300
    )


def run(text_encoder="", transcripts=("conv.csv",), output="out.npz", **sources):
    """Extracts in the folder of the test; returns what was said and the corpus of the file."""
    said = []
    if not isinstance(text_encoder, dict):
        text_encoder = str(text_encoder)
    media = MediaSources(audio_folders=sources.pop("audio_folders", ()))
    sources = Sources(transcripts, text_encoder=text_encoder, media=media, **sources)
    extract(sources, output, said.append)
    return "\n".join(said), load_conversations(output)


def assert_refused(message, **sources):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        run(**sources)
    assert "\n" not in str(caught.value)
    assert not list(Path().glob("*out.npz*"))


def test_timing_and_vectors_need_no_extra(folder):
    rows = np.arange(4, dtype=float).reshape(2, 2)
    rows[1] = math.nan
    np.savez(folder / "video.npz", a=rows, b=rows + 4, c=rows[:1] + 8)
    arguments = ("--transcript=conv.csv", "--text_encoder=", "--features=visual=video.npz")
    done = run_program(folder, *arguments, "--output=out.npz")
    assert (done.returncode, done.stderr) == (0, "")
    assert "visual: 2 wide, absent in 40.0 % of the utterances" in done.stdout
    corpus = load_corpus(folder / "out.npz")
    assert corpus.widths == {"timing": 10, "visual": 2}
    np.testing.assert_array_equal(corpus.present["visual"], [True, False, True, False, True])
    np.testing.assert_array_equal(corpus.features["visual"][4], [8, 9])
    assert corpus.classes == ("anger", "joy") and corpus.label.tolist() == [0, 1, 1, 0, 0]
    assert corpus.split.tolist() == ["train", "dev", "test"]
    assert corpus.utterance[0] == "We were on a break!"


def test_unlabelled_conversations_can_be_predicted(folder):
    (folder / "new.csv").write_text("dialogue,speaker,text,start,end\nx,A,hello,0,1\nx,B,hi,,\n")
    said, corpus = run(transcripts=["new.csv"], timing="audio")
    assert "the file is for predict.py alone" in said
    assert corpus.classes == () and corpus.label.tolist() == [-1, -1]
    np.testing.assert_array_equal(corpus.present["audio"], [True, False])


def test_several_tables_come_by_commas_or_by_several_flags(folder):
    for split in ("train", "dev", "test"):
        row = f"{split},A,hello,joy,0,1\n{split},B,hi,fear,1,2\n"
        (folder / f"{split}.csv").write_text(f"dialogue,speaker,text,label,start,end\n{row}")
    arguments = ("--transcript=train.csv,dev.csv", "--transcript=test.csv", "--text_encoder=")
    done = run_program(folder, *arguments, "--output=out.npz", "--classes=joy,fear")
    assert (done.returncode, done.stderr) == (0, "")
    corpus = load_corpus(folder / "out.npz")
    assert corpus.dialogue.tolist() == corpus.split.tolist() == ["train", "dev", "test"]
    assert corpus.classes == ("joy", "fear") and corpus.label.tolist() == [0, 1] * 3


def test_a_mistake_ends_the_program_with_one_sentence_and_status_2(folder):
    arguments = ("--transcript=none.csv", "--features=visual=v.npz", "--output=out.npz")
    done = run_program(folder, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: none.csv: cannot be read (No such file or directory).\n"
    assert not (folder / "out.npz").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--finetune_seeds=2"], "--finetune_seeds changes nothing without --finetune"),
        (["--seed=1"], "--seed changes nothing without --finetune"),
        (["--crossfit=5"], "--crossfit changes nothing without --finetune"),
        (["--text_encoder=", "--context_past=2"], "--context_past changes nothing without --text"),
        (["--finetune=x", "--finetune_gamma=2"], "--finetune_gamma changes nothing without --fine"),
        (["--frames_per_second=4"], "--frames_per_second changes nothing without --visual_encoder"),
        (["--audio_layer=mean"], "--audio_layer changes nothing without a speech encoder"),
        (["--audio_dir=.", "--audio_encoder="], "--audio_dir changes nothing without --audio_enc"),
        (["--audio_dir=.", "--video_dir=."], "--video_dir changes nothing: no --visual_encoder"),
        (["--video_dir=.", "--audio_encoder="], "and no --audio_encoder reads their sound"),
    ],
)
def test_flags_that_would_change_nothing_are_refused(folder, flags, message):
    done = run_program(folder, "--transcript=conv.csv", "--output=out.npz", *flags)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize(
    "tuning, message",
    [
        (Tuning(crossfit=1), "--crossfit=1: no two encoders would learn from a common"),
        (Tuning(crossfit=2), "--crossfit=2: no two encoders would learn from a common"),
        (Tuning(loss=Loss(class_balance=1.0)), "--finetune_class_balance=1.0: has to be"),
        (
            Tuning(loss=Loss("hinge")),
            "--finetune_loss=hinge: has to be one of cross_entropy,",
        ),
        (Tuning(select="f1"), "--finetune_select=f1: has to be one of"),
    ],
)
def test_a_tuning_that_means_nothing_is_refused(folder, tuning, message):
    assert_refused(message, tuned="tuned", text_encoder="none", tuning=tuning)


@pytest.mark.parametrize(
    "sources, message",
    [
        ({"timing": ""}, "no modality is present"),
        ({"vectors": {"visual": "no.npz"}}, "no.npz: cannot be read"),
        ({"vectors": {"timing": "v.npz"}}, "'timing' would come from two sources"),
        ({"audio_folders": ["."], "timing": "audio"}, "'audio' would come from two sources"),
        ({"audio_folders": ["nowhere"]}, "nowhere: is not a folder"),
        ({"audio_folders": [".", "."]}, "names 2 folders for 1 transcripts"),
        ({"audio_folders": ["."]}, "holds no file of the transcript, such as a0.wav"),
        ({"output": "no/out.npz"}, "does not exist"),
        ({"tuned": "tuned"}, "--finetune needs a --text_encoder"),
        ({"tuned": "conv.csv", "text_encoder": "x"}, "conv.csv: is there already"),
        (
            {"tuned": "conv.csv", "text_encoder": "x", "tuned_seeds": 2},
            "conv.csv: is there already",
        ),
        ({"text_encoder": "x", "tuned_seeds": 2}, "--finetune_seeds=2: has to be at least 1, and"),
        (
            {"tuned": "t", "text_encoder": "x", "tuned_seeds": 0},
            "--finetune_seeds=0: has to be at least 1",
        ),
        (
            {"tuned": "t", "text_encoder": {"text." + "x" * 63: "x"}, "tuned_seeds": 2},
            "_s0: is too long a name for features",
        ),
        ({"classes": ["joy"]}, "line 2: the label 'anger' is none of the classes joy"),
        ({"text_encoder": "x", "timing": "text"}, "'text' would come from two sources"),
        (
            {"text_encoder": "x", "vectors": {"text.own": "v.npz"}},
            "text and text.own cannot be in one file: two views of text need two names",
        ),
        (
            {"text_encoder": {"text.a": "x", "text.b": "y"}, "tuned": "tuned"},
            "--finetune needs a --text_encoder, and one only",
        ),
    ],
)
def test_what_cannot_be_is_refused(folder, sources, message):
    assert_refused(message, **sources)


@pytest.mark.parametrize("items", [["v.npz"], ["visual="], ["vis ual=v.npz"], ["a=1", "a=2"]])
def test_vectors_are_named_by_modality(items):
    with pytest.raises(UserError, match=f"--features={items[-1]}"):
        parse_vectors(items)


@pytest.mark.parametrize(
    "items, found",
    [
        ([""], {}),
        (["runs/one"], {"text": "runs/one"}),
        (["runs/a=b"], {"text": "runs/a=b"}),
        (["small=runs/a=b"], {"text.small": "runs/a=b"}),
        (
            ["org/all-mpnet-base-v2", "own/mini LM.v2/"],
            {
                "text.all-mpnet-base-v2": "org/all-mpnet-base-v2",
                "text.mini-LM-v2": "own/mini LM.v2/",
            },
        ),
    ],
)
def test_encoders_are_named_by_themselves_or_by_the_person(items, found):
    assert parse_encoders(items) == found


@pytest.mark.parametrize("items", [["a/x", "b/x"], ["x=a", "b/x"], ["a/x", "..."]])
def test_two_encoders_need_two_names(items):
    with pytest.raises(UserError, match=f"--text_encoder={items[1]}: .* --text_encoder=NAME="):
        parse_encoders(items)


def test_a_table_without_names_of_sounds_has_none(folder):
    (folder / "new.csv").write_text("dialogue,speaker,text\nx,A,hello\n")
    message = "new.csv: no column audio names the files"
    assert_refused(message, transcripts=["new.csv"], audio_folders=["."])


def test_tuning_needs_labels_before_it_needs_the_encoder(folder):
    (folder / "new.csv").write_text("dialogue,speaker,text\nx,A,hello\n")
    message = "the train split has no labelled utterance"
    assert_refused(message, transcripts=["new.csv"], tuned="tuned", text_encoder="none")


def test_two_utterances_do_not_share_a_sound(folder):
    (folder / "dia0_utt0.wav").write_text("")
    row = "Dialogue_ID,Utterance_ID,Speaker,Utterance\n0,0,A,hello\n"
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text(row)
    message = "dia0_utt0.wav: belongs to both train.csv: line 2 and test.csv: line 2"
    assert_refused(message, transcripts=["train.csv", "test.csv"], audio_folders=["."])


def test_a_missing_library_is_named_with_the_way_to_install_it(folder, monkeypatch):
    # None in this table is what Python itself takes for a package that is not there.
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert_refused("pip install 'cberl-jax[features]'", text_encoder="x")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder with a sentence encoder of 8 numbers, random weights, mean pooled, of length 1."""
    import sentence_transformers.sentence_transformer.modules as parts
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TABLE.lower().split(), "we", "break"]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(words)))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(set(words)), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder / "bert")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    from sentence_transformers import SentenceTransformer

    bert = parts.Transformer(str(folder / "bert"))
    modules = [bert, parts.Pooling(8), parts.Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "encoder"))
    return folder / "encoder"


@needs_encoder
def test_text_is_embedded_by_itself_and_empty_text_is_absent(folder, encoder):
    (folder / "conv.csv").write_text(TABLE.replace("Great thank you.", ""))
    _, corpus = run(encoder, timing="")
    text = corpus.features["text"]
    assert text.shape == (5, 8)
    np.testing.assert_array_equal(corpus.present["text"], [True, True, True, False, True])
    np.testing.assert_allclose(text[0], text[4], rtol=1e-5)
    # Before the normalisation, not after.
    assert abs(np.linalg.norm(text[0]) - 1) > 0.1


@needs_encoder
def test_two_encoders_make_two_views(folder, encoder):
    alone = run(encoder)[1].features["text"]
    _, corpus = run(parse_encoders([f"first={encoder}", str(encoder)]))
    assert list(corpus.features) == ["text.first", "text.encoder", "timing"]
    for view in ("text.first", "text.encoder"):
        np.testing.assert_allclose(corpus.features[view], alone, atol=1e-6)


@needs_encoder
@pytest.mark.parametrize("dev, score", [("anger,joy", "1.000"), ("joy,anger", "0.000")])
def test_tuning_fits_train_and_dev_only_judges(folder, encoder, dev, score):
    labels = zip("train train dev dev".split(), ["anger", "joy", *dev.split(",")])
    texts = ["We were on a break!", "Great thank you."] * 2
    rows = [f"{s},A,{text},{s},{label}" for text, (s, label) in zip(texts, labels)]
    (folder / "conv.csv").write_text("\n".join(["dialogue,speaker,text,split,label", *rows]))
    said, _ = run(encoder, tuned="tuned", tuning=Tuning(40, 0.02, patience=40))
    scores = [line for line in said.splitlines() if "weighted F1" in line]
    assert len(scores) == 40 and f"weighted F1 {score}, macro F1 {score} on dev" in scores[-1]


@needs_encoder
def test_the_tuned_encoder_is_kept_and_gives_the_same(folder, encoder):
    before = run(encoder)[1].features["text"]
    tuned = run(encoder, tuned="tuned", tuning=Tuning(2, 0.01))[1].features["text"]
    assert not np.allclose(tuned, before, atol=1e-2)
    np.testing.assert_allclose(run("tuned")[1].features["text"], tuned, atol=1e-5)


@needs_encoder
def test_tuning_repeats_by_its_seed_and_never_sees_a_label_of_test(folder, encoder):
    found = []
    for number, (label, seed) in enumerate((("anger", 0), ("joy", 0), ("joy", 1))):
        (folder / "conv.csv").write_text(TABLE.replace("test,anger", f"test,{label}"))
        _, corpus = run(encoder, tuned=f"tuned{number}", tuning=Tuning(2, 0.01, seed))
        found.append(corpus.features["text"])
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[1], found[2])


@needs_encoder
def test_a_folder_without_an_encoder_is_refused(folder, monkeypatch):
    # Without a network, a name is tried for over a minute.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (folder / "empty").mkdir()
    for name in ("empty", "no-such-model"):
        assert_refused(f"{name}: cannot be loaded as a text encoder", text_encoder=name)


def speak(path, text, pitch):
    if shutil.which("espeak-ng"):
        subprocess.run(["espeak-ng", "-w", str(path), "-p", str(pitch), text], check=True)
        return
    import soundfile

    # A voice of sorts: a pulse train at the pitch, loud and soft by turns.
    time = np.arange(16000) / 16000
    pulses = np.sin(2 * math.pi * (80 + 2 * pitch) * time) ** 9
    soundfile.write(path, 0.5 * pulses * np.sin(2 * math.pi * 3 * time) ** 2, 16000)


def tone(path, seconds=0.5, rate=16_000):
    """Writes a tone that gets louder."""
    import soundfile

    time = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, (time * np.sin(2 * np.pi * 220 * time)).astype("f4"), rate)


@needs_smile
def test_a_sound_without_content_is_absent_and_said(folder):
    for name in ("a0.wav", "b0.wav", "b1.wav"):
        tone(folder / name)
    (folder / "a1.wav").write_bytes(b"")
    tone(folder / "b1.wav", seconds=0)
    said, corpus = run(audio_folders=["."], timing="")
    assert "sounds that are empty: 2, such as a1.wav" in said
    np.testing.assert_array_equal(corpus.present["audio"], [True, False, True, False, False])


@needs_smile
def test_every_sound_is_opened_before_any_is_analysed(folder, monkeypatch):
    """The last file is no sound: it is refused without an hour of work on those before it."""
    for name in ("a0.wav", "a1.wav", "b0.wav"):
        tone(folder / name)
    (folder / "b1.wav").write_bytes(b"RIFF, but no sound")
    started = []
    monkeypatch.setattr("cberl_jax.features.audio.make_functionals", lambda: started.append(1))
    assert_refused("b1.wav: cannot be decoded as sound", audio_folders=["."], timing="")
    assert not started


@needs_smile
def test_sounds_that_are_all_empty_are_refused(folder):
    for name in ("a0.wav", "a1.wav"):
        (folder / name).write_bytes(b"")
    assert_refused("a0.wav: holds no sound, and nor does any", audio_folders=["."], timing="")


def test_a_dev_split_can_be_held_out_of_train(folder):
    labels = ("fear", "joy")
    turns = [(d, t) for d in range(8) for t in (0, 1)]
    rows = [f"d{d},A,word,train,{labels[(d + t) % 2]},{t},{t + 1}" for d, t in turns]
    rows += ["t0,A,word,test,joy,0,1", "t0,B,word,test,fear,1,2"]
    head = "dialogue,speaker,text,split,label,start,end"
    (folder / "own.csv").write_text("\n".join([head, *rows]) + "\n")
    said, corpus = run(transcripts=["own.csv"])
    assert "is for predict.py alone (--dev_share=0.1 makes a dev split out of a tenth" in said
    said, corpus = run(transcripts=["own.csv"], dev_share=0.25)
    assert said == ""
    trained = load_corpus(folder / "out.npz")
    assert [int(np.sum(trained.split == s)) for s in ("train", "dev", "test")] == [6, 2, 1]
    done = run_program(
        folder, "--transcript=own.csv", "--text_encoder=", "--output=two.npz", "--dev_share=0.5"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(np.sum(load_corpus(folder / "two.npz").split == "dev")) == 4


@needs_smile
def test_sounds_become_functionals_and_what_is_missing_is_said(folder):
    import soundfile

    speak(folder / "a0.wav", "We were on a break!", 20)
    speak(folder / "b0.wav", "How are you doing?", 80)
    soundfile.write(folder / "b1.wav", np.zeros(40), 16000)
    said, corpus = run(audio_folders=["."], timing="")
    assert "sounds that are not there: 1, such as a1.wav" in said
    assert "sounds that are too short: 1, such as b1.wav" in said
    audio = corpus.features["audio"]
    assert audio.shape == (5, 88)
    np.testing.assert_array_equal(corpus.present["audio"], [True, False, True, False, False])
    # The first functional is the mean pitch in semitones.
    assert audio[2, 0] > audio[0, 0] + 2


@needs_smile
def test_a_sound_that_cannot_be_decoded_is_named(folder):
    (folder / "a0.wav").write_text("no sound")
    assert_refused("a0.wav: cannot be decoded as sound", audio_folders=["."])
