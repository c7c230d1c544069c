"""Epochs whose rows come from the host, in place of those of ``Fleet.stages``.

Before a program runs, the utterances that it will look up are drawn by the same calls that it draws
them by, gathered on the host and sent. A GAN epoch looks few up and is one program. A joint epoch
is cut into blocks of steps: the rows of the next block are sent while the present one is computed.
The steps are those of ``epoch.py``, so that all numbers are the same.

Not here: folds, of which each has features that are standardised otherwise.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cberl_jax.data.dataset import Dataset, own_table
from cberl_jax.models.parts import Parts
from cberl_jax.models.precision import with_precision
from cberl_jax.runtime.compiled import shapes_of
from cberl_jax.training.epoch import (
    Hyper,
    MemberState,
    Plan,
    Program,
    averaged_variables,
    draw_order,
    end_epoch,
    evaluated_rows,
    first_carry,
    gan_epoch,
    gan_keys,
    joint_keys,
    make_step,
    plan_epoch,
    predict_classes,
)
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.gan_step import draw_indices
from cberl_jax.training.generation import draw_looked_up
from cberl_jax.training.streaming import (
    Sent,
    count_batches,
    count_bytes,
    cut_rows,
    stream,
    stream_rows,
    with_part,
)

Epoch = Callable[[Any, Any, Any], tuple[Any, dict[str, jax.Array]]]


def draw_gan(program: Program, state: MemberState, data: Dataset, hyper: Hyper) -> jax.Array:
    """[n] int, the utterances that the present GAN epoch looks up."""

    def of_step(key):
        # The first key of a step is that of its batch (``gan_step.gan_learn``).
        return jnp.stack(draw_indices(jax.random.split(key)[0], data, program.gan_batch))

    drawn = jax.vmap(of_step)(gan_keys(program, state)).reshape(-1)
    return jnp.concatenate([drawn, data.sources[:, 0]]) if data.gate else drawn


def run_gan(program: Program, state: MemberState, data: Dataset, inputs: tuple[Hyper, Sent]):
    """One GAN epoch on utterances that were sent; returns as ``gan_epoch``."""
    hyper, sent = inputs
    return gan_epoch(program, state, with_part(data, sent), hyper)


def draw_joint(
    program: Program, state: MemberState, data: Dataset, hyper: Hyper
) -> tuple[jax.Array, jax.Array]:
    """The order of the present joint epoch, and [m] int, what its plan looks up."""
    looked_up = jnp.zeros(0, jnp.int32)
    if len(data.sources):
        looked_up = draw_looked_up(data, joint_keys(state)[1])
    return draw_order(program, state, data), looked_up


def begin_joint(
    program: Program, state: MemberState, data: Dataset, inputs: tuple[Hyper, Sent]
) -> tuple[Plan, Any]:
    """The plan of a joint epoch, and the carry that its first block starts from."""
    hyper, sent = inputs
    plan = plan_epoch(program, state, with_part(data, sent), hyper)
    # Copies: the steps give the memory of what they start from to what they leave.
    return plan, jax.tree.map(jnp.copy, first_carry(state))


def list_terms(
    program: Program, state: MemberState, data: Dataset, inputs: tuple[Hyper, Plan, Sent]
) -> dict[str, jax.Array]:
    """Term -> [steps], all zero; they are filled in by the steps."""
    hyper, plan, sent = inputs
    step = make_step(program, state, with_part(data, sent), hyper, plan)
    _, terms = step(first_carry(state), (plan.order[0], jnp.int32(0)))
    return {name: jnp.zeros(len(plan.order), value.dtype) for name, value in terms.items()}


def run_block(program: Program, done: Any, shared: tuple, inputs: tuple, parts: Parts):
    """Takes the steps of a block, from the first to before the last.

    Args:
      program: the static settings.
      done: what the steps before have left: the carry, and their terms.
      shared: the data, and the first and the last step.
      inputs: the state at the beginning of the epoch, settings, plan, the utterances of the steps.
      parts: in which the rows of a batch are computed.

    Returns:
      What the steps leave, and their number, which is there when they are computed.
    """
    (data, first, last), (state, hyper, plan, sent) = shared, inputs
    step = make_step(program, state, with_part(data, sent), hyper, plan, parts)

    def take(number, done):
        carry, terms = done
        carry, found = step(carry, (plan.order[number], number))
        return carry, {name: terms[name].at[number].set(value) for name, value in found.items()}

    return jax.lax.fori_loop(first, last, take, done), last - first


def predict_block(program: Program, done: Any, shared: tuple, _: Hyper, parts: Parts) -> jax.Array:
    """[r, L] int, the classes of rows, given the table that they point into, after all steps."""
    return predict_classes(program, averaged_variables(done[0]), *shared, parts)


def end_joint(program: Program, state: MemberState, data: Dataset, inputs: tuple):
    """The end of a joint epoch: settings and what its blocks left; returns as ``joint_epoch``."""
    hyper, (carry, terms), predicted = inputs
    return end_epoch(program, state, data, hyper, carry, terms, predicted)


class _Joint(NamedTuple):
    """The compiled programs of a joint epoch, and the terms that it starts with: zero."""

    draw: Callable
    begin: Callable
    run: Callable
    predict: Mapping[str, Callable]
    end: Callable
    terms: Any


class Streamed:
    """The epochs of members whose corpus stays on the host.

    Attributes:
      data: the corpus without its features, to be replicated.
      size: bytes of the features.
    """

    def __init__(self, fleet: Fleet, data: Dataset, members: int, budget: int):
        """Args: the devices, the corpus, S, bytes of features that may lie on a device."""
        self._fleet, self._members, self._budget = fleet, members, budget
        self._table = data.table
        self.data = data._replace(table=data.table._replace(features={}))
        self.size = count_bytes(data.table)
        turns = fleet.program.rows * data.train.index.shape[1]
        # Of a step, for all members on a device.
        step = turns * fleet.members_per_device * self.size // len(data.label)
        self._steps = len(data.train.index) // fleet.program.rows
        self._in_block = count_batches(step, self._steps, budget)
        self._block_turns, self._block_bytes = self._in_block * turns, self._in_block * step

    def memory(self, stage: str) -> tuple[int, int]:
        """As of ``Fleet.memory``, with what lies beside the programs of the joint stage.

        That is the block that is sent while the present one is computed, and the state before the
        epoch, which a member that stops goes back to.
        """
        each, total = self._fleet.memory(stage)
        beside = self._beside if stage == "joint" else 0
        return each + beside // self._fleet.members_per_device, total + beside

    def compile(self, stage: str, state: MemberState, shared: Dataset, hyper: Hyper) -> Epoch:
        """Compiles the programs of a stage; runs nothing.

        Args:
          stage: ``gan`` or ``joint``.
          state: the members' states, from ``shard``.
          shared: ``data``, from ``replicate``.
          hyper: the members' settings, from ``shard``.

        Returns:
          One epoch, a function of such three, as ``Fleet.compile`` gives it.
        """
        if stage == "gan":
            return self._compile_gan(state, shared, hyper)
        return functools.partial(self._run_joint, self._compile_joint(state, shared, hyper))

    def _compile(self, name: str, function: Callable, *arguments: Any, keep: bool = True):
        fleet = self._fleet
        bound = functools.partial(function, fleet.program)
        exact = with_precision(bound, fleet.program.precision, fleet.devices[0].platform)
        return fleet.compile(name, exact, arguments, keep=keep)

    def _shapes(self, function: Callable, state: MemberState, inputs: Any) -> Any:
        """Of what a function makes of one member, given shapes from ``describe_one``."""
        bound = functools.partial(function, self._fleet.program)
        return shapes_of(bound, state, self.data, inputs)

    def _shapes_sent(self, count: int) -> Sent:
        """Of ``count`` utterances that are sent to one member."""
        features = {
            m: jax.ShapeDtypeStruct((count, values.shape[1]), values.dtype)
            for m, values in self._table.features.items()
        }
        return Sent(jax.ShapeDtypeStruct((count,), np.int32), features)

    def _send(self, index: np.ndarray) -> Sent:
        """Starts to copy the utterances [S, n] of each member to its device."""
        features = {m: np.take(values, index, axis=0) for m, values in self._table.features.items()}
        return self._fleet.shard(Sent(index, features))

    def _compile_gan(self, state: MemberState, shared: Dataset, hyper: Hyper) -> Epoch:
        fleet = self._fleet
        draw = self._compile("draw gan", draw_gan, state, shared, hyper)
        drawn = self._shapes(draw_gan, *fleet.describe_one((state, hyper)))
        sent = fleet.describe(self._shapes_sent(len(drawn)))
        run = self._compile("gan", run_gan, state, shared, (hyper, sent), keep=False)

        def epoch(state, shared, hyper):
            index = fleet.gather(draw(state, shared, hyper), self._members)
            return run(state, shared, (hyper, self._send(index)))

        return epoch

    def _compile_joint(self, state: MemberState, shared: Dataset, hyper: Hyper) -> _Joint:
        fleet = self._fleet
        one, settings = fleet.describe_one((state, hyper))
        looked_up = self._shapes_sent(len(self._shapes(draw_joint, one, settings)[1]))
        state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))
        self._beside = self._block_bytes + state_bytes * fleet.members_per_device
        plan, carry = self._shapes(begin_joint, one, (settings, looked_up))
        rows = self._shapes_sent(self._block_turns)
        terms = self._shapes(list_terms, one, (settings, plan, rows))
        looked_up, plan, rows, done = fleet.describe((looked_up, plan, rows, (carry, terms)))

        nothing = {m: np.zeros((self._members, *t.shape), t.dtype) for m, t in terms.items()}
        span = fleet.replicate((np.int32(0), np.int32(0)))
        run = functools.partial(run_block, parts=fleet.parts)
        inputs = state, hyper, plan, rows
        predict, predicted = {}, {}
        for name, all_rows in evaluated_rows(self.data).items():
            look = functools.partial(predict_block, parts=fleet.parts)
            first = cut_rows(self._table, all_rows, fleet.program.rows, self._budget)[0]
            own = fleet.replicate(own_table(self._table, first))
            predict[name] = self._compile(f"predict {name}", look, done, own, hyper)
            predicted[name] = jax.ShapeDtypeStruct(all_rows.index.shape, np.int32)
        ended = hyper, done, fleet.describe(predicted)
        return _Joint(
            self._compile("draw joint", draw_joint, state, shared, hyper),
            self._compile("begin joint", begin_joint, state, shared, (hyper, looked_up)),
            self._compile("joint", run, done, (shared, *span), inputs, keep=False),
            predict,
            self._compile("end joint", end_joint, state, shared, ended, keep=False),
            nothing,
        )

    def _run_joint(self, programs: _Joint, state: MemberState, shared: Dataset, hyper: Hyper):
        """One joint epoch."""
        fleet = self._fleet
        order, looked_up = fleet.gather(programs.draw(state, shared, hyper), self._members)
        plan, carry = programs.begin(state, shared, (hyper, self._send(looked_up)))
        done = carry, fleet.shard(programs.terms)

        def send(start):
            # The last block is filled up with its last step, which is taken once.
            steps = np.arange(start, start + self._in_block).clip(max=self._steps - 1)
            index = self.data.train.index[order[:, steps]].reshape(len(order), -1)
            span = np.int32(start), np.int32(steps[-1] + 1)
            return fleet.replicate(span), self._send(index)

        def run(block):
            nonlocal done
            span, sent = block
            done, steps = programs.run(done, (shared, *span), (state, hyper, plan, sent))
            return steps

        for _ in stream(range(0, self._steps, self._in_block), send, run):
            pass
        predicted = {
            name: self._predict(programs.predict[name], done, rows, hyper)
            for name, rows in evaluated_rows(self.data).items()
        }
        return programs.end(state, shared, (hyper, done, fleet.shard(predicted)))

    def _predict(self, program: Callable, done: Any, rows: Any, hyper: Hyper) -> np.ndarray:
        """[S, R, L] int, the classes of rows after the last step."""
        return stream_rows(
            self._fleet,
            self._table,
            rows,
            self._budget,
            lambda own: program(done, own, hyper),
            self._members,
        )
