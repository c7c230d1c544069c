"""Matrix products of a given precision: forward, backward, in loops, choices and calls."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import BARE, QUIET, tiny_config, tiny_corpus

from cberl_jax.data.readers.npz import write_npz
from cberl_jax.errors import UserError
from cberl_jax.models.precision import BFLOAT16, DEFAULT, FLOAT32, with_precision
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.studies.train import train_and_evaluate

RNG = np.random.default_rng(0)
A, B = (RNG.normal(size=shape).astype(np.float32) for shape in ((5, 7), (7, 3)))


def rounded(values):
    """To bfloat16 and back, by another way than the one that is tested."""
    return np.asarray(values, jnp.bfloat16).astype(np.float32)


def loss(a, b):
    return jnp.sum(jnp.sin(a @ b))


def on_cpu(function):
    return jax.jit(with_precision(function, BFLOAT16, "cpu"))


def test_factors_are_rounded_and_sums_are_not():
    wanted = rounded(A) @ rounded(B)
    np.testing.assert_allclose(on_cpu(jnp.matmul)(A, B), wanted, rtol=1e-6)
    assert np.abs(wanted - A @ B).max() > 1e-3
    # Sums of bfloat16 would not hold the 1.
    ones = np.ones((1, 1025), np.float32)
    assert on_cpu(jnp.matmul)(ones, ones.T) == 1025.0
    # Nothing else is rounded.
    np.testing.assert_array_equal(on_cpu(lambda a: a + a)(A), A + A)


def test_the_products_of_a_gradient_are_rounded_too():
    found = on_cpu(jax.grad(loss, argnums=(0, 1)))(A, B)
    slope = np.cos(rounded(A) @ rounded(B))
    np.testing.assert_allclose(found[0], rounded(slope) @ rounded(B).T, rtol=1e-5)
    np.testing.assert_allclose(found[1], rounded(A).T @ rounded(slope), rtol=1e-5)


@jax.custom_vjp
def squared(a):
    return a * a


squared.defvjp(lambda a: (a * a, a), lambda a, slope: (2 * a * slope,))


def looped(a, b):
    step = jax.checkpoint(lambda c: jnp.tanh(c @ b @ b.T))
    a, _ = jax.lax.scan(lambda c, _: (step(c), None), a, length=3)
    a = jax.lax.fori_loop(0, 2, lambda _, c: c @ b @ b.T, squared(a))
    return jax.lax.cond(a.sum() > 0, lambda c: jax.jit(jnp.matmul)(c, b), lambda c: -c @ b, a)


def test_loops_choices_and_calls_are_reached():
    b = B / 4
    c = A
    for _ in range(3):
        c = np.tanh(rounded(rounded(c) @ rounded(b)) @ rounded(b).T)
    c = c * c
    for _ in range(2):
        c = rounded(rounded(c) @ rounded(b)) @ rounded(b).T
    wanted = rounded(c) @ rounded(b) * (1 if c.sum() > 0 else -1)
    np.testing.assert_allclose(on_cpu(looped)(A, b), wanted, rtol=1e-4, atol=1e-6)
    many = jax.jit(jax.vmap(with_precision(looped, BFLOAT16, "cpu"), in_axes=(0, None)))
    np.testing.assert_allclose(many(np.stack([A, -A]), b)[0], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("precision", "platform", "stated"),
    [
        (FLOAT32, "tpu", "precision=(Precision.HIGHEST, Precision.HIGHEST)"),
        (BFLOAT16, "gpu", "precision=BF16_BF16_F32"),
        (BFLOAT16, "tpu", "precision=BF16_BF16_F32"),
    ],
)
def test_an_accelerator_is_asked_for_it_with_every_product(precision, platform, stated):
    plain = str(jax.make_jaxpr(with_precision(jax.grad(loss), DEFAULT, platform))(A, B))
    assert plain.count("dot_general[") == 2 and " precision=" not in plain
    text = str(jax.make_jaxpr(with_precision(jax.grad(loss), precision, platform))(A, B))
    assert text.count("dot_general[") == text.count(stated) == 2


@pytest.mark.slow
def test_a_training_takes_the_precision_and_says_so(tmp_path):
    write_npz(tiny_corpus(), tmp_path / "corpus.npz")
    config = tiny_config(**BARE | {"data.path": str(tmp_path / "corpus.npz"), "train.epochs": 2})
    train = functools.partial(train_and_evaluate, seeds=[0], progress=QUIET, pictures=False)
    totals = {}
    for precision in ("default", "bfloat16"):
        config.train.precision = precision
        train(config, str(tmp_path / precision))
        lines = Workdir(tmp_path / precision, create=False).read_metrics()
        totals[precision] = np.array([line["total"] for line in lines])
    gap = np.abs(totals["bfloat16"] / totals["default"] - 1)
    assert (gap > 1e-6).all() and (gap < 0.03).all()
    config.train.precision = "half"
    with pytest.raises(UserError, match="train.precision = 'half': has to be one of default"):
        train(config, str(tmp_path / "half"))
