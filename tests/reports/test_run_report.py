"""The report of a run, its page in a browser, and all tables for a paper."""

import dataclasses
import shlex

import numpy as np
import paper
import pytest
from browser import find_browser, measure
from made import MADE
from webpage import Page, check_self_contained

from cberl_jax.config.settings import default_config
from cberl_jax.config.variants import Preset, Variant
from cberl_jax.data.corpus import fingerprint
from cberl_jax.data.notices import notices
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.evaluation.bootstrap import summarise_models
from cberl_jax.evaluation.compare import compare
from cberl_jax.evaluation.outcomes import Outcome
from cberl_jax.metrics import METRICS, evaluate_predictions
from cberl_jax.reports import ablation, latex, sweep
from cberl_jax.reports import compare as comparison
from cberl_jax.reports.html import plain, render_page
from cberl_jax.reports.provenance import create_provenance, format_command, format_provenance
from cberl_jax.reports.run import (
    TrainingData,
    create_report,
    format_latex,
    format_report,
    format_scores,
)
from cberl_jax.training.prepare import Splits

# Names that LaTeX, Markdown and a narrow column each have trouble with.
NAMES = ["50 % & more_or_less", "[1] *a*", "~^\\{x}$#", 'q"uote <b> | c', *"xyz"]


def scored(corpus, skill, seeds=5, seed=0):
    """Lines of members, and what they predict."""
    generator = np.random.default_rng(seed)
    classes, lines = len(corpus.classes), [{"seed": n, "status": "ok"} for n in range(seeds)]
    predictions = {}
    for split in ("dev", "test"):
        here = corpus.in_split(split)
        label = corpus.label[here]
        right = generator.random((seeds, len(label))) < skill
        wrong = (label + generator.integers(1, classes, size=right.shape)) % classes
        probability = np.eye(classes)[np.where(right, label, wrong)] * 0.4 + 0.6 / classes
        for line, own in zip(lines, probability):
            line[split] = evaluate_predictions(label, own, corpus.classes)
            line["epoch"] = 3
        predictions[f"{split}.probability"] = probability
        predictions[f"{split}.label"] = label
        predictions[f"{split}.dialogue"] = corpus.dialogue[corpus.dialogue_of[here]]
        predictions[f"{split}.utterance"] = corpus.turn[here]
    return lines, predictions


@pytest.fixture(scope="module")
def corpus():
    corpus = simulate_corpus(create_process(), SimulatedSize(10, 10, 30, 6, 9), seed=0)
    # One class has nine test utterances, another none.
    label, test = corpus.label.copy(), corpus.in_split("test")
    for number, kept in ((1, 9), (2, 0)):
        label[np.flatnonzero(test & (label == number))[kept:]] = 0
    return dataclasses.replace(corpus, label=label, classes=tuple(NAMES), source="my_corpus & Co")


def report_of(corpus, seeds=5, causal=False):
    lines, predictions = scored(corpus, 0.6, seeds)
    return create_report(
        TrainingData(corpus, Splits(None, (corpus,)), np.arange(len(corpus.classes))),
        lines,
        predictions,
        causal=causal,
        timing={},
        provenance=MADE,
    )


def table_rows(text, number):
    """The cells of a table of a report."""
    table = [part for part in text.split("\n\n") if part.startswith("|")][number]
    return [[x.strip() for x in row.strip("|").split(" | ")] for row in table.splitlines()]


def test_both_models_are_scored_on_test_and_told_apart(corpus):
    report = report_of(corpus)
    lines, predictions = scored(corpus, 0.6)
    together = predictions["test.probability"].mean(axis=0)
    right = evaluate_predictions(predictions["test.label"], together, corpus.classes)
    text = format_report(report)
    head, _, members, average, dev = table_rows(text, 0)
    assert head[1:] == ["accuracy", "weighted F1", "macro F1", "balanced accuracy"]
    assert members[0] == "mean of the members, test" and dev[0] == "mean of the members, dev"
    assert average[0] == "average of the members' probabilities, test"
    for column, name in enumerate(METRICS, start=1):
        assert average[column].startswith(f"{right[name]:.3f} [") and "±" not in average[column]
        mean = np.mean([line["test"][name] for line in lines])
        assert members[column].startswith(f"{mean:.3f} ± ") and members[column].endswith("]")
        assert "[" not in dev[column] and "±" in dev[column]
    assert '"Mean of the members": each member is scored by itself' in text
    assert "`predict` and `export` use" in text and "f1_score" in text
    classes = {row[0]: row for row in table_rows(text, 1)[2:]}
    assert classes["x"][6].startswith(f"{right['per_class']['x']['f1']:.3f} [")
    assert format_scores(report).index("| seed") < format_scores(report).index("| model")


def test_an_absent_class_is_a_dash_and_a_rare_one_is_marked_without_an_interval(corpus):
    text = format_report(report_of(corpus))
    rows = table_rows(text, 1)
    rare, absent = rows[3], rows[4]
    assert rare[0].endswith(" †") and rare[7] == "9"
    assert all("[" not in cell and cell != "-" for cell in rare[1:7])
    assert absent[1:8] == ["-"] * 6 + ["0"]
    assert "0.000" not in "".join(absent) and "under 10 utterances" in text


def test_what_is_worth_a_look_in_the_data_is_in_the_report_and_its_page(corpus):
    features = {name: values.copy() for name, values in corpus.features.items()}
    features["text"][:, 0] = 1.0
    odd = dataclasses.replace(corpus, features=features)
    report = report_of(odd)
    assert report["notices"] == notices(odd) != []
    text = format_report(report)
    listed = text.split("## Worth a look\n\n")[1].split("\n\n")[0].splitlines()
    assert listed == [f"- {plain(line)}" for line in report["notices"]]
    shown = Page(render_page(text, {})).text
    assert all(" ".join(line.split()) in shown for line in report["notices"])
    assert "Worth a look" not in format_report(report | {"notices": []})


@pytest.mark.parametrize("seeds", [1, 3, 4])
def test_under_four_seeds_nothing_is_claimed_of_others(corpus, seeds):
    text = format_report(report_of(corpus, seeds))
    assert ("do not tell what others" in text) == (seeds == 3)
    assert ("one seed does not tell what others would give" in text) == (seeds == 1)
    assert ("for other seeds and other dialogues" in text) == (seeds == 4)
    assert ("±" in text) == (seeds > 1)


def test_a_simulated_runs_shares_are_of_what_can_be_expected(corpus):
    simulated = dataclasses.replace(corpus, source="simulated:custom", classes=tuple("abcdefg"))
    for causal, title in ((False, "best possible"), (True, "best possible without later turns")):
        report = report_of(simulated, causal=causal)
        whole = report["bayes"]["causal" if causal else "full"]
        assert set(whole) == {"accuracy", "balanced_accuracy"}
        rows = {row[0]: row[1:] for row in table_rows(format_report(report), 0)}
        accuracy, balanced = (f"{whole[n]:.3f}" for n in ("accuracy", "balanced_accuracy"))
        assert rows[f"{title}, expected"] == [accuracy, "-", "-", balanced]
        for name, key in (
            ("mean of the members", "test"),
            ("average of the members' probabilities", "ensemble"),
        ):
            share = rows[f"{name}, share of the {title}"]
            assert share[0] == f"{100 * report[key]['accuracy']['mean'] / whole['accuracy']:.1f} %"
            assert share[1:3] == ["-", "-"]
    full, causal = (report_of(simulated, causal=c)["bayes"] for c in (False, True))
    assert causal["causal"]["accuracy"] < full["full"]["accuracy"]
    assert causal["context_free"] == full["context_free"]


def test_how_it_was_made_is_what_differs_from_the_defaults(corpus):
    config = default_config()
    config.loss.gamma = 3.25
    made = create_provenance(config, corpus)
    assert made["settings"] == {
        "loss.gamma": {"value": 3.25, "default": default_config().loss.gamma}
    }
    assert made["fingerprint"] == fingerprint(corpus) and made["versions"]["cberl-jax"]
    text = format_provenance(made)
    assert "| loss.gamma | 3.25 " in text and made["date"] in text and made["device"] in text
    assert "All settings are the defaults." in format_provenance(made | {"settings": {}})


def sweep_report(corpus):
    members, stored = [], {}
    for number, gamma in enumerate((0.0, 2.0)):
        lines, stored[gamma] = scored(corpus, 0.5 + 0.2 * number, seed=number)
        members += [
            line | {"settings": {"loss.gamma": gamma, "data.modalities": "text,a_b"}}
            for line in lines
        ]

    def score_test(own):
        found = stored[own[0]["settings"]["loss.gamma"]]
        known = (found["test.label"], found["test.dialogue"], corpus.classes)
        return summarise_models(found["test.probability"], *known)

    grid = {"loss.gamma": [0.0, 2.0], "data.modalities": ["text,a_b"]}
    made = MADE | {"corpus": corpus.source}
    return sweep.create_sweep_report(grid, members, "mean_f1", lambda p: None, score_test, made)


def outcome_of(corpus, name, skill, seed):
    lines, stored = scored(corpus, skill, seed=seed)
    fields = [stored[f"test.{n}"] for n in ("probability", "label", "dialogue", "utterance")]
    return lines, Outcome(name, list(corpus.classes), np.arange(5), *fields)


def ablation_report(corpus):
    names = ["full & all", "[x] without_GAN", "*bold* variant"]
    found = {n: outcome_of(corpus, n, 0.5 + 0.15 * i, i) for i, n in enumerate(names)}
    preset = Preset([Variant(name, {}) for name in names], names[0])
    minority = list(corpus.classes[1:])
    return ablation.create_ablation_report(
        corpus.source, preset, found, minority, dict.fromkeys(names), MADE
    )


def paper_tables(corpus):
    pair = [outcome_of(corpus, "a_b", 0.7, 0)[1], outcome_of(corpus, "c&d", 0.5, 1)[1]]
    lines = compare(*pair, ("macro_f1", f"F1 {corpus.classes[1]}", "recall x"), 200)
    return {
        "report": format_latex(report_of(corpus)),
        "sweep": sweep.format_latex(sweep_report(corpus)),
        "ablation": ablation.format_latex(ablation_report(corpus)),
        "compare": comparison.format_latex(*pair, lines),
    }


def test_the_tables_for_a_paper_are_sound(corpus):
    for name, text in paper_tables(corpus).items():
        paper.check_syntax(text)
        assert text.count(r"\caption{") == text.count(r"\begin{table}") >= 1
        assert "95 \\%" in text and "dialogues" in text
        if name in ("ablation", "compare"):
            assert "^*$" in text and "A star: p" in text and r"$^\dagger$" in text
        if name in ("report", "sweep"):
            assert r"$\pm$: standard deviation over members" in text


@pytest.mark.skipif(paper.find_engine() is None, reason="no TeX engine is installed")
def test_the_tables_for_a_paper_compile(corpus, tmp_path):
    log = paper.compile_tables("\n".join(paper_tables(corpus).values()), tmp_path)
    assert "Overfull \\hbox" not in log


def test_a_paper_check_finds_what_is_wrong(corpus):
    good = format_latex(report_of(corpus))
    for broken in (
        good.replace(r"\end{tabular}", "", 1),
        good.replace(" & ", " ", 1),
        good.replace(r"\%", "%", 1),
        good.replace(r"\_", "_", 1),
    ):
        with pytest.raises(AssertionError):
            paper.check_syntax(broken)


def test_digits_are_as_many_as_the_interval_tells():
    def wide(half):
        return {"mean": 0.5, "std": None, "ci95": [0.5 - half, 0.5 + half]}

    assert [latex.count_digits([wide(h)]) for h in (0.2, 0.021, 0.0021)] == [0, 1, 2]
    assert latex.count_digits([{"mean": 0.5, "std": None, "ci95": None}, None]) == 1
    assert latex.format_score(wide(0.2), 0) == "$50$ [30, 70]"


@pytest.mark.skipif(find_browser() is None, reason="no headless browser is installed")
@pytest.mark.parametrize("width, printed", [(1200, False), (700, True)])
def test_nothing_is_cut_off_on_a_page_or_on_paper(corpus, tmp_path, width, printed):
    many = sweep_report(corpus)
    pages = [format_report(report_of(corpus)), ablation.format_ablation(ablation_report(corpus))]
    for text in (*pages, sweep.format_sweep(many)):
        page = render_page(text, {})
        assert not check_self_contained(page)
        assert Page(page).tags.count("caption") == Page(page).tags.count("table") >= 3
        found = measure(page, tmp_path, width, printed)
        assert found["width"] == width and found["elements"] > 100
        assert found["scroll"] <= width and not found["wide"], found["wide"]


@pytest.mark.skipif(find_browser() is None, reason="no headless browser is installed")
def test_usual_words_stay_whole_in_a_column(corpus, tmp_path):
    usual = dataclasses.replace(corpus, classes=("neutral", "surprise", "sadness", *"abcd"))
    page = render_page(format_report(report_of(usual)), {})
    for width, printed in ((1200, False), (700, True)):
        assert not measure(page, tmp_path, width, printed)["broken"]


@pytest.mark.skipif(find_browser() is None, reason="no headless browser is installed")
def test_what_is_cut_off_is_found(tmp_path):
    page = render_page("# T\n\ntext\n", {}).replace("<p>", '<p style="width: 3000px">')
    found = measure(page, tmp_path, 1200)
    assert found["scroll"] > 1200 and any(x.startswith("P: text") for x in found["wide"])


@pytest.mark.parametrize(
    "word, shown",
    [
        ("--data=/home/me/secret/mine.npz", "--data=mine.npz"),
        ("/home/me/secret/", "secret"),
        ("--workdir=~/secret/run", "--workdir=run"),
        ("--workdir=~me/secret/run", "--workdir=run"),
        ("--data=/mine.npz", "--data=mine.npz"),
        ("--own={'a': '/home/b.json'}", "--own={'a': 'b.json'}"),
        ("--data=/home/a,b/my data.npz", "--data=my data.npz"),
        # What says nothing of the disk stays a command that can be run.
        ("--data=../data/mine.npz", "--data=../data/mine.npz"),
        ("--workdir=runs/a", "--workdir=runs/a"),
        ("--data=simulated:small", "--data=simulated:small"),
        ("--grid=loss.gamma=0,1;mask.rate=0.1", "--grid=loss.gamma=0,1;mask.rate=0.1"),
    ],
)
def test_a_command_is_shown_without_the_folders_of_absolute_paths(word, shown):
    command = format_command(["/usr/bin/cberl", "train", word])
    assert shlex.split(command) == ["cberl", "train", shown]


def test_settings_and_corpus_are_shown_without_their_folders():
    config = default_config()
    config.data.path, config.data.folds = "/home/me/c.npz", "/home/me/folds.csv"
    corpus = simulate_corpus(create_process(), SimulatedSize(2, 2, 2, 2, 2), seed=0)
    made = create_provenance(config, dataclasses.replace(corpus, source="/home/me/c.npz"))
    assert made["corpus"] == "c.npz"
    values = {name: own["value"] for name, own in made["settings"].items()}
    assert values == {"data.path": "c.npz", "data.folds": "folds.csv"}
