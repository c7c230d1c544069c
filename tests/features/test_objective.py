"""The losses of the tuning, in torch: against those in jax, and against numbers worked by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cberl_jax.features.tuning import Loss
from cberl_jax.losses import class_balanced_weights, focal_loss

torch = pytest.importorskip("torch", reason="needs torch (extra features)")
objective = pytest.importorskip("cberl_jax.features.objective")
COUNTS = np.array([400, 30, 2])


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
def test_the_focal_loss_is_the_one_in_jax(gamma):
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype("f4") * 4
    logits[5] = [100, -100, 0]
    labels = np.array([0, 1, 2, 0, 1, 1])
    weights = class_balanced_weights(COUNTS, beta=0.99)

    def mean(x):
        return focal_loss(x, labels, gamma=gamma, class_weights=weights).mean()

    expected, slope = jax.value_and_grad(mean)(jnp.asarray(logits))
    given = torch.tensor(logits, requires_grad=True)
    own = torch.from_numpy(np.array(weights))
    loss = objective.focal_loss(given, torch.tensor(labels), gamma=gamma, class_weights=own).mean()
    loss.backward()
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-5)
    np.testing.assert_allclose(given.grad, slope, atol=1e-6)


def test_the_contrastive_term_by_hand():
    # Cosines of 1 within a direction and 0 between the two; the temperature is 1.
    features = torch.tensor([[2.0, 0], [0, 1.0], [3.0, 0]], requires_grad=True)
    labels, prototypes = torch.tensor([0, 1, 0]), torch.tensor([[1.0, 0], [0, 5.0]])
    known = torch.tensor([True, True])
    found = objective.prototypical_contrastive(features, labels, prototypes, known, 1.0)
    e = math.e
    # Positives: the third utterance and the prototype. All: these, the second, its prototype.
    first = -math.log((e + e) / 2 / (2 * e + 2))
    second = -math.log(e / (e + 3))
    np.testing.assert_allclose(found.detach(), [first, second, first], rtol=1e-6)
    # Without its prototype the second is alone: nothing draws it anywhere.
    known = torch.tensor([True, False])
    found = objective.prototypical_contrastive(features, labels, prototypes, known, 1.0)
    np.testing.assert_allclose(found.detach()[:2], [-math.log(e / (2 * e + 1)), 0], rtol=1e-6)
    found.sum().backward()
    assert torch.isfinite(features.grad).all()


def test_an_objective_weighs_classes_and_remembers_utterances():
    torch.manual_seed(0)
    features, labels = torch.randn(4, 5), torch.tensor([0, 1, 2, 2])
    plain = objective.Objective(Loss(), 5, COUNTS)
    entropy = torch.nn.functional.cross_entropy(plain.head(features), labels)
    torch.testing.assert_close(plain(features, labels), entropy)
    contrastive = objective.Objective(Loss(contrastive=0.5), 5, COUNTS)
    contrastive.load_state_dict(plain.state_dict(), strict=False)
    first = contrastive(features, labels) - entropy
    # Of the first batch only the two of one class have a positive; then all have a prototype.
    assert contrastive.seen.tolist() == [1, 1, 2]
    torch.testing.assert_close(contrastive.queue[2, 1], features[3])
    assert contrastive(features, labels) - entropy > first > 0
    weighted = objective.Objective(Loss(class_balance=0.999), 5, COUNTS)
    np.testing.assert_allclose(weighted.weights, class_balanced_weights(COUNTS, beta=0.999))
