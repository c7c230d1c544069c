"""The precision of the matrix products of a program, forward and backward."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, primitives

DEFAULT, FLOAT32, BFLOAT16 = "default", "float32", "bfloat16"
PRECISIONS = (DEFAULT, FLOAT32, BFLOAT16)
# As jax calls them.
_OF_JAX = {FLOAT32: "highest", BFLOAT16: "BF16_BF16_F32"}
# Exponent and mantissa of bfloat16.
_BITS = (8, 7)


def with_precision(function: Callable, precision: str, platform: str) -> Callable:
    """Gives every matrix product of a function a precision, those of its gradients too.

    With bfloat16 the factors are rounded and the sums are of float32. A CPU has no such product:
    there the factors are rounded beforehand, which gives the scores of a device that has it, but
    takes longer than float32.

    Args:
      function: pure, of trees of arrays; it is traced under jit.
      precision: one of ``PRECISIONS``; ``default`` is what jax takes, by the device and by
        ``JAX_DEFAULT_MATMUL_PRECISION``.
      platform: that the program is for: ``cpu``, or another one.

    Returns:
      A function of the same arguments.
    """
    if precision == DEFAULT:
        return function
    if precision == BFLOAT16 and platform == "cpu":
        return _with_rounded_factors(function)

    @functools.wraps(function)
    def given(*arguments):
        with jax.default_matmul_precision(_OF_JAX[precision]):
            return function(*arguments)

    return given


def _with_rounded_factors(function: Callable) -> Callable:
    @functools.wraps(function)
    def given(*arguments):
        program, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = _evaluate(program, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return given


def _evaluate(program: ClosedJaxpr, values: Sequence[Any]) -> list[Any]:
    """Computes what a traced program computes, with the factors of its products rounded."""
    jaxpr = program.jaxpr
    known = dict(zip(jaxpr.constvars, program.consts, strict=True))
    known |= dict(zip(jaxpr.invars, values, strict=True))

    def read(variable):
        return variable.val if isinstance(variable, Literal) else known[variable]

    for equation in jaxpr.eqns:
        results = _compute(equation, [read(variable) for variable in equation.invars])
        known |= dict(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _compute(equation: Any, values: list[Any]) -> Sequence[Any]:
    primitive, params = equation.primitive, equation.params
    if primitive is primitives.dot_general_p:
        values = [_round(value) for value in values]
    inner = [name for name, own in params.items() if any(map(_has_product, _items(own)))]
    is_loop = primitive in (primitives.scan_p, primitives.while_p, primitives.cond_p)
    if "call_jaxpr" in params or (inner and not is_loop):
        # A function that is called once: its equations stand in for the call.
        own = params["call_jaxpr" if "call_jaxpr" in params else inner[0]]
        return _evaluate(own if isinstance(own, ClosedJaxpr) else ClosedJaxpr(own, ()), values)
    changed = {name: _rewrite(params[name]) for name in inner}
    results = primitive.bind(*values, **{**params, **changed})
    return results if primitive.multiple_results else [results]


def _round(value: jax.Array) -> jax.Array:
    return jax.lax.reduce_precision(value, *_BITS) if value.dtype == jnp.float32 else value


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple) else (value,)


def _has_product(own: Any) -> bool:
    """Whether a parameter of a primitive is a program with a matrix product."""
    jaxpr = own.jaxpr if isinstance(own, ClosedJaxpr) else own
    return isinstance(jaxpr, Jaxpr) and any(
        equation.primitive is primitives.dot_general_p
        or any(_has_product(each) for value in equation.params.values() for each in _items(value))
        for equation in jaxpr.eqns
    )


def _rewrite(own: Any) -> Any:
    """The program or programs of a loop or a choice, rewritten."""
    if isinstance(own, tuple):
        return tuple(_rewrite(each) for each in own)
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in own.jaxpr.invars]
    return jax.make_jaxpr(lambda *values: _evaluate(own, values))(*shapes)
