"""Whole epochs of one member as pure functions: ``create_state``, ``gan_epoch``, ``joint_epoch``.

An epoch is one scan over batches of device-resident rows, dev evaluation and the choice of the kept
parameters included. All randomness comes from (seed, stage, epoch), so that a run goes on after a
restart as if nothing had happened. ``streamed_epochs.py`` takes the same steps on rows that come
from the host.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from cberl_jax.data.dataset import Dataset, Table
from cberl_jax.data.gate import gate_distance
from cberl_jax.data.packing import Rows
from cberl_jax.metrics import SELECTIONS, confusion_matrix, scores
from cberl_jax.models.cberl import CBERL, Conversations
from cberl_jax.models.ensemble import average_probability
from cberl_jax.models.flow import Flow
from cberl_jax.models.gan import GAN
from cberl_jax.models.masking import no_masking
from cberl_jax.models.parts import WHOLE, Parts
from cberl_jax.models.precision import DEFAULT
from cberl_jax.runtime.numerics import random_key
from cberl_jax.training import gan_step as gan_steps
from cberl_jax.training import joint_step as joint_steps
from cberl_jax.training.flow_step import flow_learn
from cberl_jax.training.gan_step import gan_learn, gan_optimizer
from cberl_jax.training.generation import (
    Made,
    class_mass,
    generate,
    label_weight,
    make_epoch,
)
from cberl_jax.training.joint_step import Batch, Objective, joint_optimizer, joint_step

Hyper = Mapping[str, jax.Array]
# Streams of random numbers, folded into a member's key.
INIT, GAN_STAGE, JOINT_STAGE, BOOTSTRAP, GATE = range(5)
NEVER = -1
# No distance is larger.
FARTHEST = jnp.finfo(jnp.float32).max
# Kind of generator -> one step of its training.
LEARNERS = {GAN: gan_learn, Flow: flow_learn}


@dataclasses.dataclass(frozen=True)
class Program:
    """The static half of a training: networks and counts that one compiled program is made for.

    Attributes:
      model: the joint model.
      gan: the GAN, or the flow in its place; None where no network generates.
      gan_steps: GAN steps an epoch.
      gan_batch: utterances of each domain in a GAN step.
      rows: rows in a joint step.
      select: the dev metric that picks the epoch.
      best_on_test: whether test is looked at after every epoch; it decides nothing.
      frozen: parts of the joint model that keep their parameters.
      precision: of matrix products, one of ``models.precision.PRECISIONS``.
    """

    model: CBERL
    gan: GAN | Flow | None
    gan_steps: int
    gan_batch: int
    rows: int
    select: str
    best_on_test: bool
    frozen: tuple[str, ...] = ()
    precision: str = DEFAULT


class GanState(flax.struct.PyTreeNode):
    """The GAN stage of one member.

    Attributes:
      params: of all networks.
      optimizers: group of networks -> optimiser state.
      average: exponential moving average of the parameters that generate.
      best: the averaged parameters of the kept epoch, which the joint stage generates with.
      best_distance: [] distance to dev in the kept epoch, from ``gate_distance``.
      best_epoch: [] int, from 0.
      epoch: [] int, epochs done.
      diverged: as of ``JointState``.
      broken: as of ``JointState``, of ``gan_step.TERMS``.
    """

    params: Any
    optimizers: Any
    average: Any
    best: Any
    best_distance: jax.Array
    best_epoch: jax.Array
    epoch: jax.Array
    diverged: jax.Array
    broken: jax.Array


class JointState(flax.struct.PyTreeNode):
    """The joint stage of one member.

    Attributes:
      variables: ``params`` and ``constants`` of the joint model.
      optimizer: optimiser state.
      average: exponential moving average of the parameters, which is what is evaluated.
      best: the averaged parameters of the kept epoch.
      best_score: [] dev score of the kept epoch.
      best_epoch: [] int, from 0.
      on_test: test metric -> [] score of the epoch with the highest weighted F1 there; empty unless
        test is looked at.
      epoch: [] int, epochs done.
      stopped: [] bool, no longer changes.
      diverged: [] int, the epoch in which a loss or parameter was not finite, or NEVER.
      broken: [] int, which of ``joint_steps.TERMS`` was the first, their number where it was a
        parameter; NEVER where nothing has diverged.
    """

    variables: Any
    optimizer: Any
    average: Any
    best: Any
    best_score: jax.Array
    best_epoch: jax.Array
    on_test: Mapping[str, jax.Array]
    epoch: jax.Array
    stopped: jax.Array
    diverged: jax.Array
    broken: jax.Array


class MemberState(flax.struct.PyTreeNode):
    """All that changes in one member's training; the GAN is None where nothing is generated."""

    seed: jax.Array
    gan: GanState | None
    joint: JointState


def create_state(program: Program, seed: jax.Array, hyper: Hyper) -> MemberState:
    """Draws a member's parameters; a pure function of its seed."""
    gan_key, params_key = jax.random.split(random_key(seed, INIT))
    shape = (1, 2)
    conversations = Conversations(
        features={m: jnp.zeros((*shape, width)) for m, width in program.model.widths},
        present={m: jnp.ones(shape, bool) for m, _ in program.model.widths},
        segment=jnp.ones(shape, jnp.int32),
        speaker=jnp.zeros(shape, jnp.int32),
    )
    variables = program.model.init(params_key, conversations, no_masking(shape), 0.0)
    params = variables["params"]
    gan = None
    if program.gan is not None:
        gan_params = program.gan.init(gan_key, dict(program.model.widths))
        optimizers = {
            group: gan_optimizer(hyper).init({name: gan_params[name] for name in members})
            for group, members in program.gan.groups.items()
        }
        maker, never = gan_params[program.gan.maker], jnp.int32(NEVER)
        gan = GanState(
            params=gan_params,
            optimizers=optimizers,
            average=maker,
            best=maker,
            best_distance=jnp.float32(FARTHEST),
            best_epoch=never,
            epoch=jnp.int32(0),
            diverged=never,
            broken=never,
        )
    joint = JointState(
        variables=variables,
        optimizer=joint_optimizer(hyper, 1, program.frozen).init(params),
        average=params,
        best=params,
        best_score=jnp.float32(-1.0),
        best_epoch=jnp.int32(NEVER),
        on_test=dict.fromkeys(SELECTIONS, jnp.float32(-1.0)) if program.best_on_test else {},
        epoch=jnp.int32(0),
        stopped=jnp.bool_(False),
        diverged=jnp.int32(NEVER),
        broken=jnp.int32(NEVER),
    )
    return MemberState(jnp.asarray(seed, jnp.int32), gan, joint)


def _finite(tree: Any) -> jax.Array:
    # As one vector: the compiler copies a conjunction over leaves into all that depends on it.
    return jnp.all(jnp.isfinite(ravel_pytree(tree)[0]))


def _first_broken(records: Mapping[str, jax.Array], order: Sequence[str]) -> jax.Array:
    """Which term was the first that was not finite.

    Args:
      records: term -> [steps].
      order: all terms; of those that break in the same step the first one counts.

    Returns:
      [] int, the term's place in ``order``; its length where all terms are finite.
    """
    there = [name for name in order if name in records]
    broken = ~jnp.isfinite(jnp.stack([records[name] for name in there]))
    step = jnp.argmax(jnp.any(broken, axis=0))
    term = jnp.argmax(broken[:, step])
    place = jnp.asarray([order.index(name) for name in there])[term]
    return jnp.where(jnp.any(broken), place, len(order)).astype(jnp.int32)


def _choose(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def gan_keys(program: Program, state: MemberState) -> jax.Array:
    """[gan_steps] the key of each step of the present GAN epoch."""
    key = jax.random.fold_in(random_key(state.seed, GAN_STAGE), state.gan.epoch)
    return jax.random.split(key, program.gan_steps)


def _train_gan(program: Program, gan: GanState, data: Dataset, keys: jax.Array, hyper: Hyper):
    """The epoch's steps: new parameters, optimisers and average, and each step's terms."""
    maker, learn = program.gan.maker, LEARNERS[type(program.gan)]

    def step(carry, key):
        networks, average = carry
        networks, record = learn(program.gan, networks, data, key, program.gan_batch, hyper)
        decay = hyper["gan.ema"]
        average = jax.tree.map(
            lambda old, new: decay * old + (1 - decay) * new, average, networks[0][maker]
        )
        return (networks, average), record

    carry = ((gan.params, gan.optimizers), gan.average)
    (networks, average), records = jax.lax.scan(step, carry, keys)
    return *networks, average, records


def gan_epoch(
    program: Program, state: MemberState, data: Dataset, hyper: Hyper
) -> tuple[MemberState, dict[str, jax.Array]]:
    """One epoch of the GAN stage: ``gan_steps`` steps, and how near to dev they have led.

    Returns:
      The state and the record: mean terms, and ``dev_distance`` where there is a gate.
    """
    gan = state.gan
    keys = gan_keys(program, state)
    params, optimizers, average, records = _train_gan(program, gan, data, keys, hyper)
    record = jax.tree.map(jnp.mean, records)
    sound = _finite((record, params)) & (gan.diverged == NEVER)
    broke = ~sound & (gan.diverged == NEVER)
    better, distance = sound, gan.best_distance
    if data.gate:
        # The same sources and noise in all epochs.
        noise_key = random_key(state.seed, GATE)
        made = generate(program.gan, average, data, data.sources[:, 0], noise_key)
        record["dev_distance"] = distance = gate_distance(data.gate, made)
        # Where there is nothing to compare, all are alike: the last one is kept. So it is where no
        # distance is a number, or generators that have learnt nothing would be kept.
        distance = jnp.where(jnp.isfinite(distance), distance, FARTHEST)
        better = sound & (distance <= gan.best_distance)
    new = GanState(
        params=_choose(sound, params, gan.params),
        optimizers=_choose(sound, optimizers, gan.optimizers),
        average=_choose(sound, average, gan.average),
        best=_choose(better, average, gan.best),
        best_distance=jnp.where(better, distance, gan.best_distance),
        best_epoch=jnp.where(better, gan.epoch, gan.best_epoch),
        epoch=gan.epoch + 1,
        diverged=jnp.where(broke, gan.epoch, gan.diverged),
        broken=jnp.where(broke, _first_broken(records, gan_steps.TERMS), gan.broken),
    )
    return state.replace(gan=new), record


def look_up(table: Table, rows: Rows, made: Made | None = None) -> Conversations:
    """Looks the rows' features up.

    Args:
      table: N real utterances.
      rows: [B, L] rows.
      made: what takes the place of some of them, or None.

    Returns:
      The model's input.
    """
    used, index = rows.segment > 0, rows.index
    if made is not None:
        number = made.number[index]
        is_made = number >= 0
        index = jnp.where(is_made, made.source[number], index)
    features, present = {}, {}
    for modality, looked_up in table.look_up(index).items():
        present[modality] = table.present[modality][index] & used
        if made is not None:
            own = made.features[modality][number]
            looked_up = jnp.where(is_made[..., None], own, looked_up)
        features[modality] = jnp.where(present[modality][..., None], looked_up, 0.0)
    return Conversations(features, present, rows.segment, rows.speaker)


def predict(
    program: Program, variables: Any, table: Table, rows: Rows, parts: Parts = WHOLE
) -> jax.Array:
    """Probabilities [R, L, C] of packed rows, a batch of ``program.rows`` at a time.

    R has to be a multiple of ``program.rows``. Nothing is masked, dropped or sampled.
    """

    def of_batch(batch):
        conversations = look_up(table, parts.place(batch))
        masking = no_masking(batch.index.shape)
        logits, _ = program.model.apply(variables, conversations, masking, 0.0)
        return average_probability(logits)

    batches = jax.tree.map(lambda x: x.reshape(-1, program.rows, *x.shape[1:]), rows)
    probability = jax.lax.map(of_batch, batches)
    return probability.reshape(-1, *probability.shape[2:])


def predict_classes(
    program: Program, variables: Any, table: Table, rows: Rows, parts: Parts = WHOLE
) -> jax.Array:
    """[R, L] int, the classes with the highest of the probabilities of ``predict``."""
    return jnp.argmax(predict(program, variables, table, rows, parts), axis=-1)


def _draw_bootstrap(program: Program, seed: jax.Array, utterances: int) -> jax.Array:
    """[N, K] weights of each classifier, a member's own through all epochs.

    Bayesian bootstrap (Rubin 1981). A single classifier has no others to differ from: it would only
    lose half of its effective sample.
    """
    classifiers = program.model.settings.classifiers
    if classifiers == 1:
        return jnp.ones((utterances, 1))
    # Drawn flat, which compiles faster.
    drawn = jax.random.exponential(random_key(seed, BOOTSTRAP), (utterances * classifiers,))
    return drawn.reshape(utterances, classifiers)


class Plan(NamedTuple):
    """What the steps of one joint epoch have in common, drawn at its beginning.

    Attributes:
      order: [steps, B] int, the rows of each step.
      made: the generated utterances; None where nothing is generated.
      bootstrap: [N, K] weight of each utterance for each weak classifier.
    """

    order: jax.Array
    made: Made | None
    bootstrap: jax.Array


def joint_keys(state: MemberState) -> jax.Array:
    """The keys of the present joint epoch: of its order, of what is generated, of its steps."""
    key = jax.random.fold_in(random_key(state.seed, JOINT_STAGE), state.joint.epoch)
    return jax.random.split(key, 3)


def draw_order(program: Program, state: MemberState, data: Dataset) -> jax.Array:
    """[steps, B] int, the rows of each step of the present joint epoch."""
    rows = len(data.train.index)
    order = jax.random.permutation(joint_keys(state)[0], rows)
    return order.reshape(rows // program.rows, program.rows)


def plan_epoch(program: Program, state: MemberState, data: Dataset, hyper: Hyper) -> Plan:
    """Draws the order of a joint epoch and makes its generated utterances."""
    params = None if state.gan is None else state.gan.best
    made = make_epoch(program.gan, params, data, hyper, joint_keys(state)[1])
    order = draw_order(program, state, data)
    return Plan(order, made, _draw_bootstrap(program, state.seed, len(data.label)))


def first_carry(state: MemberState) -> tuple[Any, Any, Any]:
    """What the first step of a joint epoch starts from: variables, optimiser state, average."""
    return state.joint.variables, state.joint.optimizer, state.joint.average


def make_step(
    program: Program,
    state: MemberState,
    data: Dataset,
    hyper: Hyper,
    plan: Plan,
    parts: Parts = WHOLE,
) -> Callable[[Any, tuple[jax.Array, jax.Array]], tuple[Any, dict[str, jax.Array]]]:
    """The step of a joint epoch, as ``lax.scan`` takes it.

    Args:
      program: the static settings.
      state: the member's state at the beginning of the epoch.
      data: the packed corpus.
      hyper: numeric settings.
      plan: of the epoch.
      parts: in which the rows of a batch are computed.

    Returns:
      A function of (variables, optimiser state, average) and of (the step's rows [B] int, its
      number [] int) to the next such three, and the step's loss terms.
    """
    joint, step_key = state.joint, joint_keys(state)[2]
    batches = len(plan.order)
    total = hyper["train.epochs"] * batches
    counts = class_mass(data, hyper)
    objective = Objective(program.model, counts, total, hyper, program.frozen, parts)

    def step(carry, inputs):
        variables, optimizer, average = carry
        chosen, number = inputs
        batch_rows = jax.tree.map(lambda x: x[chosen], data.train)
        batch = Batch(
            look_up(data.table, batch_rows, plan.made),
            batch_rows.label,
            batch_rows.weight * label_weight(data, batch_rows.label, hyper),
            plan.bootstrap[batch_rows.index],
        )
        # Who is masked and what stands in is chosen from all rows; the model's parts come later.
        batch = parts.keep_whole(batch)
        done = (joint.epoch * batches + number).astype(jnp.float32)
        key = jax.random.fold_in(step_key, number)
        variables, optimizer, terms = joint_step(
            objective, variables, optimizer, batch, key, done / total
        )
        # The average forgets the first steps faster than its decay alone would.
        decay = jnp.minimum(hyper["optim.ema"], (1.0 + done) / (10.0 + done))
        average = jax.tree.map(
            lambda old, new: decay * old + (1 - decay) * new, average, variables["params"]
        )
        return (variables, optimizer, average), terms

    return step


def joint_epoch(
    program: Program, state: MemberState, data: Dataset, hyper: Hyper, parts: Parts = WHOLE
) -> tuple[MemberState, dict[str, jax.Array]]:
    """One epoch of the joint stage and its dev evaluation.

    A member that has stopped, or whose loss or parameters are no longer finite, keeps the state it
    had. A member whose GAN diverged is diverged from the start.

    Args:
      program: the static settings.
      state: the member's state.
      data: the packed corpus.
      hyper: numeric settings.
      parts: in which the rows of a batch are computed.

    Returns:
      The new state, and the record of the epoch: loss terms, ``dev_<metric>``, ``active``,
      and ``test_<metric>`` where test is looked at.
    """
    plan = plan_epoch(program, state, data, hyper)
    step = make_step(program, state, data, hyper, plan, parts)
    inputs = plan.order, jnp.arange(len(plan.order))
    carry, steps = jax.lax.scan(step, first_carry(state), inputs)
    averaged = averaged_variables(carry)
    predicted = {
        name: predict_classes(program, averaged, data.table, rows, parts)
        for name, rows in evaluated_rows(data).items()
    }
    return end_epoch(program, state, data, hyper, carry, steps, predicted)


def averaged_variables(carry: tuple[Any, Any, Any]) -> dict:
    """The variables that are evaluated, of a step's (variables, optimiser state, average)."""
    variables, _, average = carry
    return {**variables, "params": average}


def evaluated_rows(data: Dataset) -> dict[str, Rows]:
    """The rows that are looked at after every epoch: of dev, and of test where it is."""
    return {"dev": data.dev} | ({} if data.test is None else {"test": data.test})


def end_epoch(
    program: Program,
    state: MemberState,
    data: Dataset,
    hyper: Hyper,
    carry: tuple[Any, Any, Any],
    steps: Mapping[str, jax.Array],
    predicted: Mapping[str, jax.Array],
) -> tuple[MemberState, dict[str, jax.Array]]:
    """What a joint epoch leaves, when its steps are done and dev is predicted.

    Args:
      program: the static settings.
      state: the member's state at the beginning of the epoch.
      data: the packed corpus; its features are not read.
      hyper: numeric settings.
      carry: what the last step left.
      steps: term -> [steps].
      predicted: split -> [R, L] int, from ``predict_classes``.

    Returns: as of ``joint_epoch``.
    """
    joint = state.joint
    variables, optimizer, average = carry
    terms = jax.tree.map(jnp.mean, steps)
    found = {
        name: scores(confusion_matrix(rows.label, predicted[name], program.model.classes))
        for name, rows in evaluated_rows(data).items()
    }
    dev = found["dev"]
    score = dev[program.select]

    broken_gan = jnp.bool_(False) if state.gan is None else state.gan.diverged != NEVER
    sound = _finite((terms, average)) & ~broken_gan
    active = ~joint.stopped
    learned = active & sound
    better = learned & (score > joint.best_score)
    best_epoch = jnp.where(better, joint.epoch, joint.best_epoch)
    patient = (joint.epoch - best_epoch).astype(jnp.float32) < hyper["train.patience"]
    on_test, seen = joint.on_test, {}
    if "test" in found:
        test = found["test"]
        seen = {f"test_{name}": value for name, value in test.items()}
        higher = learned & (test["weighted_f1"] > on_test["weighted_f1"])
        on_test = {name: jnp.where(higher, test[name], old) for name, old in on_test.items()}
    new = JointState(
        variables=_choose(learned, variables, joint.variables),
        optimizer=_choose(learned, optimizer, joint.optimizer),
        average=_choose(learned, average, joint.average),
        best=_choose(better, average, joint.best),
        best_score=jnp.where(better, score, joint.best_score),
        best_epoch=best_epoch,
        on_test=on_test,
        epoch=joint.epoch + 1,
        stopped=joint.stopped | ~sound | ~patient,
        diverged=jnp.where(active & ~sound, joint.epoch, joint.diverged),
        broken=jnp.where(active & ~sound, _first_broken(steps, joint_steps.TERMS), joint.broken),
    )
    record = terms | {f"dev_{name}": value for name, value in dev.items()} | seen
    record |= {"active": active}
    return state.replace(joint=new), record
