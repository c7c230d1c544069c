"""Generated utterances under the law that a simulated corpus was drawn from (section 2).

On a simulated corpus nothing has to be estimated: the density of every class is known, so is the
best possible decision.
"""

from collections.abc import Mapping

import numpy as np

from cberl_jax.data.bayes import context_free_posterior
from cberl_jax.data.simulate import SIMULATED, create_process, log_likelihood
from cberl_jax.data.standardize import Standardiser
from cberl_jax.evaluation.generated_quality import complete
from cberl_jax.training.gan_step import Utterances


def true_densities(
    groups: Mapping[str, Utterances], label: int, source: str, standardiser: Standardiser
) -> dict[str, dict[str, float]] | None:
    """What the law says of utterances that are to express a class.

    Args:
      groups: name -> standardised utterances; of these the ones with all modalities are measured,
        since each modality adds to a density.
      label: the class.
      source: of the corpus.
      standardiser: its train statistics.

    Returns:
      Name -> ``log_density``, the mean exact log density under the class, in nats, and ``bayes``,
      the share that the exact Bayes rule for single utterances assigns to it. None for a corpus
      that is not simulated, where features were reduced to components, or where a group is empty.
    """
    whole = {name: complete(own) for name, own in groups.items()}
    known = source.startswith(SIMULATED) and not standardiser.axes
    if not known or not all(len(own.label) for own in whole.values()):
        return None
    process, found = create_process(), {}
    for name, own in whole.items():
        raw = {
            m: np.asarray(x, np.float64) * standardiser.scale[m] + standardiser.mean[m]
            for m, x in own.features.items()
        }
        evidence = log_likelihood(process, raw, own.present)
        decision = context_free_posterior(process, evidence).argmax(axis=1)
        found[name] = {
            "log_density": float(evidence[:, label].mean()),
            "bayes": float(np.mean(decision == label)),
        }
    return found
