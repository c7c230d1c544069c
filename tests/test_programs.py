"""The programs as a person starts them: a run that learns, goes on, is read again, and refuses."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

import cberl_jax as cberl
from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.standardize import fit_standardiser
from cberl_jax.errors import UserError
from cberl_jax.reports.run import format_scores

# Each starts programs, most of them on a run at the widths that learn.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
# A shorter GAN stage; the joint model keeps its widths, since narrow ones learn too slowly.
SMALL = ["--config.gan.epochs=2", "--config.gan.steps=20"]


def program(name, *arguments):
    return [sys.executable, str(ROOT / "experiments" / f"{name}.py"), *map(str, arguments)]


def train(*arguments, config="demo"):
    return program("train", f"--config=experiments/configs/{config}.py", *arguments)


def start(command, environment, **options):
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, **options
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, program_environment):
    """A finished run of two seeds on the simulated corpus, and what it printed."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    command = train(f"--workdir={workdir}", "--seeds=2", *SMALL)
    done = start(command, program_environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return workdir, command, done.stdout


def single_utterance_floor():
    """Macro F1 on test of a logistic regression that sees one utterance at a time."""
    corpus = load_corpus("simulated:small")
    standardised = fit_standardiser(corpus)(corpus.features, corpus.present)
    features = np.concatenate(list(standardised.values()), axis=1)
    train, test = corpus.in_split("train"), corpus.in_split("test")
    floor = LogisticRegression(max_iter=500).fit(features[train], corpus.label[train])
    return f1_score(corpus.label[test], floor.predict(features[test]), average="macro")


def test_a_run_learns_what_single_utterances_do_not_tell(finished):
    report = json.loads((finished[0] / "report.json").read_text())
    assert report["test"]["macro_f1"]["mean"] > single_utterance_floor() + 0.03
    for name, best in report["bayes"]["full"].items():
        assert report["bayes"]["context_free"][name] < best
        assert report["test"][name]["mean"] < best


def test_a_run_leaves_the_files_and_names_that_other_programs_read(finished):
    workdir, _, printed = finished
    report = json.loads((workdir / "report.json").read_text())
    assert set(report) == {
        *("corpus", "classes", "members", "test", "dev", "augmentation", "timing", "versions"),
        *("bayes", "best_on_test", "pictures", "ensemble", "provenance", "notices", "folds"),
    }
    assert [set(m) for m in report["members"]] == [{"seed", "status", "epoch", "dev", "test"}] * 2
    for split in ("dev", "test"):
        for name in ("accuracy", "weighted_f1", "macro_f1", "balanced_accuracy"):
            assert set(report[split][name]) == {"mean", "std", "ci95"}
        for scores in report[split]["per_class"].values():
            assert set(scores) == {"precision", "recall", "f1", "support"}
    assert set(report["timing"]) == {
        *("device", "compile_s", "gan_s", "train_s", "epoch_s"),
        *("utterances_per_s", "peak_memory_bytes"),
    }
    shown = [workdir / picture["file"] for picture in report["pictures"]]
    pictures = cberl.Run(workdir).pictures()
    assert [picture.path for picture in pictures.values()] == shown
    assert pictures["confusion"]._repr_png_().startswith(b"\x89PNG")
    assert len(shown) == 8 and all(path.exists() for path in shown)
    assert (workdir / "report.html").stat().st_size > sum(path.stat().st_size for path in shown)
    assert report["augmentation"]["disgust"]["generated"] > 0
    card = (workdir / "MODEL_CARD.md").read_text()
    assert f"{report['test']['macro_f1']['mean']:.3f}" in card and "simulated" in card
    assert {"provenance", "ensemble"} <= report.keys() and "report.tex" in os.listdir(workdir)
    # What is read first in a terminal is what it ends with: the scores, and where the report is.
    assert printed.endswith(f"{format_scores(report)}\nreport: {workdir / 'report.html'}\n")
    # Where it was on the author's disk is nobody's business.
    command = report["provenance"]["command"]
    assert "![" not in printed and "--workdir=run " in command and str(workdir) not in command
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    joint = [(x["epoch"], x["member"]) for x in lines if x["stage"] == "joint"]
    assert len(set(joint)) == len(joint) and (0, 0) in joint and (0, 1) in joint
    assert sum(x["stage"] == "gan" for x in lines) == 4


def test_predictions_are_those_that_the_report_scores(finished):
    workdir, _, _ = finished
    report = json.loads((workdir / "report.json").read_text())
    predictions = np.load(workdir / "predictions.npz")
    corpus = load_corpus("simulated:small")
    for split in ("dev", "test"):
        probability, label = predictions[f"{split}.probability"], predictions[f"{split}.label"]
        np.testing.assert_allclose(probability.sum(axis=-1), 1.0, atol=1e-5)
        np.testing.assert_array_equal(label, corpus.label[corpus.in_split(split)])
        for member, p in zip(report["members"], probability):
            accuracy = np.mean(p.argmax(axis=-1) == label)
            assert member[split]["accuracy"] == pytest.approx(accuracy)
        names = corpus.dialogue[corpus.dialogue_of[corpus.in_split(split)]]
        np.testing.assert_array_equal(predictions[f"{split}.dialogue"], names)


def test_the_kept_epoch_is_the_best_on_dev(finished):
    workdir, _, _ = finished
    report = json.loads((workdir / "report.json").read_text())
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    for number, member in enumerate(report["members"]):
        own = [x for x in lines if x["stage"] == "joint" and x["member"] == number]
        best = max(own, key=lambda x: x["dev_mean_f1"])
        assert member["epoch"] == best["epoch"] + 1
        assert member["dev"]["weighted_f1"] == pytest.approx(best["dev_weighted_f1"], abs=1e-5)
        assert member["dev"]["macro_f1"] == pytest.approx(best["dev_macro_f1"], abs=1e-5)


def test_evaluate_gives_the_runs_own_result(finished, program_environment):
    workdir, _, printed = finished
    done = start(program("evaluate", f"--workdir={workdir}"), program_environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["RUN", "RUN", "--metrics=weighted_f1,F1 fear"], None),
        ([], "the arguments A [B] are needed"),
        (["RUN"], "name a second run B, or --predictions"),
        (["RUN", "--predictions=nowhere.csv"], "nowhere.csv: cannot be read"),
        (["RUN", "RUN", "--output=a.docx"], "a.docx: a comparison is written to a file ending in"),
        (["RUN", "RUN", "RUN"], "unexpected argument"),
        (["RUN", "nowhere"], "nowhere"),
        (["RUN", "RUN", "--metrics=luck"], "there is no metric 'luck'"),
    ],
)
def test_two_runs_are_compared(finished, program_environment, arguments, message):
    command = program("compare", *(x.replace("RUN", str(finished[0])) for x in arguments))
    done = start(command, program_environment, timeout=120)
    if message is None:
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("F1 fear") == 2 and "+0.000 [+0.000, +0.000]" in done.stdout
    else:
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_the_same_command_on_a_finished_run_trains_nothing(finished, program_environment):
    workdir, command, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    done = start(command, program_environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("this run is finished")
    assert format_scores(json.loads((workdir / "report.json").read_text())) in done.stdout
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processor affinity")
@pytest.mark.parametrize("cores", [1, 2])
def test_first_steps_do_not_hang_on_few_cores(cores, program_environment, tmp_path):
    available = sorted(os.sched_getaffinity(0))
    if len(available) < cores:
        pytest.skip(f"this machine has fewer than {cores} cores")
    # The model at its default widths: narrow ones never showed the deadlock.
    command = train(
        f"--workdir={tmp_path}", "--seeds=4", "--nopictures",
        "--config.train.epochs=1", "--config.gan.epochs=1", "--config.gan.steps=2",
    )  # fmt: skip
    # Compiled as a person's would be.
    environment = {k: v for k, v in program_environment.items() if k != "XLA_FLAGS"}
    # The affinity is set in a process of its own: setting it between fork and exec would fork a
    # process in which JAX's threads are running.
    pinned = (
        f"import os, sys; os.sched_setaffinity(0, {available[:cores]}); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    done = start([sys.executable, "-c", pinned, *command], environment, timeout=420)
    assert done.returncode == 0, done.stderr
    assert "joint 1/1" in done.stdout


def test_another_setting_in_the_same_folder_is_refused_with_the_difference(
    finished, program_environment
):
    workdir, command, _ = finished
    done = start([*command, "--config.loss.gamma=3"], program_environment, timeout=120)
    assert done.returncode == 2
    assert re.search(r"loss\.gamma: [\d.]+ there, 3\.0 asked for", done.stderr)
    assert json.loads((workdir / "config.json").read_text())["loss.gamma"] != 3.0


def test_settings_without_a_config_file_are_refused(program_environment, tmp_path):
    command = program("train", f"--workdir={tmp_path / 'run'}", "--config.loss.gamma=2")
    done = start(command, program_environment, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "--config.loss.gamma changes a setting of the config that --config names" in done.stderr
    # A program that has no such flag does not ask for it.
    command = program("evaluate", "--workdir=nowhere", "--config.loss.gamma=2")
    done = start(command, program_environment, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("error: Unknown command line flag")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("train", ["--config.augment.balanc=0.5"], "nearest is 'augment.balance'"),
        ("train", ["--config.augment.balance=much"], "augment.balance"),
        (
            "train",
            ["--config.augment.balance=2"],
            "augment.balance = 2.0: has to be from 0.0 to 1.0",
        ),
        ("train", ["--config.model.hidden=30"], "multiple of model.heads"),
        ("train", ["--config.model.graph=False"], "needs model.graph"),
        ("train", ["--config.train.select=luck"], "weighted_f1, macro_f1"),
        ("train", ["--config.data.modalities=smell"], "has no modality 'smell'"),
        ("train", ["--config=nowhere.py"], "error: nowhere.py: is neither a file nor one of"),
        ("train", ["--config=medl"], "one of the configs default, demo, iemocap, meld"),
        ("train", ["--noconfig.model.djva"], "nearest is 'model.djvae'"),
        ("train", ["--data=simulated:vast"], "vast"),
        ("train", ["--data=nowhere.npz"], "nowhere.npz"),
        ("train", ["--seeds=0"], "seeds"),
        ("train", ["--sedes=3"], "sedes"),
        ("train", ["stray"], "stray"),
        ("sweep", ["--grid=loss.gama=0,1"], "nearest is 'loss.gamma'"),
        ("sweep", ["--grid=loss.gamma"], "a setting and its values"),
        ("sweep", ["--grid=augment.balance=0.1,2"], "from 0.0 to 1.0"),
        ("sweep", ["--grid=model.hidden=64,66"], "at model.hidden=66: "),
        ("sweep", ["--grid=data.modalities=text,smell"], "has no modality 'smell'"),
        ("sweep", ["--members_per_device=0"], "members_per_device"),
        ("sweep", ["--data=nowhere.npz"], "nowhere.npz"),
        ("ablate", ["--variants=without luck"], "no variant 'without luck', only full"),
        ("ablate", ["--own=nowhere.json"], "nowhere.json: cannot be read"),
        ("ablate", ["--preset=luck"], "parts|remedies|sizes"),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_status_2(
    name, arguments, message, program_environment, tmp_path
):
    workdir = tmp_path / "run"
    command = program(name, "--config=experiments/configs/demo.py", f"--workdir={workdir}")
    done = start([*command, *arguments], program_environment, timeout=120)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not workdir.exists()


@pytest.mark.parametrize("name", ["default", "demo", "meld", "meld_frozen", "mosi", "iemocap"])
def test_a_config_file_opens_with_its_command_and_holds_known_settings(name):
    text = (ROOT / "experiments" / "configs" / f"{name}.py").read_text()
    assert f"python experiments/train.py --config=experiments/configs/{name}.py" in text
    assert re.search(r"Expected: .*(\d|not measured)", text)
    from cberl_jax.config.settings import check_config, default_config, flatten

    scope = {}
    exec(compile(text, name, "exec"), scope)
    config = scope["get_config"]()
    assert flatten(config).keys() == flatten(default_config()).keys()
    check_config(config)


@pytest.mark.parametrize(
    "body, message",
    [
        ("config.seed = 3", "own.py: get_config(): a config has to be what default_config()"),
        ("config.loss.gamma = 'much'", "much"),
        ("config.loss.unlock(); config.loss.gama = 1.0", "the nearest is 'loss.gamma'"),
        ("del config.loss.gamma", "lacks loss.gamma"),
        ("config = {'loss': {'gamma': 1}}", "a config has to be what default_config() returns"),
        ("config = 1 / 0", "own.py: ZeroDivisionError: division by zero"),
        ("return open('nowhere.txt')", "own.py: FileNotFoundError"),
    ],
)
def test_a_config_file_with_a_mistake_is_refused(body, message, program_environment, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from cberl_jax.config.settings import default_config\n\n\ndef get_config():\n"
        f"    config = default_config()\n    {body}\n    return config\n"
    )
    command = program("train", f"--config={file}", f"--workdir={tmp_path / 'run'}")
    done = start(command, program_environment, timeout=120)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1
    with pytest.raises(UserError, match=re.escape(message)):
        cberl.train("simulated:small", file, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_evaluate_refuses_a_folder_without_a_run_and_another_corpus(
    finished, program_environment, tmp_path
):
    done = start(program("evaluate", f"--workdir={tmp_path}"), program_environment, timeout=120)
    assert done.returncode == 2 and "holds no run" in done.stderr
    corpus = load_corpus("simulated:small")
    unlabelled = np.where(corpus.in_split("dev"), -1, corpus.label)
    write_npz(dataclasses.replace(corpus, label=unlabelled), tmp_path / "unlabelled.npz")
    arguments = (f"--workdir={finished[0]}", f"--data={tmp_path / 'unlabelled.npz'}")
    done = start(program("evaluate", *arguments), program_environment, timeout=120)
    assert done.returncode == 2 and "'dev' has no labelled utterance" in done.stderr
    data = os.environ.get("CBERL_DATA")
    if data is None:
        pytest.skip("CBERL_DATA does not name a folder with real corpora")
    arguments = (f"--workdir={finished[0]}", f"--data={data}/mosi.npz")
    done = start(program("evaluate", *arguments), program_environment, timeout=120)
    assert done.returncode == 2 and "are not those of the run" in done.stderr
