"""A model as an ONNX file, for people without Python: ONNX Runtime in C++, on phones, in browsers.

jax2onnx translates the program of one conversation, and ONNX's ``Scan`` runs it over any number of
them. jax2onnx replaces flax's layers by operators of its own that cannot be vmapped over members,
so it is handed a jaxpr, in which there are no layers.
"""

import json
import os
from typing import Any

import jax
import jax.extend.core

from cberl_jax.features.optional import find_library
from cberl_jax.runtime.files import replacing, write_json, write_text
from cberl_jax.serving.export import (
    ARGUMENTS,
    check_target,
    create_function,
    describe,
    list_arguments,
)
from cberl_jax.serving.folder import read_card
from cberl_jax.serving.model import Model, load

OPSET = 21
CONVERSATIONS = "conversations"
OUTPUT = "probability"
HOW = (
    "it asks for another orbax-checkpoint than this package, so use an environment of its own, in "
    "which --workdir is a folder that --format=folder wrote here; docs/prediction.md says how"
)


def export_onnx(
    workdir: str | os.PathLike[str], output: str | os.PathLike[str], length: int
) -> dict[str, Any]:
    """Writes a model as an ONNX file, and beside it what its numbers mean and its card.

    Args:
      workdir: folder of a run, or an exported one.
      output: the file to write or replace; the others are called ``<output>.json`` and
        ``<output>.md``.
      length: T, turns of the longest conversation that the program takes.

    Returns:
      The contents of the second file, which the ONNX file has as metadata, too.

    Raises:
      UserError: jax2onnx is not installed, there is no model, or the place to write to is at fault.
    """
    target = check_target(output)
    for library in ("jax2onnx", "onnx"):
        find_library(library, HOW)
    model, card = load(workdir), read_card(workdir)
    model.check_without_folds("be exported")
    meaning = describe(model, length)
    program = create_onnx(model, length)
    with replacing(target) as file:
        file.write(program.SerializeToString())
    write_json(target.with_name(target.name + ".json"), meaning)
    if card is not None:
        write_text(target.with_name(target.name + ".md"), card)
    return meaning


def create_onnx(model: Model, length: int) -> Any:
    """A model's inference program as ONNX.

    Args:
      model: the model.
      length: T.

    Returns:
      An ``onnx.ModelProto``. Its inputs are ``features.<modality or view>`` [B, T, d] float, as
      they were given to training, ``present.<the same>`` [B, T] bool, ``speaker`` [B, T] int32 and
      ``turns`` [B] int32, how many of the T are used, from the first; its output is
      ``probability`` [B, T, C], the mean over the members. B is free.
    """
    helper = find_library("onnx", HOW).helper
    leaves, tree = jax.tree_util.tree_flatten_with_path(list_arguments(model, length))
    names = [_name(path) for path, _ in leaves]
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for _, leaf in leaves]
    function = create_function(model)

    def of_conversation(*arrays: jax.Array) -> jax.Array:
        return function(*jax.tree.unflatten(tree, arrays))["probability"]

    # Within the loop names must not be those outside.
    program = find_library("jax2onnx", HOW).to_onnx(
        jax.extend.core.jaxpr_as_fun(jax.make_jaxpr(of_conversation)(*shapes)),
        shapes,
        model_name="conversation",
        opset=OPSET,
        input_names=[f"one.{name}" for name in names],
        output_names=[f"one.{OUTPUT}"],
    )
    loop = helper.make_node(
        "Scan", names, [OUTPUT], body=program.graph, num_scan_inputs=len(names), name=CONVERSATIONS
    )

    def outside(name: str, inside: Any) -> Any:
        kind = inside.type.tensor_type
        shape = [d.dim_value for d in kind.shape.dim]
        return helper.make_tensor_value_info(name, kind.elem_type, [CONVERSATIONS, *shape])

    graph = helper.make_graph(
        [loop],
        "cberl",
        [outside(name, inside) for name, inside in zip(names, program.graph.input)],
        [outside(OUTPUT, program.graph.output[0])],
    )
    whole = helper.make_model(
        graph,
        opset_imports=program.opset_import,
        functions=program.functions,
        ir_version=program.ir_version,
        producer_name="cberl-jax",
    )
    meaning = {name: json.dumps(value) for name, value in describe(model, length).items()}
    helper.set_model_props(whole, meaning)
    return whole


def _name(path: Any) -> str:
    """The name of an input, of its place among the arguments of a program."""
    number, *modality = path
    return ".".join([ARGUMENTS[number.idx], *(str(key.key) for key in modality)])
