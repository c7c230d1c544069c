"""An ablation: what its variants are, one program for those that may share it, and its report."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from made import MADE
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tiny import BARE, NO_PARTS, QUIET, tiny_config

from cberl_jax.config.grid import group_points, point_config
from cberl_jax.config.settings import default_config, flatten
from cberl_jax.config.variants import (
    PRESETS,
    Preset,
    Variant,
    choose_variants,
    list_remedies,
    list_variants,
    read_variants,
)
from cberl_jax.data.augmentation import name_minority
from cberl_jax.data.bayes import best_possible
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import UserError
from cberl_jax.evaluation.compare import compare
from cberl_jax.evaluation.outcomes import Outcome
from cberl_jax.metrics import evaluate_predictions
from cberl_jax.reports.ablation import (
    create_ablation_report,
    format_ablation,
    format_csv,
    format_latex,
    format_scores,
    write_ablation_report,
)
from cberl_jax.reports.plots.ablation import draw_forest, forest_end
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.studies.ablation import ablate, list_points, read_variant
from cberl_jax.studies.points import Execution
from cberl_jax.studies.train import train_and_evaluate
from cberl_jax.training.prepare import load_data

MODALITIES = ("text", "audio", "visual")
CLASSES = ["neutral", "fear & co", "joy"]


# The variants.


@pytest.mark.parametrize("preset", PRESETS)
def test_variants_of_a_preset_can_be_trained_and_differ(preset):
    config = default_config()
    variants, reference = list_variants(preset, config, MODALITIES)
    names = [variant.name for variant in variants]
    assert len(set(names)) == len(names) and reference in names
    settings = [flatten(point_config(config, variant.settings)) for variant in variants]
    assert all(one not in settings[:number] for number, one in enumerate(settings))


def test_parts_take_away_one_thing_each():
    config = default_config()
    variants, _ = list_variants("parts", config, MODALITIES)
    before = flatten(config)
    changed = {
        variant.name: {
            name
            for name, value in flatten(point_config(config, variant.settings)).items()
            if value != before[name]
        }
        for variant in variants
    }
    assert changed["full"] == set()
    assert changed["without GAN"] == {"augment.method"}
    # Nothing can be rebuilt where there is no graph.
    assert changed["without graph"] == {"model.graph", "model.reconstruction"}
    assert changed["gamma = 0"] == {"loss.gamma"}
    assert {"augment.method", "model.reconstruction", "loss.gamma"} <= changed[
        "no imbalance measure"
    ]
    subsets = [v.settings["data.modalities"] for v in variants if "data.modalities" in v.settings]
    assert subsets == [
        *("text,audio", "text,visual", "audio,visual"),
        *("text", "audio", "visual"),
    ]


def test_each_view_of_several_is_taken_away():
    config = default_config()
    names = ("text.a", "text.b", "text.c", "audio.x", "visual")
    variants = {v.name: v.settings for v in list_variants("parts", config, names)[0]}
    # That of the audio stays, and is named: it is the one view that its modality has.
    assert variants["without text.b"] == {"data.views": "text.a,text.c,audio.x"}
    assert {n for n in variants if "." in n} == {f"without text.{view}" for view in "abc"}
    assert {"text + audio only", "text only", "audio + visual only"} <= set(variants)
    assert not any("." in v.name for v in list_variants("parts", config, MODALITIES)[0])


def test_masking_is_compared_with_its_other_kind():
    config = default_config()
    config.mask.tau = 0.5
    variants = {v.name: v.settings for v in list_variants("parts", config, MODALITIES)[0]}
    assert variants["uniform masking"] == {"mask.tau": 0.0}
    config.mask.tau = 0.0
    variants = {v.name: v.settings for v in list_variants("parts", config, MODALITIES)[0]}
    assert variants["class-aware masking"]["mask.tau"] > 0 and "uniform masking" not in variants


def test_remedies_need_a_program_for_each_way_of_filling_up():
    variants, reference = list_remedies()
    groups = group_points([variant.settings for variant in variants])
    assert [group.static["augment.method"] for group in groups] == [
        "none",
        "repeat",
        "smote",
        "gan",
        "flow",
    ]
    none = next(v.settings for v in variants if v.name == reference)
    # A plain cross entropy; only the focal loss focuses, only logit adjustment adjusts.
    names = [f"loss.{n}" for n in ("gamma", "class_balance", "logit_adjustment", "label_smoothing")]
    assert all(none[name] == 0 for name in names)
    assert all(v.settings["loss.label_smoothing"] == 0 for v in variants)
    focused = {v.name for v in variants if v.settings["loss.gamma"]}
    assert focused == {v.name for v in variants if "focal loss" in v.name}


def test_augmentation_is_called_by_its_name_and_left_out_where_there_is_none():
    config = default_config()
    config.augment.method = "smote"
    assert "without SMOTE" in [v.name for v in list_variants("parts", config, ("text",))[0]]
    config.augment.method = "none"
    preset = list_variants("parts", config, ("text",))
    chosen = choose_variants(preset, [], None, config).variants
    assert chosen[0].name == "full" and all(v.settings for v in chosen[1:])
    assert len(chosen) == len(preset.variants) - 1


def test_minority_classes_are_those_that_are_filled_up_or_else_under_half_of_the_largest():
    def corpus_of(*counts):
        labels = np.repeat(np.arange(3), counts).astype(np.int32)
        size = len(labels)
        return Corpus(
            classes=tuple(CLASSES),
            dialogue=np.array(["d"]),
            split=np.array(["train"]),
            length=np.array([size], np.int32),
            speaker=np.full(size, "A"),
            label=labels,
            features={},
            present={},
        )

    assert name_minority(corpus_of(100, 10, 40), 0.15) == ["fear & co"]
    assert name_minority(corpus_of(100, 20, 40), 0.15) == ["fear & co", "joy"]
    assert name_minority(corpus_of(100, 60, 90), 0.15) == []


def test_chosen_variants_come_with_their_reference_and_without_the_configs_own_settings():
    config = default_config()
    config.loss.gamma = 3.0
    preset = list_variants("parts", config, ("text",))
    own = [Variant("mine", {"loss.gamma": 3, "model.layers": 2})]
    chosen = choose_variants(preset, own, ["without GAN"], config)
    assert [variant.name for variant in chosen.variants] == ["full", "without GAN", "mine"]
    assert chosen.variants[-1].settings == {"model.layers": 2}
    assert len(choose_variants(preset, [], None, config).variants) == len(preset.variants)


def test_equal_settings_are_one_point_however_they_are_written():
    """Else there would be more points than members, and the report never complete."""
    config = default_config()
    own = [Variant("mine", {"loss.gamma": 0}), Variant("again", {"loss.gamma": 0.0})]
    chosen = choose_variants(list_variants("parts", config, ("text",)), own, ["gamma = 0"], config)
    assert len(chosen.variants) == 4
    assert list_points(chosen) == [{"loss.gamma": 0.0}, {}]


def test_variants_that_nothing_can_follow_are_refused_by_name():
    config = default_config()
    preset = list_variants("parts", config, ("text",))
    with pytest.raises(UserError, match="no variant 'without luck', only full, without GAN"):
        choose_variants(preset, [], ["without luck"], config)
    with pytest.raises(UserError, match="'full' is there already"):
        choose_variants(preset, [Variant("full", {})], None, config)
    twice = [Variant("mine", {"loss.gamma": 2.0}), Variant("mine", {"loss.gamma": 3.0})]
    with pytest.raises(UserError, match="'mine' is there already"):
        choose_variants(preset, twice, None, config)
    with pytest.raises(UserError, match="variant 'odd': .*multiple of model.heads"):
        choose_variants(preset, [Variant("odd", {"model.hidden": 30})], None, config)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "cannot be read as JSON"),
        ("[]", "has to be of the form"),
        ('{"a": 3}', "variant 'a': its settings have to be names and values"),
        ('{"a": {"loss.gama": 3}}', "variant 'a': .*nearest is 'loss.gamma'"),
        ('{"a": {"data.path": "b.npz"}}', "variant 'a': data.path cannot be swept"),
        ('{"a": {"loss.gamma": 2}, "a": {}}', "'a' is there twice"),
        ('{"a": {"loss.gamma": "3"}}', "variant 'a': loss.gamma = '3': has to be of type float"),
    ],
)
def test_a_file_of_variants_with_a_mistake_is_refused(content, message, tmp_path):
    path = tmp_path / "own.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_variants(path)


def test_a_file_of_variants_is_read(tmp_path):
    path = tmp_path / "own.json"
    path.write_text('{"strong focus": {"loss.gamma": 5}, "deep": {"model.layers": 3}}')
    assert read_variants(path) == [
        Variant("strong focus", {"loss.gamma": 5}),
        Variant("deep", {"model.layers": 3}),
    ]
    with pytest.raises(UserError, match="nowhere.json: cannot be read"):
        read_variants(tmp_path / "nowhere.json")


# The report.


def found(name, skill, seeds=(0, 1, 2, 3), lost=()):
    """The members of a variant that are right with probability ``skill``."""
    generator = np.random.default_rng([len(name), int(1000 * skill)])
    label = np.random.default_rng(7).choice(3, p=[0.6, 0.1, 0.3], size=320)
    right = generator.random((len(seeds), len(label))) < skill
    guess = np.where(right, label, (label + 1) % 3)
    probability = np.eye(3)[guess] * 0.5 + 1 / 6
    lines = []
    for seed, own in zip(seeds, probability):
        lines.append({"seed": seed, "status": "diverged" if seed in lost else "ok", "dev": None})
        if seed not in lost:
            # Dev is half of test, so that neither passes for the other.
            lines[-1]["dev"] = evaluate_predictions(label[::2], own[::2], CLASSES)
    sound = [number for number, seed in enumerate(seeds) if seed not in lost]
    dialogue = np.repeat([f"d{i}" for i in range(40)], 8)
    names = np.asarray(seeds)[sound]
    if not sound:
        return lines, None
    turn = np.tile(np.arange(8), 40)
    return lines, Outcome(name, CLASSES, names, probability[sound], label, dialogue, turn)


def report_of(members, bayes=None):
    preset = Preset([Variant(name, {}) for name in members], next(iter(members)))
    best = dict.fromkeys(members, bayes)
    return create_ablation_report("corpus", preset, members, ["fear & co"], best, MADE)


def test_a_better_variant_stands_out_and_an_equal_one_does_not():
    full = found("full", 0.6)
    same = (full[0], full[1]._replace(name="same"))
    report = report_of({"full": full, "same": same, "better": found("better", 0.8)})
    assert report["metrics"][-2:] == ["F1 fear & co", "recall fear & co"]
    lines = {line["name"]: line for line in report["variants"]}
    assert lines["full"]["difference"] is None
    for gap in lines["same"]["difference"].values():
        assert gap["mean"] == 0 and gap["ci95"] == [0, 0] and gap["p_holm"] == 1
    gap = lines["better"]["difference"]["weighted_f1"]
    assert gap["ci95"][0] > 0.1 and gap["p_holm"] < 0.01
    direct = compare(found("better", 0.8)[1], full[1], report["metrics"])
    assert direct[0]["difference"] == gap["mean"] and direct[0]["ci95"] == gap["ci95"]
    # Two variants are compared with the reference in each column.
    assert gap["p_holm"] == pytest.approx(2 * gap["p"])
    members, outcome = found("better", 0.8)
    dev = np.mean([member["dev"]["macro_f1"] for member in members])
    test = [
        evaluate_predictions(outcome.label, p, CLASSES)["macro_f1"] for p in outcome.probability
    ]
    assert lines["better"]["dev"]["macro_f1"]["mean"] == pytest.approx(dev)
    assert lines["better"]["test"]["macro_f1"]["mean"] == pytest.approx(np.mean(test))
    assert abs(dev - np.mean(test)) > 1e-3
    assert gap["star"] and not lines["same"]["difference"]["weighted_f1"]["star"]
    together = evaluate_predictions(outcome.label, outcome.probability.mean(axis=0), CLASSES)
    for name in ("macro_f1", "weighted_f1"):
        assert lines["better"]["ensemble"][name]["mean"] == pytest.approx(together[name])
    table = format_ablation(report)
    assert any("better" in row and " *" in row for row in table.splitlines())


def test_few_seeds_and_few_utterances_have_no_stars():
    few = report_of({"full": found("full", 0.5, (0, 1, 2)), "good": found("good", 0.9, (0, 1, 2))})
    gaps = few["variants"][1]["difference"]
    assert gaps["weighted_f1"]["p_holm"] < 0.01
    assert not any(gap["star"] for gap in gaps.values())
    text = format_ablation(few)
    assert "No stars: under 4 seeds" in text and "] *" not in text
    assert "^*" not in format_latex(few)

    def rare(name, skill, count):
        lines, outcome = found(name, skill)
        label = outcome.label.copy()
        label[np.flatnonzero(label == 1)[count:]] = 0
        return lines, outcome._replace(label=label)

    nine = report_of({"full": rare("full", 0.3, 9), "good": rare("good", 0.95, 9)})
    gaps = nine["variants"][1]["difference"]
    assert gaps["weighted_f1"]["star"] and not gaps["recall fear & co"]["star"]
    assert nine["variants"][1]["test"]["F1 fear & co"]["ci95"] is None
    assert "F1 fear & co †" in format_ablation(nine)
    none = report_of({"full": rare("full", 0.3, 0), "good": rare("good", 0.95, 0)})
    assert not any("fear" in name for name in none["metrics"])
    assert "Not measured, since the test split has none: fear & co." in format_ablation(none)


def test_members_that_diverged_are_left_out_on_both_sides():
    members = {
        "full": found("full", 0.7, lost=[1]),
        "some": found("some", 0.7, lost=[3]),
        "none": found("none", 0.7, lost=[0, 1, 2, 3]),
    }
    report = report_of(members)
    full, some, none = report["variants"]
    assert (full["diverged"], some["diverged"], none["diverged"]) == (1, 1, 4)
    assert none["test"] is none["difference"] is None
    # Seeds 0 and 2 are sound in both.
    both = [members[name][1] for name in ("some", "full")]
    places = ([0, 2], [0, 1])
    pair = [
        one._replace(seeds=np.array([0, 2]), probability=one.probability[place])
        for one, place in zip(both, places)
    ]
    expected = compare(*pair, ["macro_f1"])[0]["difference"]
    assert some["difference"]["macro_f1"]["mean"] == pytest.approx(expected)
    assert "4 of 4 members diverged" in format_ablation(report)


def test_a_reference_that_diverged_leaves_the_scores_of_the_others():
    members = {"full": found("full", 0.7, lost=[0, 1, 2, 3]), "some": found("some", 0.7)}
    report = report_of(members)
    assert report["variants"][1]["test"] and report["variants"][1]["difference"] is None
    assert "Difference" not in format_ablation(report)
    assert format_latex(report).count("tabular}") == 2
    assert r"full & --" in format_latex(report)


def test_the_csv_reads_back_and_latex_is_escaped():
    report = report_of({"full": found("full", 0.6), "50 % less_x": found("b", 0.7)})
    rows = list(csv.DictReader(io.StringIO(format_csv(report))))
    assert len(rows) == 2 * len(report["metrics"])
    line = report["variants"][1]
    row = next(r for r in rows if r["variant"] == "50 % less_x" and r["metric"] == "macro_f1")
    assert float(row["mean"]) == line["test"]["macro_f1"]["mean"]
    assert float(row["difference_low"]) == line["difference"]["macro_f1"]["ci95"][0]
    assert next(r for r in rows if r["variant"] == "full")["difference"] == ""
    table = format_latex(report)
    assert r"50 \% less\_x & " in table and r"F1 fear \& co" in table
    gap = line["difference"]["macro_f1"]
    star = "^*" if gap["star"] else ""
    assert gap["star"]
    assert rf"${100 * gap['mean']:+.1f}{star}$ [${100 * gap['ci95'][0]:+.1f}$" in table
    assert table.count(r"\begin{tabular}") == 2 == table.count(r"\toprule")
    score = line["test"]["macro_f1"]
    assert rf"${100 * score['mean']:.1f} \pm {100 * score['std']:.1f}$ [" in table


def test_shares_of_the_best_possible_are_stated():
    bayes = {
        "full": {"accuracy": 0.8, "balanced_accuracy": 0.8},
        "context_free": {"accuracy": 0.5, "balanced_accuracy": 0.4},
    }
    report = report_of({"full": found("full", 0.6)}, bayes)
    share = report["variants"][0]["test"]["balanced_accuracy"]["mean"] / 0.4
    assert f"{100 * share:.1f} %" in format_ablation(report)
    assert "Difference" not in format_ablation(report)


def test_one_difference_far_beyond_the_others_does_not_squeeze_them():
    near = [{"ci95": [-0.01, 0.02]}, {"ci95": [-0.03, 0.01]}, {"ci95": [0.0, 0.0]}]
    far = {"ci95": [-0.4, -0.3]}
    assert forest_end([near]) == pytest.approx(0.033)
    assert forest_end([[*near, far]]) == pytest.approx(0.033)
    assert forest_end([[*near, {"ci95": [-0.08, -0.02]}]]) == pytest.approx(0.088)
    assert forest_end([[far]]) == pytest.approx(0.44)


def test_all_panels_have_the_scale_of_the_widest_one_and_an_empty_one_has_it_too():
    near, wide, none = ([{"ci95": [-x, x]}] * 2 for x in (0.01, 0.2, 0.0))
    assert forest_end([near, wide, none]) == forest_end([wide]) == pytest.approx(0.22)
    assert forest_end([near, none]) == pytest.approx(0.011)
    # No panel has a difference: the axis is as narrow as differences are.
    assert forest_end([none, none]) == 0.01


def test_the_panels_of_a_picture_are_drawn_on_one_scale(tmp_path, monkeypatch):
    figures = []
    subplots = Figure.subplots

    def watched(self, *arguments, **options):
        figures.append(self)
        return subplots(self, *arguments, **options)

    monkeypatch.setattr(Figure, "subplots", watched)
    panels = {
        name: [{"mean": 0.0, "ci95": [-x, x]}] for name, x in (("a", 0.1), ("b", 0.02), ("c", 0))
    }
    draw_forest(tmp_path / "a.png", ["name"], panels, "full")
    assert len(figures[0].axes) == 3
    for axes in figures[0].axes:
        assert axes.get_xlim() == pytest.approx((-0.11, 0.11))


@pytest.mark.parametrize("mean, told", [(-0.35, "◀ -0.350"), (0.35, "+0.350 ▶"), (-0.005, None)])
def test_what_lies_beyond_the_axis_is_a_number_at_its_edge(tmp_path, monkeypatch, mean, told):
    texts = []
    monkeypatch.setattr(Axes, "text", lambda self, x, y, text, **look: texts.append(text))
    near = [{"mean": 0.0, "ci95": [-0.01, 0.02]}, {"mean": 0.0, "ci95": [-0.03, 0.01]}]
    wide = {"mean": mean, "ci95": [mean - 0.4, mean + 0.4]}
    draw_forest(tmp_path / "a.png", ["a", "b", "c"], {"macro F1": [*near, wide]}, "full")
    assert texts == ([told] if told else [])


def test_all_files_are_written(tmp_path):
    report = report_of({"full": found("full", 0.6), "better": found("better", 0.8)})
    write_ablation_report(tmp_path, report)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"ablation.{end}" for end in ("json", "md", "html", "csv", "tex", "png")}
    assert json.loads((tmp_path / "ablation.json").read_text()) == report


def test_what_views_add_is_shown_on_dev(tmp_path):
    full, less = found("full", 0.7), found("without text.a", 0.5)
    preset = Preset(
        [Variant("full", {}), Variant("without text.a", {"data.views": "text.b"})], "full"
    )
    # Dev is half of test, so that neither passes for the other.
    dev = {}
    for name, (_, outcome) in {"full": full, "without text.a": less}.items():
        half = {f: getattr(outcome, f)[::2] for f in ("label", "dialogue", "utterance")}
        dev[name] = outcome._replace(probability=outcome.probability[:, ::2], **half)
    members = {"full": full, "without text.a": less}
    bayes = dict.fromkeys(members)
    report = create_ablation_report(
        "corpus", preset, members, ["fear & co"], bayes, MADE, {**dev, "lost": None}
    )
    (gap,) = report["views"].values()
    direct = compare(dev["without text.a"], dev["full"])[0]
    assert gap["weighted_f1"]["mean"] == direct["difference"] < -0.1
    assert gap["weighted_f1"]["ci95"] == direct["ci95"]
    test = report["variants"][1]["difference"]["weighted_f1"]["mean"]
    assert gap["weighted_f1"]["mean"] != test
    write_ablation_report(tmp_path, report)
    assert (tmp_path / "views.png").exists()
    text = (tmp_path / "ablation.md").read_text()
    section = text[text.index("## What each view adds, on dev") :]
    assert f"{direct['difference']:+.3f}" in section and "views.png" in section
    assert (
        "views.png" in (tmp_path / "ablation.html").read_text()
        or "base64" in (tmp_path / "ablation.html").read_text()
    )
    assert "What each view adds" in format_scores(report)
    assert "What each view adds" not in format_ablation(report_of(members))


# The whole.


def without_provenance(report):
    return {name: value for name, value in report.items() if name != "provenance"}


@pytest.mark.slow
def test_an_ablation_shares_programs_goes_on_and_agrees_with_a_run_of_its_own(tmp_path, traces):
    path = tmp_path / "corpus.npz"
    write_npz(simulate_corpus(create_process(), SimulatedSize(12, 4, 6, 4, 4), seed=0), path)
    fast = {"data.path": str(path), "train.epochs": 3, "optim.learning_rate": 0.03, **BARE}
    config = tiny_config(**fast)
    own = [Variant("also full", {}), Variant("no window", {"model.past": 0, "model.future": 0})]
    preset = list_variants("parts", config, MODALITIES)
    preset = choose_variants(preset, own, ["gamma = 0", "no class weights"], config)
    # A member on each of four devices: the numeric variants' six members are two chunks.
    arguments = (config, str(tmp_path / "ablation"), [0, 1], preset)
    execution = Execution(1, progress=QUIET)
    report = ablate(*arguments, execution)
    reference = Workdir(tmp_path / "ablation" / "reference", create=False)
    assert reference.read_report()["test"]["macro_f1"] == report["variants"][0]["test"]["macro_f1"]
    assert (reference.path / "report_attention.png").exists()
    # One program for the numeric variants, one for the window.
    assert traces == ["joint_epoch"] * 2
    full, gamma, weights, also, window = report["variants"]
    assert also["test"] == full["test"]
    assert all(gap["mean"] == 0 for gap in also["difference"].values())
    assert gamma["test"] != full["test"] != window["test"]
    assert weights["seeds"] == [0, 1]

    traces.clear()
    assert without_provenance(ablate(*arguments, execution)) == without_provenance(report)
    # Members are found whatever the order and the names of the variants.
    renamed = [v._replace(name=f"{v.name}!") for v in preset.variants[:0:-1]]
    other = preset._replace(variants=[preset.variants[0], *renamed])
    again = ablate(*arguments[:3], other, execution)
    assert again["variants"][-1]["test"] == gamma["test"]
    assert not traces
    with pytest.raises(UserError, match="train.epochs: 3 there, 4 asked for"):
        ablate(point_config(config, {"train.epochs": 4}), *arguments[1:], execution)

    alone = point_config(config, {"loss.gamma": 0.0})
    run = train_and_evaluate(alone, str(tmp_path / "alone"), [0, 1], QUIET, False)
    for name in ("weighted_f1", "macro_f1"):
        assert gamma["test"][name]["mean"] == pytest.approx(run["test"][name]["mean"], abs=0.02)
    # By members: those of gamma = 0 are the ones that are nearest to the run's own.
    folder = Workdir(tmp_path / "ablation", create=False)
    lines = [
        line
        for chunk in sorted((tmp_path / "ablation" / "chunks").iterdir())
        for place, member in enumerate(json.loads((chunk / "report.json").read_text())["members"])
        for line in [{"settings": {}, **member, "chunk": chunk.name, "place": place}]
    ]
    assert len({line["chunk"] for line in lines}) == 3
    alone = np.load(tmp_path / "alone" / "predictions.npz")["test.probability"]
    for variant in preset.variants:
        outcome = read_variant(folder, variant, lines)[1]
        gap = np.abs(outcome.probability - alone).max()
        assert (gap < 5e-3) == (variant.name == "gamma = 0")


@pytest.mark.slow
def test_an_ablation_on_a_simulated_corpus_holds_what_its_variants_could_reach(tmp_path):
    config = tiny_config(**{"data.path": "simulated:small", "train.epochs": 1, **NO_PARTS})
    preset = choose_variants(list_variants("parts", config, MODALITIES), [], ["text only"], config)
    report = ablate(config, str(tmp_path), [0], preset, Execution(progress=QUIET, pictures=False))
    text = point_config(config, {"data.modalities": "text"})
    best = [best_possible(load_data(seen)) for seen in (config, text)]
    assert [line["bayes"] for line in report["variants"]] == best and best[0] != best[1]


@pytest.mark.slow
def test_an_ablation_takes_views_away_and_compares_them_on_dev(tmp_path):
    corpus = simulate_corpus(create_process(), SimulatedSize(12, 4, 6, 4, 4), seed=0)
    text, there = corpus.features["text"], corpus.present["text"]
    views = {"text.a": text[:, :12], "text.b": text[:, 12:]}
    corpus = dataclasses.replace(corpus, features=views, present=dict.fromkeys(views, there))
    corpus.save(tmp_path / "corpus.npz")
    fast = {"data.path": str(tmp_path / "corpus.npz"), "train.epochs": 2, **NO_PARTS}
    config = tiny_config(**fast, **{"optim.learning_rate": 0.03})
    preset = list_variants("parts", config, tuple(corpus.features))
    preset = choose_variants(preset, [], ["without text.a"], config)
    folder = tmp_path / "ablation"
    how = Execution(progress=QUIET, pictures=False)
    report = ablate(config, str(folder), [0, 1], preset, how)
    (full, line), (gap,) = report["variants"], report["views"].values()
    assert list(report["views"]) == [line["name"]] == ["without text.a"]
    for name in ("weighted_f1", "macro_f1"):
        direct = line["dev"][name]["mean"] - full["dev"][name]["mean"]
        assert gap[name]["mean"] == pytest.approx(direct, abs=1e-6)
    assert (folder / "views.png").exists()
