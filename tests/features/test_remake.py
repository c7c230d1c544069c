"""Raw conversations in, emotions out: features made again are those that extract writes."""

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from encoders import WORDS, needs_encoder, write_encoder
from tiny import NO_PARTS, TINY, tiny_config

import cberl_jax as cberl
from cberl_jax.data.readers.jsonl import parse_turns
from cberl_jax.data.readers.load import load_conversations
from cberl_jax.data.readers.npz import read_npz
from cberl_jax.errors import UserError
from cberl_jax.features import optional
from cberl_jax.features.context import Context
from cberl_jax.features.extract import Sources, extract
from cberl_jax.features.kept import check_harmless
from cberl_jax.features.provenance import hash_state
from cberl_jax.features.remake import Folders, Remaker, find_kind
from cberl_jax.features.sound_and_sight import FUNCTIONALS, MediaSources
from cberl_jax.features.text import load_encoder
from cberl_jax.features.tuning import Tuning
from cberl_jax.serving.model import predict_file

ROOT = Path(__file__).parents[2]
HEAD = "dialogue,speaker,text,split,label,start,end"
SPLITS = ["train"] * 8 + ["dev"] * 3 + ["test"] * 3
SETTINGS = {"model.causal": True, "train.epochs": 1} | NO_PARTS


def write_table(path, splits, turns=4, seed=0, labelled=True):
    """A table of made-up talk, a dialogue for each name of a split."""
    chance, rows = random.Random(seed), []
    for number, split in enumerate(splits):
        for t in range(turns):
            text = " ".join(chance.choices(WORDS.replace(",", "").split(), k=4))
            label = f"{split},{chance.choice(['joy', 'anger'])}" if labelled else ","
            start = round(2 * t + chance.random(), 3)
            rows.append(f"d{number},{chance.choice('AB')},{text},{label},{start},{start + 1.5:.3f}")
    path.write_text("\n".join([HEAD, *rows]))
    return str(path)


def extract_quietly(table, output, **sources):
    sources = {"text_encoder": ""} | sources
    return extract(Sources([str(table)], **sources), str(output), lambda line: None)


def turns_of(path):
    """The dialogues of a table as raw turns."""
    dialogues = {}
    for row in path.read_text().splitlines()[1:]:
        name, speaker, text, _, _, start, end = row.split(",")
        turn = {"speaker": speaker, "text": text, "start": float(start), "end": float(end)}
        dialogues.setdefault(name, []).append(turn)
    return list(dialogues.values())


class Trained:
    """A folder with a table, a run on its features, and a table of new conversations."""

    def __init__(self, folder, encoders=(), vectors=None, turns=4, **sources):
        self.folder, self.run = folder, folder / "run"
        table = write_table(folder / "conv.csv", SPLITS, turns)
        self.new = folder / "new.csv"
        write_table(self.new, [""] * 3, turns + 2, seed=1, labelled=False)
        corpus = extract_quietly(table, folder / "conv.npz", **sources)
        if vectors:
            count = len(corpus.label)
            there = {name: np.ones((count, width), np.float32) for name, width in vectors.items()}
            present = corpus.present | {name: np.ones(count, bool) for name in vectors}
            corpus = dataclasses.replace(corpus, features=corpus.features | there, present=present)
            corpus.save(folder / "conv.npz")
        path, config = folder / "conv.npz", tiny_config()
        cberl.train(
            path, config, seeds=2, workdir=self.run, settings=SETTINGS, say=print,
            pictures=False, encoders=encoders,
        )  # fmt: skip
        self.extracted = extract_quietly(
            self.new, folder / "new.npz", **{k: v for k, v in sources.items() if k != "tuned"}
        )


def assert_equal(raw, made, atol=0.0):
    for name, rows in made.corpus.features.items():
        np.testing.assert_allclose(raw.corpus.features[name], rows, atol=atol, err_msg=name)
        np.testing.assert_array_equal(raw.corpus.present[name], made.corpus.present[name])
    np.testing.assert_allclose(raw.members, made.members, atol=atol)


def assert_streams(model, conversations):
    """Turn by turn a model says what it says of the whole conversation."""
    whole = model.predict_proba(conversations)
    for turns, expected in zip(conversations, whole):
        stream = model.stream()
        for turn, row in zip(turns, expected):
            found = list(stream.push(turn).probabilities.values())
            np.testing.assert_allclose(found, row, atol=1e-5)


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """A run on timing features, which need no library, and vectors from elsewhere."""
    return Trained(tmp_path_factory.mktemp("timed"), causal=True, vectors={"visual": 3})


def test_a_table_is_predicted_as_its_features_are(timed):
    model = cberl.load(timed.run)
    raw, made = model.predictions(timed.new), model.predictions(timed.folder / "new.npz")
    assert_equal(raw, made)
    assert raw.corpus.remarks[0] == (
        "absent in all turns: visual (the run does not say how they were made)"
    )
    assert raw.corpus.utterance.tolist() == [t["text"] for d in turns_of(timed.new) for t in d]
    # The same as lists, as JSON lines, and with names and labels.
    turns = turns_of(timed.new)
    assert_equal(model.predictions(turns), made)
    lines = [json.dumps({"dialogue": n, "turns": own}) for n, own in enumerate(turns)]
    (timed.folder / "new.jsonl").write_text("\n".join(lines))
    assert_equal(model.predictions(timed.folder / "new.jsonl"), made)
    turns[0][0]["label"] = "joy"
    assert model.predictions(turns).corpus.label[0] == model.classes.index("joy")


def test_raw_turns_are_followed_live(timed):
    model, turns = cberl.load(timed.run), turns_of(timed.new)
    assert_streams(model, turns)
    # A turn that is refused leaves the conversation as it was.
    stream, expected = model.stream(), model.predict_proba(turns)[0]
    stream.push(turns[0][0])
    with pytest.raises(UserError, match="turn 1 of the stream: .*the start has to be a number"):
        stream.push(turns[0][1] | {"start": "soon"})
    found = stream.push(turns[0][1]).probabilities.values()
    np.testing.assert_allclose(list(found), expected[1], atol=1e-5)


def test_the_program_writes_emotions_of_a_table(timed, capsys):
    output = timed.folder / "emotions.csv"
    found = predict_file(timed.run, timed.new, output)
    assert len(output.read_text().splitlines()) == 1 + len(found.corpus.label) == 19


@pytest.mark.parametrize(
    "conversations, options, message",
    [
        ("new.csv", {"audio_dir": "."}, "audio_dir changes nothing: no features of the run"),
        ("new.npz", {"video_dir": "."}, "new.npz: holds features, so that audio_dir and video"),
        ([[{"speaker": "A", "text": "Hi!"}]], {}, "holds no features of timing or visual, and"),
        ([[{"speaker": "A", "end": True}]], {}, "turn 0: the end has to be a number of seconds"),
        ("bad.csv", {}, "bad.csv: line 1 has to name the columns dialogue, speaker and text"),
    ],
)
def test_what_cannot_be_predicted_is_refused(timed, monkeypatch, conversations, options, message):
    monkeypatch.chdir(timed.folder)
    (timed.folder / "bad.csv").write_text("who,what\nA,Hi\n")
    with pytest.raises(UserError, match=message) as caught:
        cberl.load("run").predict(conversations, **options)
    assert "\n" not in str(caught.value)


def test_clips_are_refused_where_only_sounds_are_read(tmp_path):
    remaker = Remaker({"audio": {"extractor": FUNCTIONALS}}, ["audio"], tmp_path)
    transcript = parse_turns([[{"speaker": "A", "text": "Hi!"}]]).transcript()
    with pytest.raises(UserError, match="video_dir changes nothing: .*no features of sight"):
        remaker.remake(transcript, Folders(["wavs"], ["clips"]))


def test_encoders_of_others_are_refused(timed, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_bytes(b"other")
    for folder, message in (("other", "its weights made none of the run's"), ("no", "no folder")):
        with pytest.raises(UserError, match=f"{folder}: .*{message}"):
            cberl.load(timed.run, encoders=[tmp_path / folder])


def test_an_encoder_that_is_a_program_is_refused(tmp_path):
    kinds = [{"type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(kinds))
    check_harmless(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([*kinds, {"type": "evil.Module"}]))
    with pytest.raises(UserError, match="modules.json: is or names a program"):
        check_harmless(tmp_path)
    (tmp_path / "modules.json").write_text("[3]")
    with pytest.raises(UserError, match="modules.json: is damaged"):
        check_harmless(tmp_path)
    (tmp_path / "modules.json").unlink()
    (tmp_path / "evil.py").write_text("")
    with pytest.raises(UserError, match="evil.py: is or names a program"):
        check_harmless(tmp_path)


TEXT = {"encoder": "a", "weights": {"m.safetensors": "1"}, "pooling": "mean", "context": None}

SIGHT = {k: v for k, v in TEXT.items() if k != "context"}
SIGHT |= {"pooling": "summed up over time, 2 frames a second"}


@pytest.mark.parametrize(
    "record, kind",
    [
        (TEXT, "text"),
        (TEXT | {"context": Context(2)._asdict()}, "text"),
        (TEXT | {"context": {"past": "2"}}, ""),
        (TEXT | {"context": 3}, ""),
        (TEXT | {"weights": {}}, ""),
        ({"extractor": "timing", "causal": False}, "timing"),
        ({"extractor": "timing"}, ""),
        ({"extractor": "eGeMAPSv02 functionals"}, "functionals"),
        ({"file": "video.npz", "sha256": "1"}, ""),
        (SIGHT | {"faces": None}, "visual"),
        (SIGHT | {"faces": {"sha256": "1"}}, "visual"),
        (SIGHT | {"faces": {"sha256": 1}}, ""),
        (SIGHT | {"faces": "1"}, ""),
    ],
)
def test_a_record_says_what_made_features(record, kind):
    assert find_kind(record) == kind


# From here on with encoders.


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A run on text of a cross-fitted encoder in context, and times; the run keeps the encoder."""
    folder = tmp_path_factory.mktemp("tuned")
    encoder, kept = write_encoder(folder / "plain"), folder / "encoder"
    table = write_table(folder / "first.csv", SPLITS)
    tuning = Tuning(1, 0.01, crossfit=3)
    extract_quietly(
        table, folder / "first.npz", text_encoder=str(encoder), tuned=str(kept), tuning=tuning,
        context=Context(2, 0, 40, True), causal=True,
    )  # fmt: skip
    made = Trained(folder, encoders=[kept], text_encoder=str(kept), causal=True)
    shutil.rmtree(kept)
    return made


@needs_encoder
def test_a_run_that_keeps_its_encoder_takes_raw_text(tuned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sorted(path.name for path in (tuned.run / "encoders").iterdir()) == ["text"]
    model = cberl.load(tuned.run)
    raw, made = model.predictions(tuned.new), model.predictions(tuned.folder / "new.npz")
    assert made.corpus.features["text"].std() > 0
    assert_equal(raw, made)
    assert raw.corpus.remarks == made.corpus.remarks
    turns = turns_of(tuned.new)
    assert_streams(model, turns)
    words = [[{"speaker": t["speaker"], "text": t["text"]} for t in own] for own in turns]
    only = model.predictions(words)
    np.testing.assert_allclose(only.corpus.features["text"], made.corpus.features["text"])
    assert not only.corpus.present["timing"].any()
    assert "timing (no turn has both a start and an end)" in only.corpus.remarks[-1]
    # A copy that is handed on has it, too, and no path of this disk.
    meaning = cberl.export(tuned.run, tmp_path / "handed", format="folder")
    assert meaning["encoders"] == ["text"]
    assert_equal(cberl.load(tmp_path / "handed").predictions(tuned.new), made)
    sums = (tmp_path / "handed" / "SHA256SUMS").read_text()
    assert "  encoders/text/fold1/model.safetensors\n" in sums
    for path in (tmp_path / "handed").rglob("*.json"):
        assert str(tuned.folder) not in path.read_text(), path


@needs_encoder
def test_a_run_on_several_seeds_of_an_encoder_finds_each_by_its_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder = write_encoder(tmp_path / "plain")
    table = write_table(tmp_path / "first.csv", SPLITS)
    first = extract_quietly(
        table, "first.npz", text_encoder=str(encoder), tuned="seeds", tuned_seeds=2,
        tuning=Tuning(1, 0.01, crossfit=3), context=Context(2, 0, 40, True), timing="",
    )  # fmt: skip
    assert list(first.features) == ["text.s0", "text.s1"]
    assert all(record["crossfit"] == 3 for record in first.provenance.values())
    each = {f"text.s{n}": f"seeds/s{n}" for n in (0, 1)}
    made = Trained(tmp_path, encoders=["seeds"], text_encoder=each, timing="")
    expected = cberl.load("run").predictions("new.npz")
    assert sorted(path.name for path in Path("run/encoders").iterdir()) == ["text.s0", "text.s1"]
    os.rename("seeds", "moved")
    assert_equal(cberl.load("run").predictions(made.new), expected)
    shutil.rmtree("run/encoders")
    with pytest.raises(UserError, match="text.s[01] were made by the encoder seeds/s"):
        cberl.load("run").predict(made.new)
    with pytest.raises(UserError, match="text.s1 were made by the encoder seeds/s1"):
        cberl.load("run", encoders=["moved/s0"]).predict(made.new)
    for folders in (["moved"], ["moved/s1", "moved/s0"]):
        assert_equal(cberl.load("run", encoders=folders).predictions(made.new), expected)


@needs_encoder
def test_the_best_run_of_a_sweep_takes_raw_text(tuned, tmp_path):
    settings = TINY | SETTINGS
    command = [sys.executable, "-m", "cberl_jax", "sweep", "--config=default", "--seeds=2"]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    command += [f"--data={tuned.folder / 'conv.npz'}", "--grid=loss.gamma=0,1", "--nopictures"]
    command += [f"--encoders={tuned.run / 'encoders' / 'text'}", f"--workdir={tmp_path / 'sweep'}"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=300)
    model = cberl.load(tmp_path / "sweep" / "best")
    assert_equal(model.predictions(tuned.new), model.predictions(tuned.folder / "new.npz"))


@needs_encoder
def test_an_encoder_is_known_by_its_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder = write_encoder(tmp_path / "encoder")
    other = write_encoder(tmp_path / "other", layers=1)
    made = Trained(tmp_path, text_encoder="encoder", timing="", context=Context(1, 1, 30))
    again = cberl.load("run").predictions(made.new)
    assert_equal(again, cberl.load("run").predictions("new.npz"))
    encoder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="text were made by the encoder encoder, and .*--text"):
        cberl.load("run").predict(made.new)
    assert_equal(cberl.load("run", encoders=["moved"]).predictions(made.new), again)
    command = [sys.executable, "-m", "cberl_jax", "predict", "--workdir=run", "--input=new.csv"]
    command += ["--output=emotions.jsonl", "--text_encoder=mine=moved"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=300)
    told = [json.loads(line) for line in (tmp_path / "emotions.jsonl").read_text().splitlines()]
    found = [list(line["probabilities"].values()) for line in told]
    np.testing.assert_allclose(found, again.probability, atol=1e-6)
    with pytest.raises(UserError, match="other: its weights made none of the run's features"):
        cberl.load("run", encoders=[other])
    with pytest.raises(UserError, match="reads 1 later turns, so raw turns cannot be followed"):
        cberl.load("run", encoders=["moved"]).stream().push({"speaker": "A", "text": "no"})
    # One that lies in the run's folder and has been changed is never taken.
    shutil.copytree("other", "run/encoders/text")
    with pytest.raises(UserError, match="encoders/text: its weights are not those .* damaged"):
        cberl.load("run").predict(made.new)
    model = cberl.load("run", encoders=["moved"])
    monkeypatch.setattr(optional.importlib, "import_module", refuse_import)
    with pytest.raises(UserError, match=r"pip install 'cberl-jax\[features\]'"):
        model.predict(made.new)


def refuse_import(name):
    raise ImportError(f"No module named {name!r}")


@needs_encoder
def test_an_encoder_that_a_name_loads_has_to_be_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_encoder(tmp_path / "named")
    record = {"encoder": "named", "pooling": "the encoder's own", "context": None}
    last = parse_turns([[{"speaker": "A", "text": "you go"}]]).transcript().turns
    for state in (hash_state(load_encoder("named")), "0" * 64):
        records = {"text": record | {"weights": {"state": state}}}
        remaker = Remaker(records, ["text"], tmp_path / "none")
        if state == "0" * 64:
            with pytest.raises(UserError, match="named, and no folder with its weights"):
                remaker.remake_last(last)
        else:
            assert remaker.remake_last(last).present["text"].all()


@needs_encoder
def test_sound_and_sight_are_made_again(tmp_path, monkeypatch):
    pytest.importorskip("av", reason="PyAV is not installed")
    pytest.importorskip("opensmile", reason="openSMILE is not installed")
    import tiny_media

    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for number in range(14):
        tiny_media.write_clip(tmp_path / "clips" / f"d{number}.mp4", 3.0, 4, 200 + 20 * number)
    media = MediaSources(
        video_folders=["clips"],
        audio_encoders={"audio.egemaps": "egemaps", "audio.wav": tiny_media.wav2vec("wav")},
        audio_layer="mean",
        visual_encoders={"visual": tiny_media.vit("vit")},
        frame_rate=1.5,
    )
    made = Trained(tmp_path, encoders=["wav", "vit"], timing="", media=media, turns=1)
    for name in ("wav", "vit"):
        shutil.rmtree(name)
    expected = load_conversations("new.npz")
    model = cberl.load("run")
    found = model.predictions(made.new, video_dir="clips")
    for name, rows in expected.features.items():
        assert expected.present[name].any()
        np.testing.assert_allclose(found.corpus.features[name], rows, atol=1e-6)
    assert_equal(found, model.predictions("new.npz"), 1e-6)
    with pytest.raises(UserError, match=r"visual \(video_dir names no folder of clips\)"):
        model.predict(made.new)
    assert read_npz("conv.npz").provenance["visual"]["pooling"].endswith("1.5 frames a second")
