"""A sweep: one program a group, chunks that survive, sizes that the memory decides."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from tiny import NO_PARTS, QUIET, tiny_config

from cberl_jax.config.grid import parse_grid
from cberl_jax.config.settings import default_config
from cberl_jax.data.bayes import best_possible
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import FolderBusy, UserError
from cberl_jax.runtime.progress import Progress
from cberl_jax.runtime.signals import Stopper
from cberl_jax.runtime.workdir import Workdir, list_differences
from cberl_jax.studies import fitting
from cberl_jax.studies.evaluate import evaluate_run
from cberl_jax.studies.fitting import even_chunks, fit_fleet
from cberl_jax.studies.group import create_member
from cberl_jax.studies.points import Execution, Part, share
from cberl_jax.studies.sweep import best_at, sweep
from cberl_jax.studies.train import train_and_evaluate
from cberl_jax.training.prepare import list_members, load_data, prepare

POINTS = [{"loss.gamma": gamma / 2} for gamma in range(40)]


def undated(report):
    """A sweep's report without its date and device: it is written anew, when nothing is trained."""
    return {name: value for name, value in report.items() if name != "provenance"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.npz"
    write_npz(simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0), path)
    return str(path)


def config(corpus, **changes):
    return tiny_config(**{"data.path": corpus, "train.epochs": 2, "gan.epochs": 1, **changes})


@pytest.mark.parametrize(
    "members, most, size", [(10, 64, 10), (10, 4, 4), (9, 8, 5), (160, 64, 54), (3, 1, 1)]
)
def test_chunks_are_as_few_and_as_even_as_can_be(members, most, size):
    assert even_chunks(members, most) == size


@pytest.mark.slow
def test_a_sweep_compiles_once_a_stage_and_goes_on_where_it_was_stopped(corpus, traces, tmp_path):
    grid = parse_grid(["loss.gamma=0,0.5,1,2,4"])
    said = []

    def until_the_second_chunk(line):
        said.append(line)
        if line.startswith("members 5 to 8"):
            raise KeyboardInterrupt

    # Both stages; a flow compiles faster than a GAN.
    both = NO_PARTS | {"augment.method": "flow"}
    arguments = (config(corpus, **both), str(tmp_path / "sweep"), [0, 1], grid)
    with pytest.raises(KeyboardInterrupt):
        sweep(*arguments, Execution(1, progress=Progress(until_the_second_chunk)))
    first = tmp_path / "sweep" / "chunks" / "000"
    assert (first / "report.json").exists()
    assert not (tmp_path / "sweep" / "sweep.json").exists()
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    traces.clear()
    said.clear()

    report = sweep(*arguments, Execution(1, progress=Progress(said.append)))
    assert sorted(traces) == ["gan_epoch", "joint_epoch"]
    # A member on each of four devices: the last chunk is filled up.
    assert [line for line in said if line.startswith("members")] == [
        "members to train: 6 of 10; programs: 1",
        "members 1 to 3 of 6",
        "members 4 to 6 of 6",
    ]
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text()) == report
    assert (tmp_path / "sweep" / "sweep_loss.gamma.png").exists()
    points = sorted((p["settings"]["loss.gamma"], p["seeds"]) for p in report["points"])
    assert points == [(gamma, [0, 1]) for gamma in (0.0, 0.5, 1.0, 2.0, 4.0)]
    scores = [point["dev"]["mean_f1"]["mean"] for point in report["points"]]
    assert scores == sorted(scores, reverse=True)
    assert {"report_generated.png", "report.html", "MODEL_CARD.md"} <= {
        path.name for path in (tmp_path / "sweep" / "best").iterdir()
    }

    traces.clear()
    again = sweep(*arguments, Execution(1, progress=Progress(said.append)))
    assert undated(again) == undated(report)
    assert not traces


def test_points_share_the_gans_of_their_seeds(corpus, tmp_path):
    """Each is trained once, also after a stop; a point has the numbers that it has alone."""
    both = NO_PARTS | {"augment.method": "flow", "gan.epochs": 2}
    folder, said = tmp_path / "sweep", []

    def until_the_first_epoch(line):
        said.append(line)
        if line.startswith("joint 1/"):
            raise KeyboardInterrupt

    arguments = (config(corpus, **both), str(folder), [3, 5], parse_grid(["loss.gamma=0,2"]))
    with pytest.raises(KeyboardInterrupt):
        sweep(*arguments, Execution(progress=Progress(until_the_first_epoch), pictures=False))
    sweep(*arguments, Execution(progress=Progress(said.append), pictures=False))
    trained = [line for line in said if line.startswith("gan ")]
    assert len(trained) == 2 and all("members 2" in line for line in trained)
    (chunk,) = (folder / "chunks").iterdir()
    assert not (chunk / "gans").exists()
    chunk = Workdir(chunk, create=False)
    lines = [line for line in chunk.read_metrics() if line["stage"] == "gan"]
    assert [(x["epoch"], x["member"], x["seed"]) for x in lines] == [
        (epoch, member, (3, 5)[member % 2]) for epoch in (0, 1) for member in range(4)
    ]
    for one, other in ((0, 2), (1, 3), (4, 6), (5, 7)):
        assert {**lines[one], "member": 0} == {**lines[other], "member": 0}

    alone = tmp_path / "alone"
    train_and_evaluate(config(corpus, **both, **{"loss.gamma": 2.0}), str(alone), [3, 5], QUIET)
    np.testing.assert_allclose(
        chunk.read_predictions()["test.probability"][2:],
        Workdir(alone, create=False).read_predictions()["test.probability"],
        atol=1e-4,
    )
    known = [line for line in Workdir(alone).read_metrics() if line["stage"] == "gan"]
    for line, own in zip(known, [lines[n] for n in (0, 1, 4, 5)], strict=True):
        assert line.pop("stage") == own.pop("stage")
        assert line == pytest.approx(own, rel=1e-3)


def test_a_member_of_a_sweep_is_the_member_trained_alone(corpus, tmp_path):
    grid = parse_grid(["optim.learning_rate=1e-3,2e-2", "model.classifier_hidden=4,8"])
    arguments = (config(corpus, **NO_PARTS), str(tmp_path / "sweep"), [3], grid)
    report = sweep(*arguments, Execution(progress=QUIET, pictures=False))
    wanted = {"optim.learning_rate": 2e-2, "model.classifier_hidden": 8}
    point = next(p for p in report["points"] if p["settings"] == wanted)
    alone = config(corpus, **NO_PARTS, **wanted)
    train_and_evaluate(alone, str(tmp_path / "alone"), [3], QUIET, False)
    alone = np.load(tmp_path / "alone" / "predictions.npz")["test.probability"][0]
    chunk = tmp_path / "sweep" / "chunks" / "001"
    together = np.load(chunk / "predictions.npz")["test.probability"][1]
    np.testing.assert_allclose(together, alone, atol=2e-3)
    other = np.load(chunk / "predictions.npz")["test.probability"][0]
    assert np.abs(other - alone).max() > 0.01
    assert point["members"][0]["epoch"] >= 1


def test_the_best_point_is_a_run_of_its_own(corpus, tmp_path):
    """Its members come from two chunks, whichever point it is, among members of the other."""
    grid = parse_grid(["loss.gamma=0,2", "optim.learning_rate=2e-2"])
    folder, seeds = tmp_path / "sweep", [0, 4, 7, 8, 9]
    # So that not all chunks do equally many epochs.
    changes = NO_PARTS | {"train.patience": 1, "train.epochs": 6}
    arguments = (config(corpus, **changes), str(folder), seeds, grid)
    report = sweep(*arguments, Execution(1, progress=QUIET, pictures=False))
    best = Workdir(folder / "best", create=False)
    # A member on each of four devices: chunks of 4, 4 and 2, points of 5.
    assert len(list((folder / "chunks").iterdir())) == 3
    settings, point = report["best"], report["points"][0]
    found = best.read_report()
    for line, member in zip(found["members"], point["members"], strict=True):
        assert line["seed"] == member["seed"] and line["epoch"] == member["epoch"]
        assert line["test"]["macro_f1"] == member["test"]["macro_f1"]
    assert found["test"]["weighted_f1"] == point["test"]["weighted_f1"]
    # Its parameters, predictions and curves belong together: scored again they are the same.
    again = evaluate_run(str(best.path))
    for line, member in zip(again["members"], found["members"], strict=True):
        assert line["test"]["macro_f1"] == pytest.approx(member["test"]["macro_f1"])
    lines = [json.loads(text) for text in best.metrics_file.read_text().splitlines()]
    assert [(x["member"], x["seed"]) for x in lines if x["epoch"] == 0] == list(enumerate(seeds))
    kept = {x["member"]: x["dev_macro_f1"] for x in lines if x["epoch"] + 1 == kept_epoch(x, found)}
    assert kept == pytest.approx(
        {n: member["dev"]["macro_f1"] for n, member in enumerate(found["members"])}, abs=1e-5
    )
    # As if it had been trained alone: the same command finds it finished.
    said = []
    alone = config(corpus, **changes, **settings)
    assert train_and_evaluate(alone, str(best.path), seeds, Progress(said.append)) == found
    assert said == ["this run is finished"]
    # It can be gone on with: nobody is left to train, and the report is the same.
    best.report_file.unlink()
    resumed = train_and_evaluate(alone, str(best.path), seeds, QUIET, False)
    assert resumed["members"] == found["members"]


def test_members_keep_their_numbers_where_chunks_take_turns(corpus, tmp_path):
    """Seed 1 was there first; the seeds before and after it are trained together later."""
    settings, folder = config(corpus, **NO_PARTS), tmp_path / "sweep"
    for seeds in ([1], [0, 1, 2]):
        sweep(settings, str(folder), seeds, {}, Execution(progress=QUIET, pictures=False))
    best = Workdir(folder / "best", create=False)
    members = best.read_report()["members"]
    assert [member["seed"] for member in members] == best.read_predictions()["seed"].tolist()
    again = evaluate_run(str(best.path))["members"]
    for line, member in zip(again, members, strict=True):
        assert line["test"]["macro_f1"] == pytest.approx(member["test"]["macro_f1"])
    assert len({member["dev"]["macro_f1"] for member in members}) == 3
    lines = best.read_metrics()
    assert {(x["member"], x["seed"]) for x in lines} == {(n, n) for n in range(3)}


@pytest.fixture(scope="module")
def small_sweep(corpus, tmp_path_factory):
    """A finished sweep of two points: its folder and report, and how to do it in a folder."""
    folder = tmp_path_factory.mktemp("small") / "sweep"

    def repeat(folder):
        grid = parse_grid(["loss.gamma=0,2"])
        settings = config(corpus, **NO_PARTS)
        return sweep(settings, str(folder), [0], grid, Execution(progress=QUIET, pictures=False))

    return folder, repeat(folder), repeat


@pytest.mark.parametrize("damage", ["another point's", "half written", "unreadable"])
def test_the_best_points_run_is_written_anew_where_it_is_not_whole(small_sweep, tmp_path, damage):
    finished, report, repeat = small_sweep
    folder = shutil.copytree(finished, tmp_path / "sweep")
    best = Workdir(folder / "best", create=False)
    found = best.read_report()
    if damage == "another point's":
        best.write_json(best.config_file, best.read_config() | {"loss.gamma": 1.0})
    if damage == "half written":
        best.report_file.unlink()
        best.predictions_file.unlink()
    if damage == "unreadable":
        best.config_file.write_text("{")
    assert undated(repeat(folder)) == undated(report)
    assert best.read_report()["members"] == found["members"]
    assert best.read_config()["loss.gamma"] == report["best"]["loss.gamma"]
    assert evaluate_run(str(best.path))["members"][0]["test"] == found["members"][0]["test"]


def kept_epoch(line, report):
    return report["members"][line["member"]]["epoch"]


def test_the_best_possible_is_that_of_the_modalities_that_a_point_sees(corpus):
    best = best_at(config("simulated:small"))
    whole, text = best({"loss.gamma": 2.0}), best({"data.modalities": "text"})
    assert whole == best_possible(load_data(config("simulated:small")))
    assert text["full"]["accuracy"] < whole["full"]["accuracy"]
    # Another law may have made what a file holds.
    assert best_at(config(corpus))({}) is None


def test_a_sweep_of_a_simulated_corpus_holds_the_best_possible(tmp_path):
    small = config("simulated:small", **NO_PARTS | {"train.epochs": 1})
    grid = parse_grid(["loss.gamma=0,2"])
    report = sweep(small, str(tmp_path), [0], grid, Execution(progress=QUIET, pictures=False))
    assert [point["bayes"] for point in report["points"]] == [best_at(small)({})] * 2
    assert "## Share of the best possible" in (tmp_path / "sweep.md").read_text()


@pytest.mark.parametrize(
    "there, asked, said",
    [
        ([0, 1], [0], "[0, 1] there, [0] asked for"),
        (None, POINTS, f"None there, {POINTS[:3]} and 37 more asked for"),
        (POINTS, [*POINTS, {"mask.tau": 1.0}], "only asked for [{'mask.tau': 1.0}]"),
        (POINTS[1:], POINTS[:-1], "only there [{'loss.gamma': 19.5}], only asked for "),
        (POINTS, POINTS[::-1], "in another order"),
        # What is told differs: nothing but a list is cut short.
        ("a" * 200 + "b", "a" * 200 + "c", f"'{'a' * 200}b' there, '{'a' * 200}c' asked for"),
    ],
)
def test_of_long_lists_only_the_difference_is_told(there, asked, said):
    told = list_differences({"points": there, "seed": 1}, {"points": asked, "seed": 2}, ["seed"])
    assert told.startswith(f"points: {said}") and len(told) < 500


def listed(folder):
    """What a sweep has trained: chunk -> the seeds and settings of its members."""
    found = {}
    for path in sorted((folder / "chunks").iterdir()):
        stored = json.loads((path / "config.json").read_text())
        found[path.name] = list(zip(stored["seeds"], stored["members"], strict=True))
    return found


def scores(report):
    """Point -> seed -> test scores of the member."""
    return {
        json.dumps(point["settings"]): {m["seed"]: m["test"] for m in point["members"]}
        for point in report["points"]
    }


@pytest.mark.slow
def test_a_sweep_grows_by_seeds_values_and_settings(corpus, tmp_path):
    """Nothing is trained twice, and what is there keeps its numbers."""
    settings, folder = config(corpus, **NO_PARTS), tmp_path / "sweep"
    quick = Execution(progress=QUIET, pictures=False)

    def train(seeds, *grid):
        return sweep(settings, str(folder), seeds, parse_grid(list(grid)), quick)

    first = train([0], "loss.gamma=0,1")
    usual = settings.loss.gamma
    assert usual == 1.0
    assert listed(folder) == {"000": [(0, {"loss.gamma": 0.0}), (0, {})]}
    second = train([0, 1], "loss.gamma=0,1")
    assert listed(folder)["001"] == [(1, {"loss.gamma": 0.0}), (1, {})]
    for point, members in scores(first).items():
        assert scores(second)[point][0] == members[0]
    train([0, 1], "loss.gamma=0,1,2")
    assert listed(folder)["002"] == [(0, {"loss.gamma": 2.0}), (1, {"loss.gamma": 2.0})]
    rate = settings.optim.learning_rate
    last = train([0], "loss.gamma=0,2", f"optim.learning_rate={rate},0.1")
    assert listed(folder)["003"] == [
        (0, {"loss.gamma": gamma, "optim.learning_rate": 0.1}) for gamma in (0.0, 2.0)
    ]
    there = {"loss.gamma": 0.0, "optim.learning_rate": rate}
    assert scores(last)[json.dumps(there)] == {0: scores(first)['{"loss.gamma": 0.0}'][0]}
    # What was asked for first is there still.
    assert undated(train([0], "loss.gamma=0,1")) == undated(first)
    assert len(listed(folder)) == 4
    with pytest.raises(UserError, match="--config.loss.mask=0.5"):
        settings.loss.mask = 0.25
        train([0], "loss.gamma=0,1")


def test_a_sweep_does_not_grow_by_features_that_it_did_not_begin_with(tmp_path):
    """The config reads text alone, so that its own corpus stays the same."""
    path = str(tmp_path / "corpus.npz")
    before = simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0)
    write_npz(before, path)
    alone = config(path, **{"data.modalities": "text", "train.epochs": 1, **NO_PARTS})
    grid, how = {"data.modalities": ["audio"]}, Execution(progress=QUIET, pictures=False)
    assert sweep(alone, str(tmp_path / "sweep"), [0], grid, how) is not None
    turned = {**before.features, "audio": before.features["audio"][::-1]}
    write_npz(dataclasses.replace(before, features=turned), path)
    with pytest.raises(UserError, match="another corpus than the present one at data.modalities=a"):
        sweep(alone, str(tmp_path / "sweep"), [0, 1], grid, how)
    assert len(list((tmp_path / "sweep" / "chunks").iterdir())) == 1


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 8])
def test_parts_are_even_disjoint_and_split_few_groups(parts):
    """As many programs are compiled as there have to be: groups are split only between parts."""
    points = [{"model.layers": n, "loss.gamma": g} for g in (0.0, 2.0, 3.0) for n in (1, 2)]
    asked = [create_member(default_config(), point, seed) for point in points for seed in range(2)]
    shares = [share(asked, Part(number + 1, parts)) for number in range(parts)]
    assert sorted(member for own in shares for member in own) == sorted(asked)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    layers = [{m.settings.get("model.layers", 1) for m in own} for own in shares]
    assert sum(map(len, layers)) <= parts + 1


@pytest.mark.slow
def test_parts_train_each_member_once_and_the_last_one_reports(corpus, tmp_path):
    settings, quick = config(corpus, **NO_PARTS), Execution(progress=QUIET, pictures=False)
    grid = parse_grid(["loss.gamma=0,1,2"])
    whole = sweep(settings, str(tmp_path / "whole"), [0, 1], grid, quick)
    folder, said = tmp_path / "parts", []

    def train(part, collect=False):
        execution = Execution(None, part, collect, Progress(said.append), pictures=False)
        return sweep(settings, str(folder), [0, 1], grid, execution)

    assert train(Part(1, 3)) is None and train(Part(3, 3)) is None
    assert said[-1].startswith("part 3/3 is done; 2 of 6 members are not trained yet")
    with pytest.raises(UserError, match="2 of 6 members are not trained yet"):
        train(None, collect=True)
    assert train(Part(1, 3)) is None and list(listed(folder)) == ["1of3-000", "3of3-000"]
    report = train(Part(2, 3))
    members = [pair for own in listed(folder).values() for pair in own]
    assert len(members) == 6 == len({json.dumps(pair) for pair in members})
    assert json.loads((folder / "sweep.json").read_text()) == report
    found, wanted = scores(report), scores(whole)
    assert found.keys() == wanted.keys()
    for point, own in wanted.items():
        for seed, test in own.items():
            assert found[point][seed] == pytest.approx(test, abs=0.03)
    assert undated(train(None, collect=True)) == undated(report)
    # They may work side by side, and nothing else may come between.
    with Workdir(folder).locked(shared=True):
        with Workdir(folder).locked(shared=True):
            pass
        with pytest.raises(FolderBusy), Workdir(folder).locked():
            pass


def test_a_point_that_nothing_can_follow_is_refused_before_anything_is_written(corpus, tmp_path):
    for argument, message in (
        ("model.hidden=8,9", r"at model.hidden=9: .* multiple of model.heads"),
        ("data.modalities=text,smell", "has no modality 'smell'"),
    ):
        with pytest.raises(UserError, match=message):
            sweep(config(corpus), str(tmp_path / "sweep"), [0], parse_grid([argument]))
        assert not (tmp_path / "sweep").exists()


def test_the_memory_decides_how_many_members_run_together(corpus, monkeypatch):
    settings = config(corpus, **NO_PARTS)
    prepared = prepare(settings, load_data(settings))
    members = list_members(settings, range(4))
    monkeypatch.setattr(fitting, "memory_of_device", lambda: 2**40)
    # One device, so that the members of a fleet are those of the device.
    one = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    fleet = fit_fleet(prepared, settings, members, Stopper(print))
    assert fleet.padded_members == 4
    each, total = fleet.memory("joint")
    assert each == total // 4 > 10_000
    monkeypatch.setattr(fitting, "memory_of_device", lambda: total - 1)
    assert fit_fleet(prepared, settings, members, Stopper(print)).padded_members == 2
    monkeypatch.setattr(fitting, "memory_of_device", lambda: 10_000)
    with pytest.raises(UserError, match="one member needs"):
        fit_fleet(prepared, settings, members, Stopper(print))
