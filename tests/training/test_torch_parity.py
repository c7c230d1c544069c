"""The joint model against the same model in plain PyTorch: every layer, loss and update."""

import dataclasses
import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is the benchmark's contestant, not ours")

# The benchmarks are no part of the package.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import torch_reference as reference  # noqa: E402
from cberl_jax.config.settings import default_config, model_settings, traced_settings  # noqa: E402
from cberl_jax.data.dataset import create_table  # noqa: E402
from cberl_jax.data.packing import pack, turns_of  # noqa: E402
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus  # noqa: E402
from cberl_jax.data.standardize import fit_standardiser  # noqa: E402
from cberl_jax.losses import class_balanced_weights  # noqa: E402
from cberl_jax.models import masking  # noqa: E402
from cberl_jax.models.cberl import CBERL, ModelSettings  # noqa: E402
from cberl_jax.training import epoch as epochs  # noqa: E402
from cberl_jax.training.joint_step import (  # noqa: E402
    Batch,
    Objective,
    joint_loss,
    joint_optimizer,
)
from cberl_jax.training.prepare import prepare  # noqa: E402

TINY = {
    "model.hidden": 8,
    "model.latent": 3,
    "model.heads": 2,
    "model.past": 3,
    "model.future": 2,
    "model.classifiers": 3,
    "model.classifier_hidden": 4,
}
CLASSES = 7


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The matrices are too small to share."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config_of(**changes):
    config = default_config()
    config.update_from_flattened_dict({"augment.method": "none", **TINY, **changes})
    return config


def settings_of(**changes) -> ModelSettings:
    return dataclasses.replace(model_settings(config_of(), "cpu"), **changes)


# One small corpus: three speakers, labels missing, modalities missing, all of them at times.


@functools.cache
def small_corpus():
    corpus = simulate_corpus(create_process(), SimulatedSize(12, 4, 2, 6, 10), seed=0)
    generator = np.random.default_rng(1)
    count = len(corpus.label)
    present = {m: generator.random(count) < 0.7 for m in corpus.features}
    return dataclasses.replace(
        corpus,
        speaker=generator.choice(list("abc"), count),
        label=np.where(generator.random(count) < 0.9, corpus.label, -1).astype(np.int32),
        present=present,
        features={m: x * present[m][:, None] for m, x in corpus.features.items()},
    )


@functools.cache
def small_table():
    corpus = small_corpus()
    return create_table(corpus, fit_standardiser(corpus))


class Case:
    """The train split twice: packed rows for us, shuffled dialogues in a flat batch for PyTorch.

    Attributes:
      rows: the packed rows.
      layout: where the utterances stand in the flat batch.
      flat: [N] the turn that each utterance of the flat batch is.
      index: [N] its place in the corpus.
      cell: [N] its cell in the packed rows, flattened.
    """

    def __init__(self, row_length: int):
        corpus = small_corpus()
        self.turns = turns_of(corpus, np.flatnonzero(corpus.split == "train"))
        self.rows = pack(self.turns, row_length)
        order = np.random.default_rng(2).permutation(len(self.turns.length))
        self.layout, self.flat = reference.choose_turns(self.turns, order)
        self.index = self.turns.index[self.flat]
        self.speaker = self.turns.speaker[self.flat]
        used = np.flatnonzero(self.rows.segment.reshape(-1) > 0)
        place = dict(zip(self.rows.index.reshape(-1)[used], used))
        self.cell = np.array([place[i] for i in self.index])
        generator = np.random.default_rng(3)
        self.masked = np.flatnonzero(generator.random(len(self.index)) < 0.4)
        self.swapped = generator.random(len(self.masked)) < 0.5
        shown = np.setdiff1d(np.arange(len(self.index)), self.masked)
        self.donor = generator.choice(shown, len(self.masked))

    def conversations(self):
        return epochs.look_up(small_table(), self.rows)

    def masking(self, masked: bool):
        """Ours: the masked utterances, or none."""
        shape = self.rows.segment.shape
        if not masked:
            return masking.no_masking(shape)
        fields = np.zeros((3, shape[0] * shape[1]), int)
        where = self.cell[self.masked]
        fields[:, where] = np.ones(len(where)), self.swapped, self.cell[self.donor]
        is_masked, swapped, donor = fields.reshape(3, *shape)
        return masking.Masking(
            jnp.asarray(is_masked > 0), jnp.asarray(swapped > 0), jnp.asarray(donor)
        )

    def dialogues(self, model):
        table = small_table()
        features = [table.features[m][self.index] for m in model.widths]
        present = [table.present[m][self.index] for m in model.widths]
        return reference.create_dialogues(
            torch.from_numpy(np.concatenate(features, axis=1)),
            torch.from_numpy(np.stack(present, axis=1).astype(np.float32)),
            self.layout,
            self.speaker,
            model.settings,
        )

    def torch_masking(self, model):
        return reference.create_masking(
            self.layout, self.speaker, self.masked, self.swapped, self.donor, model.settings
        )

    def of_cells(self, values) -> np.ndarray:
        """Our [B, L, ...] in the order of the flat batch."""
        values = np.asarray(values)
        return values.reshape(-1, *values.shape[2:])[self.cell]


@pytest.fixture(scope="module")
def case():
    # Wider than any dialogue, so that some rows hold several and all end in padding.
    return Case(row_length=15)


def draw_variables(model: CBERL, conversations, seed: int = 0) -> dict:
    """Variables without a zero in them, so that no bias or linear path hides a mistake."""
    generator = np.random.default_rng(seed)

    def draw(path, x):
        name, drawn = str(path[-1]), generator.normal(size=x.shape)
        if "subspaces" in name:
            drawn = drawn > 0
        elif "scale" in name:
            drawn = 1.0 + 0.3 * drawn
        else:
            drawn = drawn * (0.5 if x.ndim == 1 else x.shape[-2] ** -0.5)
        return drawn.astype(np.float32)

    none = masking.no_masking(conversations.segment.shape)
    shapes = jax.eval_shape(
        lambda key: model.init(key, conversations, none, 0.0), jax.random.key(0)
    )
    return jax.tree.map_with_path(draw, shapes)


def make_pair(case: Case, settings: ModelSettings):
    """Our model, its variables, and the PyTorch model with the same parameters."""
    model = CBERL(settings, tuple(small_corpus().widths.items()), CLASSES)
    variables = draw_variables(model, case.conversations())
    twin = reference.TorchCBERL(settings, dict(model.widths), CLASSES)
    reference.load_parameters(twin, variables)
    return model, variables, twin


@functools.partial(jax.jit, static_argnames="model")
def run(model, variables, conversations, hidden):
    return model.apply(variables, conversations, hidden, 0.0)


def close(found, expected, tolerance=1e-4):
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else found
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def check_model(case: Case, settings: ModelSettings, masked: bool):
    model, variables, twin = make_pair(case, settings)
    logits, between = run(model, variables, case.conversations(), case.masking(masked))
    hidden = case.torch_masking(twin) if masked else None
    twin_logits, twin_between = twin.eval()(case.dialogues(twin), hidden)

    assert np.std(case.of_cells(logits)) > 0.3
    close(twin_logits, case.of_cells(logits))
    close(twin_between.code, case.of_cells(between.code))
    if settings.djvae:
        ours, theirs = between.latent, twin_between.latent
        names = list(twin.widths)
        pairs = [(theirs.joint, ours.joint)]
        pairs += [(theirs.experts[i], ours.experts[m]) for i, m in enumerate(names)]
        pairs += [
            ((theirs.reconstruction[i],), (ours.reconstruction[m],)) for i, m in enumerate(names)
        ]
        for found, expected in pairs:
            for one, other in zip(found, expected, strict=True):
                close(one, case.of_cells(other))
    if masked:
        rebuilt = [case.of_cells(between.rebuilt[m])[case.masked] for m in twin.widths]
        close(twin_between.rebuilt, np.concatenate(rebuilt, axis=1))


VARIANTS = {
    "all parts": {},
    "no djvae": {"djvae": False},
    "no bilstm": {"bilstm": False},
    "no graph": {"graph": False, "reconstruction": False},
    "no reconstruction": {"reconstruction": False},
    "no residual": {"residual": False},
    "causal": {"causal": True},
    "residual of turns around": {"residual_turns": 2},
    "residual of turns before": {"residual_turns": 1, "causal": True},
    "two layers, four heads": {"layers": 2, "heads": 4},
    "no window": {"past": 0, "future": 0},
    "nothing but the ensemble": {
        "djvae": False,
        "bilstm": False,
        "graph": False,
        "reconstruction": False,
    },
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_the_models_agree(case, changes):
    settings = settings_of(**changes)
    check_model(case, settings, masked=False)
    if settings.reconstruction:
        check_model(case, settings, masked=True)


def test_the_models_agree_on_rows_far_longer_than_the_window():
    check_model(Case(row_length=79), settings_of(), masked=True)


def test_the_models_agree_at_the_default_widths(case):
    check_model(case, model_settings(default_config(), "cpu"), masked=True)


# Parameters.


def twin_leaves(model) -> dict[str, np.ndarray]:
    """The PyTorch model's parameters by the paths of ours."""

    def read(leaf):
        return np.stack([*map(read, leaf)]) if isinstance(leaf, tuple) else leaf.detach().numpy()

    return {path: read(leaf) for path, leaf in model.leaves().items()}


def test_every_parameter_is_loaded_once(case):
    _, variables, twin = make_pair(case, settings_of())
    learnt = [p for p in twin.parameters() if p.requires_grad]
    leaves = twin_leaves(twin)
    assert sum(p.numel() for p in learnt) == sum(x.size for x in leaves.values())
    expected = reference.flatten_tree(variables["params"])
    assert leaves.keys() == expected.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


def test_parameters_that_do_not_fit_are_refused(case):
    _, variables, twin = make_pair(case, settings_of())
    params = variables["params"]
    left_over = {**variables, "params": {**params, "more": np.zeros(2)}}
    missing = {**variables, "params": {k: x for k, x in params.items() if k != "bilstm_norm"}}
    norm = {**params["bilstm_norm"], "bias": np.zeros(1, np.float32)}
    reshaped = {**variables, "params": {**params, "bilstm_norm": norm}}
    for wrong, word in [(left_over, "more"), (missing, "bilstm_norm"), (reshaped, "shape")]:
        with pytest.raises(ValueError, match=word):
            reference.load_parameters(twin, wrong)


# Losses and gradients.

HYPER = {
    **traced_settings(config_of()),
    "loss.gamma": 1.5,
    "loss.label_smoothing": 0.1,
    "loss.free_bits": 0.02,
    "loss.align": 0.7,
    "loss.beta": 1.3,
    "mask.classify": 0.6,
    "mask.alpha": 1.5,
    "optim.dropout": 0.0,
}
WARM = 0.4


def gradients_of(model) -> dict[str, np.ndarray]:
    """The gradients in place of the parameters, by the paths of ours."""
    shell = reference.copy.deepcopy(model)
    for parameter, of in zip(shell.parameters(), model.parameters(), strict=True):
        parameter.data = torch.zeros_like(of) if of.grad is None else of.grad
    return twin_leaves(shell)


def check_gradients(found: dict[str, np.ndarray], expected: dict) -> None:
    expected = reference.flatten_tree(expected)
    assert found.keys() == expected.keys()
    for path, gradient in expected.items():
        size = np.abs(gradient).max()
        assert size > 0, path
        np.testing.assert_allclose(found[path], gradient, atol=1e-4 * size + 1e-7, err_msg=path)


def test_losses_and_gradients_agree(case, monkeypatch):
    model, variables, twin = make_pair(case, settings_of())
    noise = np.array([0.7, -1.2, 0.4], np.float32)
    # The same for every utterance, since the two hold them in another order.
    monkeypatch.setattr(jax.random, "normal", lambda _, shape, dtype=None: jnp.resize(noise, shape))
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.from_numpy(noise).expand(x.shape))
    keys = {"latent": jax.random.key(0)}
    bootstrap = np.random.default_rng(4).exponential(size=(len(small_corpus().label), 3))
    bootstrap = bootstrap.astype(np.float32)
    counts = np.linspace(5.0, 60.0, CLASSES, dtype=np.float32)
    hyper = HYPER | {"loss.logit_adjustment": 0.7}
    rows = case.rows
    batch = Batch(case.conversations(), rows.label, rows.weight, bootstrap[rows.index])

    @jax.jit
    def ours(params):
        def loss(params):
            together = {**variables, "params": params}
            hidden = case.masking(True)
            objective = Objective(model, counts, 10, hyper)
            return joint_loss(objective, together, batch, hidden, keys, WARM)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (total, terms), gradient = ours(variables["params"])

    targets = reference.Targets(
        torch.from_numpy(case.turns.label[case.flat].astype(np.int64)),
        torch.from_numpy(case.turns.weight[case.flat]),
        torch.from_numpy(bootstrap[case.index]),
    )
    found, parts = reference.joint_loss(
        twin,
        case.dialogues(twin),
        targets,
        case.torch_masking(twin),
        *reference.class_terms(counts, hyper),
        WARM,
        hyper,
    )
    found.backward()

    close(parts["focal"], terms["focal"], 1e-5)
    close(parts["masked"], terms["masked"], 1e-5)
    close(
        parts["djvae"],
        terms["reconstruction"]
        + WARM * HYPER["loss.beta"] * terms["kl"]
        + HYPER["loss.align"] * terms["align"],
        1e-5,
    )
    close(found, total, 1e-5)
    check_gradients(gradients_of(twin), gradient)


@pytest.mark.parametrize(
    "rate, tau", [(0.15, 0.0), (0.3, 0.5), (0.6, 1.0), (0.4, -0.5), (0.9, 2.0)]
)
def test_class_probabilities_and_weights_agree(rate, tau):
    counts = np.array([4710.0, 1205.0, 268.0, 683.0, 1743.0, 1.0, 0.0], np.float32)
    ours = masking.class_mask_probability(jnp.asarray(counts), rate=rate, tau=tau)
    close(reference.class_mask_probability(counts, rate, tau), ours)
    for beta in (0.0, 0.9, 0.999):
        ours = class_balanced_weights(jnp.asarray(counts), beta=beta)
        close(reference.class_balanced_weights(counts, beta), ours)


# Training.


@functools.cache
def prepared_of(**changes):
    config = config_of(**changes)
    return prepare(config, small_corpus()), traced_settings(config)


def draw_like(tree, seed: int, scale: float):
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (scale * generator.normal(size=x.shape)).astype(np.float32), tree)


def check_leaves(model, expected: dict, tolerance: float) -> None:
    found, expected = twin_leaves(model), reference.flatten_tree(expected)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, atol=tolerance, err_msg=path)


def test_updates_agree(case):
    steps = 6
    prepared, hyper = prepared_of(**{"train.epochs": steps})
    trainer = reference.TorchTrainer(prepared, hyper, batch_size=len(case.turns.length))
    assert trainer.steps == steps
    _, variables, shell = make_pair(case, prepared.program.model.settings)
    for model in (trainer.model, trainer.average):
        reference.load_parameters(model, variables)
    params = average = jax.tree.map(jnp.asarray, variables["params"])
    optimizer = joint_optimizer(hyper, steps)
    state = optimizer.init(params)
    move = jax.jit(optimizer.update)
    for step in range(3):
        # The second gradient is clipped, the others are not.
        gradient = draw_like(params, step, scale=3.0 if step == 1 else 1e-3)
        reference.load_parameters(shell, {**variables, "params": gradient})
        for parameter, of in zip(trainer.model.parameters(), shell.parameters(), strict=True):
            parameter.grad = of.data if parameter.requires_grad else None
        trainer.update(step)

        change, state = move(gradient, state, params)
        params = optax.apply_updates(params, change)
        decay = min(hyper["optim.ema"], (1 + step) / (10 + step))
        average = optax.incremental_update(params, average, 1 - decay)
        check_leaves(trainer.model, params, 2e-6)
        check_leaves(trainer.average, average, 2e-6)


def test_epochs_agree():
    # One batch of the whole split, and only parts that draw nothing: the others' gradients and
    # updates are compared above.
    changes = {
        "model.djvae": False,
        "model.bilstm": False,
        "model.graph": False,
        "model.reconstruction": False,
        "optim.dropout": 0.0,
        "optim.warmup": 0.5,
        "train.epochs": 4,
        "train.rows_per_batch": 10,
    }
    prepared, hyper = prepared_of(**changes)
    program, data = prepared.program, jax.tree.map(jnp.asarray, prepared.data)
    assert len(data.train.index) == program.rows
    dialogues = np.sum(prepared.corpus.split == "train")
    trainer = reference.TorchTrainer(prepared, hyper, batch_size=int(dialogues))
    assert trainer.steps == hyper["train.epochs"]

    state = jax.jit(functools.partial(epochs.create_state, program))(5, hyper)
    for model in (trainer.model, trainer.average):
        reference.load_parameters(model, state.joint.variables)
    key = jax.random.fold_in(jax.random.key(5), epochs.BOOTSTRAP)
    bootstrap = jax.random.exponential(key, trainer.bootstrap.shape)
    trainer.bootstrap = torch.tensor(np.asarray(bootstrap))

    train = jax.jit(functools.partial(epochs.joint_epoch, program))
    for _ in range(3):
        state, record = train(state, data, hyper)
        found = trainer.train_epoch()
        close(found.loss, record["total"], 1e-5)
        close(found.accuracy, record["dev_accuracy"], 1e-6)
        check_leaves(trainer.model, state.joint.variables["params"], 1e-4)
        check_leaves(trainer.average, state.joint.average, 1e-4)


def test_the_divergence_is_warmed_up():
    # Half of 40 steps: 0/20, 5/20, 20/20, and one from then on.
    shares = [reference.divergence_share(s, 40, {"loss.kl_warmup": 0.5}) for s in (0, 5, 20, 39)]
    assert shares == [0.0, 0.25, 1.0, 1.0]
    assert reference.divergence_share(1, 40, {"loss.kl_warmup": 0.0}) == 1.0


def test_dropout_drops_its_share_and_keeps_the_mean():
    torch.manual_seed(0)
    ones = torch.ones(1001, 99)
    dropped = reference.Dropout(0.3)(ones)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(dropped.max()) == pytest.approx(1 / 0.7)
    assert torch.equal(reference.Dropout(0.3).eval()(ones), ones)
    assert torch.equal(reference.Dropout(0.0)(ones), ones)


def test_batches_hold_every_dialogue_once_and_never_a_masked_donor():
    prepared, hyper = prepared_of()
    trainer = reference.TorchTrainer(prepared, hyper | {"mask.rate": 0.5}, batch_size=5)
    seen, masked = [], 0
    for dialogues, targets, hidden in trainer.train_batches():
        assert dialogues.grid.shape[2] <= 5
        seen.append(targets.label)
        masked += len(hidden.masked)
        assert not np.isin(hidden.donor, hidden.masked).any()
    train = prepared.corpus.in_split("train")
    seen = torch.cat(seen).numpy()
    np.testing.assert_array_equal(np.sort(seen), np.sort(prepared.corpus.label[train]))
    assert masked / len(seen) == pytest.approx(0.5, abs=0.15)
    assert len(seen) > 60


def test_generated_copies_are_refused():
    prepared, hyper = prepared_of()
    generated = np.ones(CLASSES, int)
    with pytest.raises(ValueError, match="augment.method"):
        reference.TorchTrainer(prepared._replace(generated=generated), hyper)


def test_the_model_learns():
    config = config_of(**{"model.hidden": 32, "train.epochs": 6, "optim.learning_rate": 5e-3})
    corpus = simulate_corpus(create_process(), SimulatedSize(150, 40, 2, 10, 20), seed=0)
    hyper = traced_settings(config)
    trainer = reference.TorchTrainer(prepare(config, corpus), hyper, batch_size=8)
    before = trainer.evaluate()
    records = [trainer.train_epoch() for _ in range(6)]
    losses = [record.loss for record in records]
    assert all(after < earlier for earlier, after in zip(losses, losses[1:]))
    label = corpus.label[corpus.in_split("dev")]
    most_frequent = np.bincount(label).max() / len(label)
    assert records[-1].confusion.sum() == before.sum() == len(label)
    assert records[-1].accuracy > max(most_frequent, np.trace(before) / before.sum()) + 0.05
