"""A finished run handed on: one file with the inference program and its weights.

The file is a serialised ``jax.export.Exported``: with jax alone it can be called, without this
package. A folder that this package reads is written by ``folder.py``, a file for people without jax
by ``onnx.py``.
"""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from cberl_jax.errors import UserError
from cberl_jax.models.cberl import Conversations
from cberl_jax.models.ensemble import average_probability
from cberl_jax.models.masking import no_masking
from cberl_jax.runtime.files import expand, replacing, write_json, write_text
from cberl_jax.serving.folder import read_card
from cberl_jax.serving.model import Model, load

PLATFORMS = ("cpu", "cuda", "tpu")
LENGTH = 64
ARGUMENTS = ("features", "present", "speaker", "turns")


def create_function(model: Model) -> Callable[..., dict[str, jax.Array]]:
    """The inference program of a model for one conversation, as a function of arrays alone.

    Args:
      model: the model.

    Returns:
      A function of ``features`` (modality, or view of one -> [T, d] float, as they were given to
      training), ``present`` (the same -> [T] bool), ``speaker`` ([T] int, equal numbers for equal
      speakers) and ``turns`` ([] int, how many of the T are used, from the first). It returns
      ``probability`` [T, C], mean over the members, and ``spread`` [T, C], their standard deviation
      (zero with one member).
    """

    def standardise(view: str, values: jax.Array, present: jax.Array) -> jax.Array:
        return jnp.where(present[:, None], model.standardiser.transform(view, values), 0.0)

    def of_conversation(
        features: Mapping[str, jax.Array],
        present: Mapping[str, jax.Array],
        speaker: jax.Array,
        turns: jax.Array,
    ) -> dict[str, jax.Array]:
        used = jnp.arange(len(speaker)) < turns
        there = {view: present[view] & used for view in model.widths}
        views = {view: standardise(view, features[view], there[view]) for view in model.widths}
        joined = model.standardiser.join(views, jnp.concatenate)
        conversations = Conversations(
            features={m: values[None] for m, values in joined.items()},
            present={m: own[None] for m, own in model.standardiser.presence(there).items()},
            segment=used.astype(jnp.int32)[None],
            speaker=speaker[None],
        )
        masking = no_masking((1, len(speaker)))

        def of_member(variables: Any) -> jax.Array:
            logits, _ = model.network.apply(variables, conversations, masking, 0.0)
            return average_probability(logits[0])

        members = jax.vmap(of_member)(jax.tree.map(jnp.asarray, model.variables))
        spread = jnp.std(members, axis=0, ddof=min(1, len(members) - 1))
        return {"probability": jnp.mean(members, axis=0), "spread": spread}

    return of_conversation


def list_arguments(model: Model, length: int) -> tuple[Any, ...]:
    """Shapes of the arguments of the inference program, as ``ARGUMENTS`` names them."""
    return (
        {m: jax.ShapeDtypeStruct((length, d), np.float32) for m, d in model.widths.items()},
        {m: jax.ShapeDtypeStruct((length,), np.bool_) for m in model.widths},
        jax.ShapeDtypeStruct((length,), np.int32),
        jax.ShapeDtypeStruct((), np.int32),
    )


def export_model(
    model: Model, length: int = LENGTH, platforms: Sequence[str] = PLATFORMS
) -> bytearray:
    """Serialises a model's inference program with its weights.

    Args:
      model: the model.
      length: T, turns of the longest conversation that the program takes.
      platforms: that it is to run on.

    Returns:
      What ``jax.export.deserialize`` reads.
    """
    arguments = list_arguments(model, length)
    with _without_places():
        program = jax.jit(create_function(model))
        return jax.export.export(program, platforms=platforms)(*arguments).serialize()


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Within the block programs do not hold where on this disk their source lines are."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def check_target(output: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a file to write or replace.

    Raises:
      UserError: it is none, or lies in no folder.
    """
    target = pathlib.Path(expand(output, "the output"))
    if target.is_dir() or not target.parent.is_dir():
        raise UserError(f"{output}: has to be a file in a folder that is there")
    return target


def describe(model: Model, length: int) -> dict[str, Any]:
    """What the inputs and outputs of an exported program mean."""
    return {
        "classes": list(model.classes),
        "widths": model.widths,
        "length": length,
        "members": len(model.seeds),
        "causal": model.network.settings.causal,
    }


def export_run(
    workdir: str | os.PathLike[str], output: str | os.PathLike[str], length: int = LENGTH
) -> dict[str, Any]:
    """Writes a finished run's inference program, and beside it what its numbers mean and its card.

    Args:
      workdir: folder of the run, or an exported one.
      output: the file to write or replace; the others are called ``<output>.json`` and, a copy of
        the run's model card, ``<output>.md``.
      length: turns of the longest conversation that the program takes.

    Returns:
      The contents of the second file: ``classes``, ``widths``, ``length``, ``members``,
      ``causal``, ``platforms``.

    Raises:
      UserError: there is no finished run, or the place to write to is at fault.
    """
    target = check_target(output)
    model, card = load(workdir), read_card(workdir)
    model.check_without_folds("be exported")
    program = export_model(model, length)
    meaning = {**describe(model, length), "platforms": list(PLATFORMS)}
    with replacing(target) as file:
        file.write(program)
    write_json(target.with_name(target.name + ".json"), meaning)
    # It may have been deleted: what people read is theirs.
    if card is not None:
        write_text(target.with_name(target.name + ".md"), card)
    return meaning
