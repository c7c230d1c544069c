"""A corpus whose test split has no labels: dev alone is scored and shown."""

import dataclasses

import numpy as np
import pytest
from made import MADE
from tiny import BARE, QUIET, tiny_config

from cberl_jax.api import Run
from cberl_jax.config.variants import Preset, Variant
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import UserError
from cberl_jax.evaluation.outcomes import read_outcome
from cberl_jax.reports.sweep import create_sweep_report, write_sweep_report
from cberl_jax.studies.ablation import ablate
from cberl_jax.studies.evaluate import evaluate_run
from cberl_jax.studies.gan_report import gan_report
from cberl_jax.studies.train import train_and_evaluate

# One run of 12 seconds serves them all.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    corpus = simulate_corpus(create_process(), SimulatedSize(30, 6, 12, 6, 8), seed=3)
    label = np.where(corpus.in_split("test"), -1, corpus.label)
    path = tmp_path_factory.mktemp("corpus") / "corpus.npz"
    write_npz(dataclasses.replace(corpus, label=label), path)
    # The programs of ``test_pictures.py``.
    small = BARE | {"augment.method": "gan", "gan.epochs": 1, "train.epochs": 3}
    return tiny_config(**small, **{"data.path": str(path), "data.modalities": "text,audio"})


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("run") / "run")
    train_and_evaluate(config, str(run.workdir), [3, 5], QUIET)
    return run


def test_its_report_and_card_have_scores_of_dev_and_say_why(run, config):
    report = run.report()
    assert report["test"] is None and all(member["test"] is None for member in report["members"])
    assert 0 < report["dev"]["macro_f1"]["mean"] < 1
    text = (run.workdir / "report.md").read_text()
    assert "Test has no labels" in text and "dev utterances" in text
    assert "test utterances" not in text and "members, test" not in text
    (row,) = (line for line in text.splitlines() if line.startswith("| mean of the members"))
    assert "dev |" in row and f"{report['dev']['accuracy']['mean']:.3f} ±" in row
    assert (run.workdir / "report.tex").read_text() == ""
    card = (run.workdir / "MODEL_CARD.md").read_text()
    assert "Test has no labels" in card and "Few dev utterances" in card
    assert evaluate_run(str(run.workdir))["dev"] == report["dev"]
    # Nothing is scored, but there is a prediction for every utterance.
    assert len(run.model().predictions(config.data.path)) > 0


def test_its_pictures_show_dev_and_say_so(run):
    pictures = run.pictures()
    assert {"confusion", "f1", "calibration", "features", "attention"} <= set(pictures)
    first, *others = [picture.text for picture in pictures.values()]
    assert first.startswith("Dev utterances") and "Test has no labels" in first
    assert not any("Test" in text or "test" in text for text in others)


def test_the_run_prints_what_is_known(run):
    mean = run.report()["dev"]["accuracy"]["mean"]
    lines = repr(run).splitlines()
    assert lines[1] == "members: 2 (seeds 3, 5), 0 diverged"
    assert lines[2].startswith(f"dev: accuracy {mean:.3f}, ") and lines[3] == "test: no scores"
    assert f"<td>accuracy</td><td>{mean:.3f}</td><td>-</td>" in run._repr_html_()


def test_what_compares_on_test_refuses_it(run, config, tmp_path):
    with pytest.raises(UserError, match="its test split has no labels"):
        read_outcome(run.workdir)
    with pytest.raises(UserError, match="split 'test' has no labelled utterance"):
        gan_report(run.workdir)
    preset = Preset([Variant("a", {}), Variant("b", {"loss.gamma": 1.0})], "a")
    with pytest.raises(UserError, match="split 'test' has no labelled utterance"):
        ablate(config, str(tmp_path / "ablation"), [0, 1], preset)
    assert not (tmp_path / "ablation").exists()


def test_a_sweep_is_sorted_by_dev_and_shows_no_test(run, tmp_path):
    values = (0.0, 2.0)
    members = [
        member | {"settings": {"loss.gamma": gamma}}
        for gamma in values
        for member in run.report()["members"]
    ]
    grid = {"loss.gamma": values}
    report = create_sweep_report(
        grid,
        members,
        "macro_f1",
        lambda settings: None,
        lambda own: pytest.fail("test has no labels"),
        MADE,
    )
    assert [point["test"] for point in report["points"]] == [None, None]
    write_sweep_report(tmp_path, report)
    (row, _) = (
        line for line in (tmp_path / "sweep.md").read_text().splitlines() if "0 of 2" in line
    )
    assert row.split("|")[3].strip() == "-" and (tmp_path / "sweep_loss.gamma.png").exists()
