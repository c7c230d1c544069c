"""A finished run gets more seeds: only they are trained, and nothing of it changes."""

import json
import shutil

import numpy as np
import pytest
from tiny import NO_PARTS, QUIET, tiny_config

from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import UserError
from cberl_jax.runtime.progress import Progress
from cberl_jax.runtime.workdir import FORMAT, Workdir
from cberl_jax.studies import grow
from cberl_jax.studies.evaluate import evaluate_run
from cberl_jax.studies.train import train_and_evaluate
from cberl_jax.version import __version__


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.npz"
    write_npz(simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0), path)
    return tiny_config(
        **{"data.path": str(path), "train.epochs": 2, "train.metrics": "tensorboard"},
        **NO_PARTS,
    )


@pytest.fixture(scope="module")
def small(config, tmp_path_factory):
    """A finished run of two seeds."""
    folder = tmp_path_factory.mktemp("small") / "run"
    train_and_evaluate(config, str(folder), [0, 1], QUIET, False)
    return folder


def check_grown(folder, small, report):
    """Holds a run of four seeds against that of two which it was."""
    old, new = Workdir(small, create=False), Workdir(folder, create=False)
    assert [m["seed"] for m in report["members"]] == [0, 1, 2, 3]
    assert report["members"][:2] == old.read_report()["members"]
    assert new.read_report()["members"] == report["members"]
    before, after = old.read_predictions(), new.read_predictions()
    np.testing.assert_array_equal(after["seed"], [0, 1, 2, 3])
    for split in ("dev", "test"):
        found = after[f"{split}.probability"]
        np.testing.assert_array_equal(found[:2], before[f"{split}.probability"])
        # They differ: no member is another one's copy.
        assert len({member.tobytes() for member in found}) == 4
    lines = new.read_metrics()
    assert [x for x in lines if x["member"] < 2] == old.read_metrics()
    assert {(x["member"], x["seed"]) for x in lines} == {(n, n) for n in range(4)}
    assert sorted(p.name for p in new.event_files.iterdir()) == [f"member_00{n}" for n in range(4)]
    assert not (folder / grow.GROWING).exists() and not (folder / grow.GROWN).exists()
    # Its parameters are those of its predictions.
    again = evaluate_run(str(folder))
    for line, member in zip(again["members"], report["members"], strict=True):
        assert line["test"]["macro_f1"] == pytest.approx(member["test"]["macro_f1"])


def test_a_run_grows_and_its_members_are_those_of_a_run_of_all(config, small, tmp_path):
    folder, said = tmp_path / "run", []
    shutil.copytree(small, folder)
    report = train_and_evaluate(config, str(folder), range(4), Progress(said.append), False)
    check_grown(folder, small, report)
    assert "2 members are there; 2 are trained" in said
    assert "but 2 and 2 of them together" in (folder / "report.md").read_text()
    whole = train_and_evaluate(config, str(tmp_path / "whole"), range(4), QUIET, False)
    assert "of them together" not in (tmp_path / "whole" / "report.md").read_text()
    found = Workdir(folder).read_predictions()["test.probability"]
    wanted = Workdir(tmp_path / "whole").read_predictions()["test.probability"]
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    assert [m["epoch"] for m in report["members"]] == [m["epoch"] for m in whole["members"]]
    # It is as good as any: finished, and it grows again.
    said.clear()
    train_and_evaluate(config, str(folder), range(4), Progress(said.append), False)
    assert said == ["this run is finished"]


@pytest.mark.parametrize("moved", [0, 4])
def test_growing_that_is_cut_off_goes_on(config, small, tmp_path, monkeypatch, moved):
    """Also while the files are put in their places, after any of them."""
    folder = tmp_path / "run"
    shutil.copytree(small, folder)
    replace, done = grow.put, []

    def cut_off(new, old):
        if len(done) == moved:
            raise KeyboardInterrupt
        done.append(new)
        replace(new, old)

    monkeypatch.setattr(grow, "put", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(config, str(folder), range(4), QUIET, False)
    assert not (folder / "report.json").exists()
    monkeypatch.undo()
    said = []
    report = train_and_evaluate(config, str(folder), range(4), Progress(said.append), False)
    check_grown(folder, small, report)
    assert said == ["this run is finished"]


@pytest.mark.parametrize("folds, old", [(1, True), (1, False), (2, True)])
def test_curves_of_new_models_stand_beside_the_others_under_their_numbers(tmp_path, folds, old):
    """Of folds, too, and where the run itself was trained without TensorBoard."""
    run, known = tmp_path / "run", {"format": FORMAT, "version": __version__}
    names = {"folds": ["a", "b"]} if folds > 1 else {}
    seeds = {run: [0, 1], run / grow.GROWING: [5], run / grow.GROWN: [0, 1, 5]}
    for path, own in seeds.items():
        Workdir(path).write_json(path / "config.json", {**known, **names, "seeds": own})
        (path / "report.json").write_text("{}")
    for path in [run / grow.GROWING, run] if old else [run / grow.GROWING]:
        for number in range(len(seeds[path]) * folds):
            curves = path / "tensorboard" / f"member_{number:03d}"
            curves.mkdir(parents=True)
            (curves / "events").write_text(f"{seeds[path][number // folds]}, {number % folds}")
    grow.end_growing(run)
    found = {p.parent.name: p.read_text() for p in run.glob("tensorboard/*/events")}
    wanted = [f"{seed}, {fold}" for seed in (0, 1, 5) for fold in range(folds)]
    first = 0 if old else 2 * folds
    assert found == {f"member_{n:03d}": text for n, text in enumerate(wanted) if n >= first}
    assert (run / "report.json").exists() and not (run / grow.GROWN).exists()


def test_what_cannot_grow_is_refused_with_the_flags_that_work(config, small, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(small, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="--seeds=2 goes on with that run"):
        train_and_evaluate(config, str(folder), [0], QUIET, False)
    with pytest.raises(UserError, match="--seeds=2 goes on with that run"):
        train_and_evaluate(config, str(folder), [1, 2, 3], QUIET, False)
    with config.unlocked():
        other = config.copy_and_resolve_references()
    other.loss.gamma = 2.0
    with pytest.raises(UserError, match=r"--config.loss.gamma=1.0 goes on with that run"):
        train_and_evaluate(other, str(folder), range(4), QUIET, False)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {p: b for p, b in after.items() if p.name != ".lock"} == {
        p: b for p, b in before.items() if p.name != ".lock"
    }
    growing = json.loads((folder / "config.json").read_text()) | {"seeds": [2, 3, 4]}
    (folder / grow.GROWING).mkdir()
    (folder / grow.GROWING / "config.json").write_text(json.dumps(growing))
    with pytest.raises(UserError, match="end that first, by --seeds=5"):
        train_and_evaluate(config, str(folder), range(4), QUIET, False)
