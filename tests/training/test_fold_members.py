"""Folds as members: each is trained as if its fold were a corpus of its own, and sees no other."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from tiny import NO_PARTS, tiny_config, tiny_corpus

from cberl_jax.data.folded_dataset import stack_rows
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.prepare import list_members, prepare

FOLDS = 3
SITE = np.array(["a", "b", "c"])
CORPUS = tiny_corpus()
CORPUS = dataclasses.replace(CORPUS, groups={"site": SITE[np.arange(len(CORPUS.dialogue)) % FOLDS]})


CREATED: dict = {}  # Program's GAN -> states by seed: compiling is most of a test's time.


def config(**changes):
    usual = {"data.fold_by": "site", "data.fold_dev": 0.3}
    return tiny_config(**usual | {"model.djvae": False, "model.reconstruction": False} | changes)


def created(prepared, members):
    """The members' states, which do not depend on data."""
    key = str(prepared.program.model.settings), prepared.program.gan
    seeds, first, place = np.unique(members.seeds, return_index=True, return_inverse=True)
    if key not in CREATED:
        fleet = Fleet(prepared.program, len(seeds), jax.local_devices()[:1])
        hyper = {name: values[first] for name, values in members.hyper.items()}
        CREATED[key] = fleet.create(seeds, hyper)
    return jax.tree.map(lambda leaf: leaf[place], CREATED[key])


def run(prepared, settings, seeds, folds, epochs=2):
    """Two epochs of both stages, and the records of the last ones."""
    members = list_members(settings, seeds, folds=folds)
    fleet = Fleet(prepared.program, len(members.seeds), jax.local_devices()[:1])
    state = created(prepared, members)
    shared, hyper = fleet.replicate(prepared.data), fleet.shard(members.hyper)
    records = {}
    for name, stage in fleet.stages.items():
        state = fleet.shard(state)
        step = fleet.compile(name, stage, (state, shared, hyper))
        for _ in range(epochs):
            state, record = step(state, shared, hyper)
        records[name] = fleet.gather(record, len(members.seeds))
        state = fleet.gather(state, len(members.seeds))
    return state, records


def alone_of(prepared, fold):
    """One fold made ready as a corpus of its own."""
    alone = prepared.by_fold[fold]

    def padded(name):
        # As many empty rows as the other folds have: they belong to the order of an epoch.
        every = [getattr(own.data, name) for own in (alone, *prepared.by_fold)]
        return jax.tree.map(lambda leaf: leaf[0], stack_rows(every))

    data = alone.data._replace(train=padded("train"), dev=padded("dev"))
    return alone._replace(data=data)


@pytest.fixture(scope="module")
def trained():
    prepared = prepare(config(), CORPUS)
    return prepared, run(prepared, config(), [4, 9], FOLDS)


def test_what_differs_between_folds_is_each_ones_own():
    prepared = prepare(config(), CORPUS)
    assert len(prepared.by_fold) == FOLDS and prepared.folds.names == ("a", "b", "c")
    for number, own in enumerate(prepared.by_fold):
        assert set(own.corpus.split[CORPUS.groups["site"] == SITE[number]]) == {"test"}
        data = prepared.data.of_fold(number)
        for m, values in own.data.table.features.items():
            np.testing.assert_array_equal(data.table.features[m][number], values)
            inside = own.corpus.in_split("train") & CORPUS.present[m]
            np.testing.assert_allclose(values[inside].mean(axis=0), 0, atol=1e-4)
        np.testing.assert_array_equal(data.counts, own.corpus.class_counts("train"))
        real = own.data.place
        np.testing.assert_array_equal(data.place[: len(real)], real)
        assert np.all(data.place[len(real) :] == len(CORPUS.label))
        used = data.train.segment > 0
        assert set(data.train.index[used]) == set(np.flatnonzero(own.corpus.in_split("train")))
        used = data.dev.segment > 0
        assert set(data.dev.index[used]) == set(np.flatnonzero(own.corpus.in_split("dev")))
    places = {len(own.data.place) for own in prepared.by_fold}
    assert len(places) > 1, "the folds are padded nowhere: choose another corpus"


@pytest.mark.slow
@pytest.mark.parametrize("fold", range(FOLDS))
def test_a_member_of_a_fold_equals_one_trained_on_that_fold_alone(trained, fold):
    prepared, (state, records) = trained
    alone = alone_of(prepared, fold)
    expected, recorded = run(alone, config(), [4, 9], 1)
    mine = slice(fold, None, FOLDS)
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[mine], state), expected, rtol=2e-4, atol=2e-5
    )
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[mine], records), recorded, rtol=2e-4, atol=2e-5
    )


@pytest.mark.parametrize("fold", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_nothing_of_a_test_fold_reaches_its_members(trained, fold):
    """Wild features and labels of a fold change its own members not in a single bit."""
    prepared, (state, _) = trained
    generator = np.random.default_rng(0)
    inside = np.repeat(CORPUS.groups["site"] == SITE[fold], CORPUS.length)
    features = {
        m: np.where(inside[:, None], generator.normal(50, 1e3, x.shape), x).astype(np.float32)
        for m, x in CORPUS.features.items()
    }
    label = np.where(inside, generator.permutation(CORPUS.label), CORPUS.label).astype(np.int32)
    wild = dataclasses.replace(CORPUS, features=features, label=label)
    other, _ = run(prepare(config(), wild), config(), [4, 9], FOLDS)
    own = slice(fold, None, FOLDS)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(other)):
        np.testing.assert_array_equal(before[own], after[own])
    # The others have learnt from it.
    moved = jax.tree.leaves(other.joint.best), jax.tree.leaves(state.joint.best)
    assert all(any(np.any(a[n] != b[n]) for a, b in zip(*moved)) for n in range(FOLDS) if n != fold)


@pytest.mark.parametrize("method", ["smote", "none"])
def test_other_remedies_are_folded_too(method):
    settings = config(**NO_PARTS | {"augment.method": method})
    prepared = prepare(settings, CORPUS)
    state, records = run(prepared, settings, [4], FOLDS, epochs=1)
    assert np.isfinite(records["joint"]["total"]).all()
    expected, _ = run(alone_of(prepared, 1), settings, [4], 1, epochs=1)
    own = jax.tree.map(lambda leaf: leaf[1:2], state)
    chex.assert_trees_all_close(own, expected, rtol=2e-4, atol=2e-5)
