"""The extract program, as a person runs it: what it writes, and how it refuses.

The encoder and the sounds are made here: a tiny transformer with random weights and, where
espeak-ng is there, spoken sentences. Without the extra ``features`` only what needs none is tested.
"""

import importlib.util
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cberl_jax.data.load import load_conversations, load_corpus

ROOT = Path(__file__).parents[2]
TABLE = """dialogue,speaker,text,split,label,start,end,audio
a,Ross,We were on a break!,train,anger,0,2,a0.wav
a,Rachel,I cannot believe this.,train,joy,2.3,4,a1.wav
b,Joey,How are you doing?,dev,joy,0,2,b0.wav
b,Phoebe,Great thank you.,dev,anger,2,3,b1.wav
c,Ross,We were on a break!,test,anger,0,2,
"""
WITHOUT_EXTRA = ("--text_encoder=",)


def installed(*names):
    return all(importlib.util.find_spec(name) for name in names)


needs_encoder = pytest.mark.skipif(
    not installed("sentence_transformers"), reason="needs sentence-transformers (extra features)"
)
needs_smile = pytest.mark.skipif(
    not installed("opensmile", "soundfile"), reason="needs opensmile and soundfile (extra features)"
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "conv.csv").write_text(TABLE)
    return tmp_path


def extract(folder, *arguments, transcript="conv.csv"):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "experiments" / "extract.py")]
    command += [f"--transcript={transcript}", "--output=out.npz", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300
    )


def assert_refused(done, folder, message):
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not list(folder.glob("*out.npz*"))


def test_timing_and_vectors_need_no_extra(folder):
    rows = np.arange(4, dtype=float).reshape(2, 2)
    rows[1] = math.nan
    np.savez(folder / "video.npz", a=rows, b=rows + 4, c=rows[:1] + 8)
    done = extract(folder, *WITHOUT_EXTRA, "--features=visual=video.npz")
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
    done = extract(folder, *WITHOUT_EXTRA, "--timing=audio", transcript="new.csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the file is for predict.py alone" in done.stdout
    corpus = load_conversations(folder / "out.npz")
    assert corpus.classes == () and corpus.label.tolist() == [-1, -1]
    np.testing.assert_array_equal(corpus.present["audio"], [True, False])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((*WITHOUT_EXTRA, "--timing="), "no modality is present"),
        ((*WITHOUT_EXTRA, "--features=video.npz"), "has to be modality=file.npz"),
        ((*WITHOUT_EXTRA, "--features=visual=no.npz"), "no.npz: cannot be read"),
        ((*WITHOUT_EXTRA, "--features=a=1", "--features=a=2"), "a is named twice"),
        ((*WITHOUT_EXTRA, "--features=timing=v.npz"), "'timing' would come from two sources"),
        (("--audio_dir=.", "--timing=audio"), "'audio' would come from two sources"),
        ((*WITHOUT_EXTRA, "--audio_dir=nowhere"), "nowhere: is not a folder"),
        ((*WITHOUT_EXTRA, "--audio_dir=.,."), "names 2 folders for 1 transcripts"),
        ((*WITHOUT_EXTRA, "--audio_dir=."), "holds no file of the transcript, such as a0.wav"),
        ((*WITHOUT_EXTRA, "--output=no/out.npz"), "does not exist"),
        ((*WITHOUT_EXTRA, "--finetune=tuned"), "--finetune needs a --text_encoder"),
        (("--finetune=conv.csv",), "conv.csv: is there already"),
        (("--transcript=none.csv",), "none.csv: cannot be read"),
        (("--classes=joy,fear",), "line 2: the label 'anger' is none of the classes joy, fear"),
        (("--finetune_epochs=0",), "finetune_epochs"),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_status_2(folder, arguments, message):
    assert_refused(extract(folder, *arguments), folder, message)


def test_tuning_needs_labels_before_it_needs_the_encoder(folder):
    (folder / "new.csv").write_text("dialogue,speaker,text\nx,A,hello\n")
    done = extract(folder, "--finetune=tuned", transcript="new.csv")
    assert_refused(done, folder, "the train split has no labelled utterance")


def test_two_utterances_do_not_share_a_sound(folder):
    (folder / "dia0_utt0.wav").write_text("")
    row = "Dialogue_ID,Utterance_ID,Speaker,Utterance\n0,0,A,hello\n"
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text(row)
    done = extract(folder, *WITHOUT_EXTRA, "--audio_dir=.", transcript="train.csv,test.csv")
    assert_refused(done, folder, "dia0_utt0.wav: belongs to both train.csv: line 2 and test.csv")


@pytest.mark.skipif(installed("sentence_transformers"), reason="sentence-transformers is there")
def test_a_missing_library_is_named_with_the_way_to_install_it(folder):
    done = extract(folder)
    assert_refused(done, folder, "pip install 'cberl-jax[features]'")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder with a sentence encoder of 8 numbers, random weights, mean pooled, of length 1."""
    import sentence_transformers.models as parts
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
    done = extract(folder, f"--text_encoder={encoder}", "--timing=")
    assert done.returncode == 0, done.stderr
    corpus = load_corpus(folder / "out.npz")
    text = corpus.features["text"]
    assert text.shape == (5, 8)
    np.testing.assert_array_equal(corpus.present["text"], [True, True, True, False, True])
    np.testing.assert_allclose(text[0], text[4], rtol=1e-5)
    # Before the normalisation, not after.
    assert not np.allclose(np.linalg.norm(text[0]), 1, atol=1e-2)


@needs_encoder
def test_tuning_learns_train_and_keeps_an_encoder_that_gives_the_same(folder, encoder):
    frozen = extract(folder, f"--text_encoder={encoder}", "--timing=")
    assert frozen.returncode == 0, frozen.stderr
    before = load_corpus(folder / "out.npz").features["text"]
    tuning = (
        "--finetune=tuned",
        "--finetune_epochs=3",
        "--finetune_learning_rate=0.01",
    )
    done = extract(folder, f"--text_encoder={encoder}", "--timing=", *tuning)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("weighted F1") == 3
    tuned = load_corpus(folder / "out.npz").features["text"]
    assert np.abs(tuned - before).max() > 1e-3
    again = extract(folder, "--text_encoder=tuned", "--timing=")
    assert again.returncode == 0, again.stderr
    np.testing.assert_allclose(load_corpus(folder / "out.npz").features["text"], tuned, atol=1e-5)


@needs_encoder
def test_tuning_never_sees_a_label_of_test(folder, encoder):
    found = []
    for number, label in enumerate(("anger", "joy")):
        table = TABLE.replace("test,anger", f"test,{label}")
        (folder / "conv.csv").write_text(table)
        arguments = (f"--finetune=tuned{number}", "--finetune_learning_rate=0.01", "--timing=")
        done = extract(folder, f"--text_encoder={encoder}", *arguments)
        assert done.returncode == 0, done.stderr
        found.append(load_corpus(folder / "out.npz").features["text"])
    np.testing.assert_array_equal(*found)


@needs_encoder
def test_a_folder_without_an_encoder_is_refused(folder):
    done = extract(folder, f"--text_encoder={folder / 'none'}")
    assert_refused(done, folder, "none: there is no such folder with a text encoder")
    (folder / "empty").mkdir()
    done = extract(folder, f"--text_encoder={folder / 'empty'}")
    assert_refused(done, folder, "cannot be loaded as a text encoder")


def speak(path, text, pitch):
    if shutil.which("espeak-ng"):
        subprocess.run(["espeak-ng", "-w", str(path), "-p", str(pitch), text], check=True)
        return
    import soundfile

    # A voice of sorts: a pulse train at the pitch, loud and soft by turns.
    time = np.arange(16000) / 16000
    pulses = np.sin(2 * math.pi * (80 + 2 * pitch) * time) ** 9
    soundfile.write(path, 0.5 * pulses * np.sin(2 * math.pi * 3 * time) ** 2, 16000)


@needs_smile
def test_sounds_become_functionals_and_what_is_missing_is_said(folder):
    import soundfile

    speak(folder / "a0.wav", "We were on a break!", 20)
    speak(folder / "b0.wav", "How are you doing?", 80)
    soundfile.write(folder / "b1.wav", np.zeros(40), 16000)
    done = extract(folder, *WITHOUT_EXTRA, "--timing=", "--audio_dir=.")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 sounds are not there, such as a1.wav" in done.stdout
    assert "1 sounds are too short, such as b1.wav" in done.stdout
    corpus = load_corpus(folder / "out.npz")
    audio = corpus.features["audio"]
    assert audio.shape == (5, 88)
    np.testing.assert_array_equal(corpus.present["audio"], [True, False, True, False, False])
    # The first functional is the mean pitch in semitones.
    assert audio[2, 0] > audio[0, 0] + 2


@needs_smile
def test_a_sound_that_cannot_be_decoded_is_named(folder):
    (folder / "a0.wav").write_text("no sound")
    done = extract(folder, *WITHOUT_EXTRA, "--audio_dir=.")
    assert_refused(done, folder, "a0.wav: cannot be decoded as sound")
