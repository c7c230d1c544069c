"""Arguments of ``train`` and ``load`` that people give."""

import numpy as np
import pytest
from tiny import NO_PARTS, tiny_config

import cberl_jax as cberl
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.studies.evaluate import evaluate_run


@pytest.mark.parametrize("seeds", [2.5, 2.0, "3", [1.5], [0, "1"], None, True, {"a": 1}, object()])
def test_seeds_that_are_no_whole_numbers_are_refused_in_one_sentence(seeds):
    with pytest.raises(cberl.UserError, match="seeds = .*: has to be a whole number, or a list"):
        cberl.train("simulated:small", seeds=seeds)


@pytest.mark.parametrize("seeds", [0, [], [1, 1], -3, np.array([2, 2])])
def test_seeds_have_to_be_some_and_different(seeds):
    with pytest.raises(cberl.UserError, match="at least one, and different"):
        cberl.train("simulated:small", seeds=seeds)


@pytest.mark.parametrize("data", [{"a": 1}, [1], np.zeros(3), 7])
def test_data_that_is_neither_a_path_nor_a_corpus_names_from_frame(data):
    with pytest.raises(cberl.UserError, match=r"not \w+; make a Corpus .*Corpus.from_frame\("):
        cberl.train(data)
    with pytest.raises(cberl.UserError, match=r"not \w+; make a Corpus .*Corpus.from_frame\("):
        cberl.probe(data)


def small(seed):
    return simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 8), seed=seed)


def test_a_corpus_trains_is_kept_with_its_run_and_a_run_is_loaded(tmp_path):
    config = tiny_config(**NO_PARTS, **{"train.epochs": 1})
    options = {"config": config, "pictures": False, "say": lambda line: None}
    run = cberl.train(small(0), workdir=tmp_path / "run", **options, seeds=np.array([3]))
    assert run.report()["members"][0]["seed"] == 3
    model = cberl.load(run)
    assert len(model.predict(small(0))) == 20
    # The same call finds the run finished; another corpus is not written over its own.
    cberl.train(small(0), workdir=tmp_path / "run", **options, seeds=[3])
    with pytest.raises(cberl.UserError, match="holds a run on another corpus"):
        cberl.train(small(1), workdir=tmp_path / "run", **options, seeds=[3])
    # A copy of the run has its own copy of the corpus.
    moved = run.save(tmp_path / "moved")
    (tmp_path / "run" / "corpus.npz").unlink()
    assert evaluate_run(str(moved.workdir))["test"] == run.report()["test"]
