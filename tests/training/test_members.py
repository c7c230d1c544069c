"""Members: epochs of many at once are the epochs of each, on one device or several."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import NO_PARTS, QUIET, tiny_config, tiny_corpus

from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import UserError
from cberl_jax.models.mgnn import ATTENTIONS
from cberl_jax.runtime.checkpoints import open_checkpoints
from cberl_jax.runtime.progress import Progress
from cberl_jax.studies.evaluate import evaluate_run
from cberl_jax.studies.train import train_and_evaluate
from cberl_jax.training import epoch as epochs
from cberl_jax.training import generation
from cberl_jax.training.fleet import Fleet, members_like
from cberl_jax.training.outcome import member_states
from cberl_jax.training.prepare import list_members, prepare

SEEDS = np.arange(5, dtype=np.int32)


@pytest.fixture(scope="module")
def prepared():
    return prepare(tiny_config(), tiny_corpus())


FLEETS: dict = {}  # One per number of members and devices: compiling is most of a test's time.


def hyper_of(members):
    return list_members(tiny_config(), SEEDS[:members]).hyper


def compiled(prepared, stage, members, devices=1):
    """The fleet, the compiled epoch of a stage, and the data and settings that it reads."""
    key = (members, devices)
    if key not in FLEETS:
        FLEETS[key] = Fleet(prepared.program, members, jax.local_devices()[:devices])
    fleet = FLEETS[key]
    hyper, shared = fleet.shard(hyper_of(members)), fleet.replicate(prepared.data)
    state = fleet.shard(created(prepared, SEEDS[:members]))
    step = fleet.compile(stage, fleet.stages[stage], (state, shared, hyper), keep=True)
    return fleet, step, shared, hyper


def created(prepared, seeds):
    """The members of ``seeds``, picked out of all of ``SEEDS``."""
    if "start" not in FLEETS:
        fleet = Fleet(prepared.program, len(SEEDS), jax.local_devices()[:1])
        FLEETS["start"] = fleet.create(SEEDS, hyper_of(len(SEEDS)))
    place = np.searchsorted(SEEDS, seeds)
    return jax.tree.map(lambda x: x[place], FLEETS["start"])


def run(prepared, seeds, epochs_done, devices=1, hyper=None):
    """``epochs_done`` epochs of both stages; the members' states on the host, and the records."""
    state, records = created(prepared, seeds), []
    for stage in ("gan", "joint"):
        fleet, step, shared, usual = compiled(prepared, stage, len(seeds), devices)
        state = fleet.shard(state)
        given = usual if hyper is None else fleet.shard(hyper)
        for _ in range(epochs_done):
            state, record = step(state, shared, given)
            records.append(fleet.gather(record, len(seeds)))
        state = fleet.gather(state, len(seeds))
    return state, records


def member(tree, number):
    return jax.tree.map(lambda x: x[number], tree)


@pytest.fixture(scope="module")
def together(prepared):
    return run(prepared, SEEDS, 2)


def test_members_together_equal_members_alone(prepared, together):
    for number in (0, 4):
        alone, _ = run(prepared, SEEDS[number : number + 1], 2)
        chex.assert_trees_all_close(
            member(alone, 0), member(together[0], number), rtol=2e-3, atol=2e-4
        )


def test_seeds_differ(together):
    params = together[0].joint.variables["params"]["ensemble"]["hidden_kernel"]
    assert np.abs(params[0] - params[1]).max() > 0.01


@pytest.mark.slow
def test_pmap_of_vmap_equals_vmap_where_members_do_not_divide_by_devices(prepared, together):
    spread, records = run(prepared, SEEDS, 2, devices=4)
    chex.assert_trees_all_close(spread, together[0], rtol=2e-3, atol=2e-4)
    assert records[-1]["dev_accuracy"].shape == (5,)


def test_joint_training_leaves_the_gan_bit_identical(prepared, together):
    fleet, step, shared, hyper = compiled(prepared, "joint", 5)
    after, _ = step(fleet.shard(together[0]), shared, hyper)
    chex.assert_trees_all_equal(fleet.gather(after.gan, 5), together[0].gan)


def test_a_stopped_member_no_longer_changes(prepared, together):
    state, _ = together
    stopped = np.array([True, False, False, False, False])
    state = state.replace(joint=state.joint.replace(stopped=stopped))
    fleet, step, shared, hyper = compiled(prepared, "joint", 5)
    after, record = step(fleet.shard(state), shared, hyper)
    after = fleet.gather(after, 5)
    for field in ("variables", "optimizer", "average", "best", "best_score", "best_epoch"):
        new, old = getattr(after.joint, field), getattr(state.joint, field)
        chex.assert_trees_all_equal(member(new, 0), member(old, 0))
    assert record["active"].tolist() == [False, True, True, True, True]
    new, old = (s.joint.variables["params"]["ensemble"]["bias"][1] for s in (after, state))
    assert np.any(new != old)


@pytest.mark.parametrize(
    "stage, name, rate",
    [("joint", "optim", 1e6), ("joint", "optim", np.inf), ("gan", "gan", np.inf)],
)
def test_a_diverging_member_is_marked_and_the_others_are_bit_identical(
    prepared, together, stage, name, rate
):
    hyper = hyper_of(5)
    hyper[f"{name}.learning_rate"][2] = rate
    state, records = run(prepared, SEEDS, 2, hyper=hyper)
    diverged = state.joint.diverged
    assert diverged[2] == 0 and np.all(np.delete(diverged, 2) == epochs.NEVER)
    assert bool(state.joint.stopped[2])
    # The update breaks the parameters; the losses of the same step were still finite, those of the
    # next step are not.
    # Discriminators learn first: the generators meet theirs.
    first = {"gan": "adversarial", "joint": "focal"}
    broke = {"epoch": 1, "term": first[stage], "stage": stage}
    lines = member_states(state)
    assert lines[2]["status"] == "diverged" and lines[2]["diverged"] == broke
    assert [line["status"] for line in lines].count("ok") == 4
    for number in (0, 1, 3, 4):
        chex.assert_trees_all_equal(member(state, number), member(together[0], number))
    chex.assert_tree_all_finite(state.joint.average)
    assert not records[-1]["active"][2]


def test_early_stopping_counts_epochs_without_a_better_score(prepared, together):
    state, _ = together
    # After epoch 2, member 0 has gone 11 epochs without a better score, member 1 only 9.
    best_epoch = np.array([-9, -7, 0, 0, 0], np.int32)
    joint = state.joint.replace(best_score=np.full(5, 2.0, np.float32), best_epoch=best_epoch)
    fleet, step, shared, hyper = compiled(prepared, "joint", 5)
    after, _ = step(fleet.shard(state.replace(joint=joint)), shared, hyper)
    assert fleet.gather(after.joint.stopped, 5).tolist() == [True, False, False, False, False]
    chex.assert_trees_all_equal(fleet.gather(after.joint.best, 5), joint.best)


@pytest.mark.parametrize("written_on, read_on", [(1, 1), (4, 4), (4, 1), (1, 4)])
def test_training_goes_on_from_a_checkpoint(prepared, tmp_path, written_on, read_on):
    fleet, step, shared, hyper = compiled(prepared, "joint", 5, written_on)
    first, _ = step(fleet.shard(created(prepared, SEEDS)), shared, hyper)
    straight, _ = step(first, shared, hyper)
    straight, first = fleet.gather(straight, 5), fleet.gather(first, 5)
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, first, prepared.standardiser)
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        like = members_like(prepared.program, SEEDS, hyper_of(5))
        restored, standardiser = checkpoints.restore(like, prepared.standardiser)
    chex.assert_trees_all_equal(restored, first)
    chex.assert_trees_all_equal(standardiser, prepared.standardiser)
    fleet, step, shared, hyper = compiled(prepared, "joint", 5, read_on)
    again, _ = step(fleet.shard(restored), shared, hyper)
    if written_on == read_on:
        chex.assert_trees_all_equal(fleet.gather(again, 5), straight)
    else:
        chex.assert_trees_all_close(fleet.gather(again, 5), straight, rtol=2e-3, atol=2e-4)


def test_generated_utterances_take_their_places_and_lack_what_their_sources_lack(prepared):
    data, program = prepared.data, prepared.program
    source = data.sources[:, 0]
    features = {m: jnp.full((len(source), d), 7.0) for m, d in program.model.widths}
    # Every other one is used.
    number = np.full(len(data.label), -1)
    number[data.place[::2]] = np.arange(len(source))[::2]
    made = generation.Made(source, features, jnp.asarray(number))
    conversations = epochs.look_up(data.table, data.train, made)
    used = data.train.segment > 0
    is_made = used & (number[data.train.index] >= 0)
    assert is_made.sum() == len(source[::2]) > 0
    origin = source[number[data.train.index[is_made]]]
    for modality, values in conversations.features.items():
        there = np.asarray(data.table.present[modality])[origin]
        np.testing.assert_array_equal(conversations.present[modality][is_made], there)
        assert np.all(np.asarray(values)[is_made][there] == 7.0)
        assert np.all(np.asarray(values)[is_made][~there] == 0.0)
        kept = used & ~is_made
        expected = np.asarray(data.table.features[modality])[data.train.index[kept]]
        np.testing.assert_array_equal(np.asarray(values)[kept], expected)


@pytest.mark.slow
def test_both_forms_of_attention_train_to_the_same_curve():
    """Of two members in one program, up to rounding, which a training lets grow."""
    curves = []
    for attention in ATTENTIONS:
        config = tiny_config(**NO_PARTS | {"model.graph": True, "model.attention": attention})
        prepared, members = prepare(config, tiny_corpus()), list_members(config, SEEDS[:2])
        assert prepared.program.model.settings.attention == attention
        fleet = Fleet(prepared.program, 2, jax.local_devices()[:1])
        state = fleet.shard(fleet.create(members.seeds, members.hyper))
        hyper, shared = fleet.shard(members.hyper), fleet.replicate(prepared.data)
        epoch = fleet.compile("joint", fleet.stages["joint"], (state, shared, hyper))
        records = []
        for _ in range(3):
            state, record = epoch(state, shared, hyper)
            records.append(fleet.gather(record, 2))
        curves.append((records, fleet.gather(state, 2).joint.average))
    chex.assert_trees_all_close(*curves, rtol=2e-3, atol=2e-4)
    losses = [record["focal"] for record in curves[0][0]]
    assert np.all(losses[0] != losses[2])


@pytest.mark.parametrize("split, settings", [("dev", {}), ("test", {"train.best_on_test": True})])
def test_a_corpus_without_labels_to_choose_an_epoch_by_is_refused(split, settings):
    corpus = tiny_corpus()
    label = np.where(corpus.in_split(split), -1, corpus.label)
    unlabelled = dataclasses.replace(corpus, label=label)
    with pytest.raises(UserError, match=f"split '{split}' has no labelled utterance"):
        prepare(tiny_config(**settings), unlabelled)


def test_a_run_traces_each_stage_once_and_leaves_readable_files(tmp_path, traces):
    corpus = simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0)
    write_npz(corpus, tmp_path / "corpus.npz")
    # Both stages are there; a flow compiles faster than a GAN.
    reduced = NO_PARTS | {"augment.method": "flow", "gan.epochs": 2, "data.components": 3}
    config = tiny_config(**reduced, **{"data.path": str(tmp_path / "corpus.npz")})
    lines = []
    report = train_and_evaluate(
        config, str(tmp_path / "run"), [3, 5], Progress(lines.append), False
    )
    assert sorted(traces) == ["gan_epoch", "joint_epoch"]
    assert [m["seed"] for m in report["members"]] == [3, 5]
    joint = [line for line in lines if line.startswith("joint")]
    assert [line.split()[1] for line in joint] == ["1/4", "2/4", "3/4", "4/4"]
    assert all("members 2" in line and "utterances/s" in line for line in joint)
    usual = tmp_path / "usual"
    usual.touch()
    for name in ("config.json", "metrics.jsonl", "predictions.npz", "report.json", "report.md"):
        assert (tmp_path / "run" / name).stat().st_mode == usual.stat().st_mode
    # The principal axes come back from the checkpoint.
    assert dict(prepare(config, corpus).program.model.widths)["text"] == 3 < corpus.widths["text"]
    assert evaluate_run(str(tmp_path / "run"))["test"] == report["test"]


def remedy(method, seed=0):
    """A corpus, its dataset, and the features that a remedy makes for it in one epoch."""
    corpus = simulate_corpus(create_process(), SimulatedSize(40, 4, 4, 6, 8), seed=1)
    prepared = prepare(tiny_config(**{"augment.method": method}), corpus)
    key, data = jax.random.key(seed), prepared.data
    made = generation.generate(prepared.program.gan, None, data, data.sources[:, 0], key)
    assert prepared.generated.sum() > 10
    return corpus, data, made


def test_repeated_utterances_are_those_that_they_replace():
    corpus, data, made = remedy("repeat")
    assert np.all(corpus.in_split("train")[data.place])
    for modality, values in made.items():
        np.testing.assert_array_equal(values, data.table.features[modality][data.place])


def test_smote_stays_between_an_utterance_and_one_of_its_nearest_of_the_class():
    def joined(features):
        return np.concatenate([features[m] for m in sorted(features)], axis=1)

    corpus, data, made = remedy("smote")
    made, again, table = joined(made), joined(remedy("smote", 1)[2]), joined(data.table.features)
    assert np.abs(made - again).max() > 0.1
    train, present = (
        corpus.in_split("train"),
        joined({m: x[:, None] for m, x in corpus.present.items()}),
    )
    for k, source in enumerate(data.place):
        alike = np.all(present == present[source], axis=1)
        others = np.flatnonzero(train & (corpus.label == corpus.label[source]) & alike)
        others = others[others != source]
        if not len(others):
            np.testing.assert_array_equal(made[k], table[source])
            continue
        distance = np.linalg.norm(table[others] - table[source], axis=1)
        near = others[np.argsort(distance)[:5]]
        assert set(data.neighbours[k]) == set(near)
        step, ways = made[k] - table[source], table[near] - table[source]
        # The share of the way, and how far off the straight line it is.
        share = ways @ step / np.sum(ways**2, axis=1)
        off = np.linalg.norm(step - share[:, None] * ways, axis=1)
        assert 0 <= share[np.argmin(off)] <= 1 and off.min() < 1e-4


def test_without_a_remedy_nothing_is_generated():
    corpus = simulate_corpus(create_process(), SimulatedSize(40, 4, 4, 6, 8), seed=1)
    prepared = prepare(tiny_config(**{"augment.method": "none"}), corpus)
    assert prepared.program.gan is None and not prepared.generated.any()


def test_looking_at_test_changes_nothing_but_one_column(tmp_path):
    corpus = simulate_corpus(create_process(), SimulatedSize(12, 4, 9, 4, 6), seed=0)
    write_npz(corpus, tmp_path / "corpus.npz")
    reports = {}
    for looks in (False, True):
        changes = {"optim.learning_rate": 0.02, "train.best_on_test": looks}
        config = tiny_config(**NO_PARTS, **changes, **{"data.path": str(tmp_path / "corpus.npz")})
        folder = str(tmp_path / f"run {looks}")
        reports[looks] = train_and_evaluate(config, folder, [3, 5], QUIET, pictures=False)
    for field in ("dev", "test"):
        assert reports[True][field] == reports[False][field]
    assert reports[False]["best_on_test"] is None
    lines = [json.loads(x) for x in (tmp_path / "run True/metrics.jsonl").read_text().splitlines()]
    for number, member in enumerate(reports[True]["members"]):
        own = [line for line in lines if line["member"] == number]
        best = max(own, key=lambda line: line["test_weighted_f1"])
        for name, value in member["best_on_test"].items():
            assert value == pytest.approx(best[f"test_{name}"], abs=1e-6)
        kept = own[member["epoch"] - 1]
        for name in ("weighted_f1", "macro_f1", "accuracy"):
            assert member["test"][name] == pytest.approx(kept[f"test_{name}"], abs=1e-6)
    assert "epoch chosen on test" in (tmp_path / "run True" / "report.md").read_text()
    assert "epoch chosen on test" not in (tmp_path / "run False" / "report.md").read_text()


def test_a_single_classifier_sees_every_utterance_alike(prepared):
    def drawn(classifiers):
        settings = dataclasses.replace(prepared.program.model.settings, classifiers=classifiers)
        model = prepared.program.model.clone(settings=settings)
        program = dataclasses.replace(prepared.program, model=model)
        return np.asarray(epochs._draw_bootstrap(program, jnp.int32(3), 4000))

    np.testing.assert_array_equal(drawn(1), np.ones((4000, 1)))
    several = drawn(3)
    assert several.shape == (4000, 3)
    # Exponential: mean and deviation one, and each classifier has its own.
    np.testing.assert_allclose(several.mean(axis=0), 1, atol=0.1)
    np.testing.assert_allclose(several.std(axis=0), 1, atol=0.1)
    assert np.abs(np.corrcoef(several.T) - np.eye(3)).max() < 0.1
