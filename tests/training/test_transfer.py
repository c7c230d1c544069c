"""Members that start from another run: what is taken over, what is not, and what it is tied to."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import NO_PARTS, QUIET, tiny_config, tiny_corpus

from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.standardize import fit_standardiser
from cberl_jax.errors import UserError
from cberl_jax.serving.restore import read_start
from cberl_jax.studies.evaluate import evaluate_run
from cberl_jax.studies.starting import prepare_members
from cberl_jax.studies.train import train_and_evaluate
from cberl_jax.training.fleet import members_like
from cberl_jax.training.prepare import create_program, list_members, load_data
from cberl_jax.training.transfer import (
    Start,
    shared_modalities,
    start_standardiser,
    take_over,
)

CORPUS = tiny_corpus(1)


def drawn(corpus, seeds, seed=0, **changes):
    """Parameters of the right shapes, all numbers different."""
    config = tiny_config(**{"augment.method": "none"} | changes)
    program = create_program(config, corpus.widths, [0] * len(corpus.classes))
    members = list_members(config, range(seeds))
    like = members_like(program, members.seeds, members.hyper).joint.variables
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda x: generator.normal(size=x.shape).astype(np.float32), like)


def start_of(corpus, members=2, **changes):
    return Start(
        "large", "0", drawn(corpus, members, 1, **changes), corpus.classes, fit_standardiser(corpus)
    )


def leaves(tree):
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def test_all_is_taken_over_where_all_agrees_seed_by_seed():
    new, start = drawn(CORPUS, 3), start_of(CORPUS)
    seeds = np.array([0, 3, 4])
    taken, lines = take_over(new, seeds, start, CORPUS, 0)
    for path, leaf in leaves(taken).items():
        np.testing.assert_array_equal(leaf, leaves(start.variables)[path][[0, 1, 0]])
    assert [line.part for line in lines] == ["fusion", "bilstm", "graph", "ensemble"]
    assert all(line.fresh == 0 and line.why == "" for line in lines)
    sizes = sum(leaf[0].size for leaf in jax.tree.leaves(new["params"]))
    assert sum(line.taken for line in lines) == sizes


def test_classes_are_taken_over_by_name_and_new_ones_are_fresh():
    """The new corpus has three of the old classes in another order, and one of its own."""
    old = CORPUS.classes
    classes = (old[4], "contempt", old[0], old[2])
    corpus = dataclasses.replace(CORPUS, classes=classes, label=CORPUS.label % 4)
    new, start = drawn(corpus, 1), start_of(CORPUS)
    taken, lines = take_over(new, np.array([1]), start, corpus, 0)
    for name in ("bias", "kernel", "linear"):
        got, own = taken["params"]["ensemble"][name][0], new["params"]["ensemble"][name][0]
        theirs = start.variables["params"]["ensemble"][name][1]
        for place, origin in ((0, 4), (2, 0), (3, 2)):
            np.testing.assert_array_equal(got[..., place], theirs[..., origin])
        np.testing.assert_array_equal(got[..., 1], own[..., 1])
    # What the classifiers look at belongs to their weights.
    np.testing.assert_array_equal(
        taken["constants"]["ensemble"]["subspaces"][0],
        start.variables["constants"]["ensemble"]["subspaces"][1],
    )
    assert "new classes: contempt" in lines[-1].why and lines[-1].fresh > 0


def test_layers_of_a_modality_that_is_not_shared_are_fresh():
    """Sound of another extractor, which is as wide as the old one's by chance, has another name."""
    renamed = dataclasses.replace(
        CORPUS,
        features={"text": CORPUS.features["text"], "sound": CORPUS.features["audio"]},
        present={"text": CORPUS.present["text"], "sound": CORPUS.present["audio"]},
    )
    new, start = drawn(renamed, 1), start_of(CORPUS)
    taken, _ = take_over(new, np.array([0]), start, renamed, 0)
    got, own, theirs = leaves(taken), leaves(new), leaves(start.variables)
    for path, leaf in got.items():
        joint = path.split("/")[1] in ("ensemble", "concatenation") or "djvae/fuse" in path
        expected = own if "_sound" in path or joint else theirs
        origin = expected[path][0]
        np.testing.assert_array_equal(leaf[0], origin, err_msg=path)
    assert any("_text" in path for path in got) and any("_sound" in path for path in got)


def test_a_layer_of_another_shape_is_fresh_as_a_whole():
    new, start = drawn(CORPUS, 1, **{"model.classifier_hidden": 6}), start_of(CORPUS)
    taken, lines = take_over(new, np.array([0]), start, CORPUS, 0)
    for path, leaf in leaves(taken).items():
        own = "ensemble" in path
        origin = leaves(new)[path] if own else leaves(start.variables)[path][:1]
        np.testing.assert_array_equal(leaf, origin, err_msg=path)
    assert lines[-1].taken == 0 and "ensemble: another shape" in lines[-1].why


def test_classifiers_of_another_subspace_are_fresh():
    """Else they would see the share of the features that the other run had asked for."""
    new, start = drawn(CORPUS, 1), start_of(CORPUS, 1)
    theirs = start.variables["constants"]["ensemble"]["subspaces"]
    theirs[..., ::2] = 0.0
    _, lines = take_over(new, np.array([0]), start, CORPUS, 0)
    assert lines[-1].taken == 0 and lines[-1].why == "ensemble: another model.subspace"
    new["constants"]["ensemble"]["subspaces"][..., 1::2] = 0.0
    _, lines = take_over(new, np.array([0]), start, CORPUS, 0)
    assert lines[-1].fresh == 0


def test_shared_modalities_keep_the_statistics_that_their_weights_were_learnt_with():
    start = start_of(CORPUS)
    moved = dataclasses.replace(CORPUS, features={m: 3 * x + 1 for m, x in CORPUS.features.items()})
    own = fit_standardiser(moved)
    joined = start_standardiser(own, start, ("text",))
    np.testing.assert_array_equal(joined.mean["text"], start.standardiser.mean["text"])
    np.testing.assert_array_equal(joined.mean["audio"], own.mean["audio"])
    # Principal components are part of them.
    reduced = start._replace(standardiser=fit_standardiser(CORPUS, 5))
    assert shared_modalities(reduced, CORPUS, 5) == ("text", "audio")
    with pytest.raises(UserError, match="no layer would read"):
        shared_modalities(reduced, CORPUS, 0)


def test_a_modality_is_shared_with_all_its_views_or_not_at_all():
    features, present = CORPUS.features, CORPUS.present
    both = {"text.a": features["text"], "text.b": 2 * features["text"], "audio": features["audio"]}
    views = dataclasses.replace(
        CORPUS, features=both, present={name: present[name.split(".")[0]] for name in both}
    )
    start = start_of(CORPUS)._replace(standardiser=fit_standardiser(views))
    assert shared_modalities(start, views, 0) == ("text", "audio")
    less = dataclasses.replace(views, features={n: x for n, x in both.items() if n != "text.b"})
    assert shared_modalities(start, less, 0) == ("audio",)
    joined = start_standardiser(fit_standardiser(views), start, ("text",))
    np.testing.assert_array_equal(joined.mean["text.b"], start.standardiser.mean["text.b"])


def test_features_of_another_encoder_are_not_shared_though_they_are_as_wide():
    start = start_of(CORPUS)._replace(features={"text": {"weights": {"a": "1"}}})
    for digest, shared in (("1", ("text", "audio")), ("2", ("audio",))):
        made = {"text": {"weights": {"b": digest}}, "audio": {"extractor": "x"}}
        corpus = dataclasses.replace(CORPUS, provenance=made)
        assert shared_modalities(start, corpus, 0) == shared


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A finished run, and the corpus of another one."""
    folder = tmp_path_factory.mktemp("start")
    write_npz(CORPUS, folder / "large.npz")
    write_npz(tiny_corpus(7), folder / "mine.npz")
    config = settings(folder / "large.npz")
    train_and_evaluate(config, str(folder / "large"), [0, 1], QUIET, pictures=False)
    return folder


def settings(path, **changes):
    return tiny_config(**NO_PARTS | {"train.epochs": 2, "data.path": str(path)} | changes)


def test_a_run_starts_from_another_and_frozen_parts_keep_their_weights(large):
    said = []
    progress = type(QUIET)(said.append)
    changes = {"train.init": str(large / "large"), "train.freeze": "fusion"}
    config = settings(large / "mine.npz", **changes)
    train_and_evaluate(config, str(large / "mine"), [0, 1, 2], progress, pictures=False)
    assert any("parameters are taken over" in line for line in said)
    assert "took over from the run large" in (large / "mine" / "report.md").read_text()
    old, new = read_start(large / "large"), read_start(large / "mine")
    for path, leaf in leaves(new.variables["params"]["concatenation"]).items():
        before = leaves(old.variables["params"]["concatenation"])[path]
        # The average of equal weights is rounded.
        np.testing.assert_allclose(leaf, before[[0, 1, 0]], rtol=1e-6, atol=1e-8)
    moved = new.variables["params"]["ensemble"]["linear"][:2]
    assert np.any(moved != old.variables["params"]["ensemble"]["linear"])
    for m, mean in old.standardiser.mean.items():
        np.testing.assert_array_equal(new.standardiser.mean[m], mean)
    # Resumed, it is the same run; started from elsewhere, it is another one.
    train_and_evaluate(config, str(large / "mine"), [0, 1, 2], progress, pictures=False)
    other = settings(large / "mine.npz", **changes | {"train.init": str(large / "mine")})
    with pytest.raises(UserError, match="init"):
        train_and_evaluate(other, str(large / "mine"), [0, 1, 2], progress, pictures=False)


def test_it_starts_where_the_other_run_ended(large):
    """With a learning rate of zero, the scores are those of the old weights on the new corpus."""
    frozen = {"train.init": str(large / "large"), "optim.learning_rate": 0.0, "train.epochs": 1}
    config = settings(large / "mine.npz", **frozen)
    report = train_and_evaluate(config, str(large / "same"), [0, 1], QUIET, pictures=False)
    again = evaluate_run(str(large / "large"), str(large / "mine.npz"))
    # The utterances that the classes were learnt from are those of the run.
    counts = [own["real"] for own in again["augmentation"].values()]
    assert counts == CORPUS.class_counts("train").tolist()
    for one, other in zip(report["members"], again["members"]):
        np.testing.assert_allclose(one["test"]["macro_f1"], other["test"]["macro_f1"], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.init": "nowhere"}, "nowhere: holds no run"),
        ({"train.freeze": "head"}, "there is no part 'head'"),
        (
            {"train.init": "large", "train.freeze": "ensemble", "model.classifier_hidden": 6},
            r"of ensemble (\d+) of \1 parameters are not those of large \(ensemble: another shape",
        ),
        ({"train.freeze": "fusion,bilstm,graph,ensemble"}, "nothing is left to train"),
        ({"train.freeze": "fusion"}, "needs train.init"),
    ],
)
def test_a_bad_start_is_refused(large, tmp_path, changes, message):
    if changes.get("train.init") == "large":
        changes = changes | {"train.init": str(large / "large")}
    with pytest.raises(UserError, match=message):
        train_and_evaluate(
            settings(large / "mine.npz", **changes), str(tmp_path / "r"), [0], QUIET, False
        )
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("changes", [{"data.folds": "3"}, {"data.other_dev": 1}])
def test_a_start_that_has_learnt_from_dev_or_test_is_refused(large, tmp_path, changes):
    start = {"train.init": str(large / "large")}
    with pytest.raises(UserError, match="tested on what it has learnt from.*--allow_seen"):
        train_and_evaluate(
            settings(large / "large.npz", **start | changes), str(tmp_path / "r"), [0], QUIET, False
        )
    assert not (tmp_path / "r").exists()
    for path, allowed in (("large.npz", {}), ("mine.npz", changes)):
        config = settings(large / path, **start | allowed)
        assert prepare_members(config, load_data(config)).start.name == "large"
    config = settings(large / "large.npz", **start | changes | {"data.allow_seen": True})
    assert prepare_members(config, load_data(config)).start.name == "large"


def test_a_corpus_without_a_shared_modality_is_refused(large, tmp_path):
    features, present = CORPUS.features["audio"], CORPUS.present["audio"]
    other = dataclasses.replace(CORPUS, features={"voice": features}, present={"voice": present})
    write_npz(other, tmp_path / "voice.npz")
    config = settings(tmp_path / "voice.npz", **{"train.init": str(large / "large")})
    with pytest.raises(UserError, match=r"it has text \(24\), audio \(12\), and .* voice \(12\)"):
        train_and_evaluate(config, str(tmp_path / "r"), [0], QUIET, False)
