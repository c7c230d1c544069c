"""One optimiser step of the joint model: how its losses are weighed (section 3.6).

Total = L_focal + lambda_mask L_SCE + lambda_vae L_DJVAE.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cberl_jax.losses import (
    class_balanced_weights,
    focal_loss,
    free_bits,
    gaussian_kl,
    gaussian_reconstruction,
    log_prior,
    scaled_cosine_error,
    weighted_mean,
)
from cberl_jax.models.cberl import CBERL, PARTS, Conversations
from cberl_jax.models.djvae import LatentState
from cberl_jax.models.gan import join
from cberl_jax.models.masking import Masking, class_mask_probability, draw_masking, no_masking
from cberl_jax.models.parts import WHOLE, Parts

Hyper = Mapping[str, jax.Array]
# The losses in a step's record, parts before their sum; a part that is switched off is not there.
TERMS = ("focal", "masked", "reconstruction", "kl", "align", "total")


class Batch(NamedTuple):
    """Packed rows with what the losses need.

    Attributes:
      conversations: the model's input.
      label: [B, L] int, -1 = none.
      weight: [B, L] float, weight of each utterance in all losses; 0 for context and padding.
      bootstrap: [B, L, K] float, its further weight for each weak classifier.
    """

    conversations: Conversations
    label: jax.Array
    weight: jax.Array
    bootstrap: jax.Array


class Objective(NamedTuple):
    """What all steps of a training have in common.

    Attributes:
      model: the joint model.
      counts: [C] train utterances per class; a generated one counts what it weighs.
      steps: optimiser steps of the whole training.
      hyper: numeric settings.
      frozen: parts of the model that keep their parameters.
      parts: in which the rows of a batch are computed.
    """

    model: CBERL
    counts: jax.Array
    steps: jax.Array | float
    hyper: Hyper
    frozen: tuple[str, ...] = ()
    parts: Parts = WHOLE


def joint_optimizer(
    hyper: Hyper, steps: jax.Array | float, frozen: tuple[str, ...] = ()
) -> optax.GradientTransformation:
    """AdamW with clipping, linear warm-up and cosine decay to zero over ``steps`` steps.

    Args:
      hyper: numeric settings.
      steps: of the whole training.
      frozen: parts of the model (``PARTS``) that keep their parameters; their gradients do not
        count in the clipping.
    """

    def learning_rate(step):
        step = jnp.asarray(step, jnp.float32)
        progress = (step + 1) / steps
        warm = jnp.minimum(1.0, progress / jnp.maximum(hyper["optim.warmup"], 1e-9))
        return hyper["optim.learning_rate"] * warm * 0.5 * (1 + jnp.cos(jnp.pi * step / steps))

    def decays(params):
        # By name too: the biases of vmapped and batched layers are matrices.
        return jax.tree.map_with_path(
            lambda path, p: p.ndim > 1 and "bias" not in jax.tree_util.keystr(path), params
        )

    # One flat vector in place of a hundred leaves: a fifth of the program less to compile.
    direction = optax.chain(optax.clip_by_global_norm(hyper["optim.clip"]), optax.scale_by_adam())
    adam = optax.chain(
        optax.flatten(direction),
        optax.add_decayed_weights(hyper["optim.weight_decay"], mask=decays),
        optax.scale_by_learning_rate(learning_rate),
    )
    if not frozen:
        return adam
    modules = {module for part in frozen for module in PARTS[part]}

    def is_frozen(params):
        return jax.tree.map_with_path(lambda path, _: path[0].key in modules, params)

    zero = optax.masked(optax.set_to_zero(), is_frozen)
    # The second time for the decay of the weights.
    return optax.chain(zero, adam, zero)


def djvae_loss(
    latent: LatentState,
    conversations: Conversations,
    weight: jax.Array,
    warm: jax.Array,
    hyper: Hyper,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of the autoencoder, in nats per feature so that lambda_vae means the same everywhere.

    Each modality's error is a mean over the utterances that have it. With all modalities there, no
    free bits and beta = 1 it is the negative evidence lower bound.

    Args:
      latent: the autoencoder's distributions.
      conversations: its input before masking, the target.
      weight: [B, L] weight of each utterance.
      warm: [] share of beta in force.
      hyper: numeric settings.

    Returns:
      [] loss, and its terms.
    """
    widths = {m: x.shape[-1] for m, x in conversations.features.items()}
    features = sum(widths.values())
    errors, alignment = 0.0, 0.0
    for modality, target in conversations.features.items():
        there = weight * conversations.present[modality].astype(weight.dtype)
        error = gaussian_reconstruction(latent.reconstruction[modality], target)
        errors += weighted_mean(error, there)
        expert = latent.experts[modality]
        gap = jnp.sum(gaussian_kl(*latent.joint, *expert), axis=-1)
        alignment += weighted_mean(gap, there)
    divergence = free_bits(gaussian_kl(*latent.joint), weight, minimum=hyper["loss.free_bits"])
    terms = {
        "reconstruction": errors / features,
        "kl": divergence / features,
        "align": alignment / features,
    }
    loss = (
        terms["reconstruction"]
        + warm * hyper["loss.beta"] * terms["kl"]
        + hyper["loss.align"] * terms["align"]
    )
    return loss, terms


def joint_loss(
    objective: Objective,
    variables: dict,
    batch: Batch,
    masking: Masking,
    keys: dict[str, jax.Array],
    warm: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The total loss of a batch.

    Args:
      objective: the model and what its losses weigh.
      variables: the model's ``params`` and ``constants``.
      batch: the rows.
      masking: the masked nodes.
      keys: random keys of the streams ``dropout`` and ``latent``.
      warm: [] share of beta in force.

    Returns:
      [] loss, and its terms by name.
    """
    conversations, counts, hyper = batch.conversations, objective.counts, objective.hyper
    logits, intermediates = objective.model.apply(
        variables,
        conversations,
        masking,
        hyper["optim.dropout"],
        hyper["optim.input_dropout"],
        objective.parts,
        rngs=keys,
    )
    focal = focal_loss(
        logits + hyper["loss.logit_adjustment"] * log_prior(counts),
        jnp.broadcast_to(batch.label[..., None], logits.shape[:-1]),
        gamma=hyper["loss.gamma"],
        class_weights=class_balanced_weights(counts, beta=hyper["loss.class_balance"]),
        label_smoothing=hyper["loss.label_smoothing"],
        where=(batch.label >= 0)[..., None],
    )
    shown = batch.weight * jnp.where(masking.masked, hyper["mask.classify"], 1.0)
    # Every weak classifier has a mean of its own, on its own bootstrap.
    each = jax.vmap(weighted_mean, in_axes=(-1, -1))(focal, shown[..., None] * batch.bootstrap)
    terms = {"focal": jnp.mean(each)}
    total = terms["focal"]

    if intermediates.rebuilt is not None:
        # A node without any modality has nothing to be rebuilt.
        present = jnp.any(jnp.stack(list(conversations.present.values())), axis=0)
        to_rebuild = masking.masked & present
        error = scaled_cosine_error(
            join(intermediates.rebuilt, conversations.present),
            join(conversations.features, conversations.present),
            alpha=hyper["mask.alpha"],
            where=to_rebuild,
        )
        terms["masked"] = weighted_mean(error, to_rebuild.astype(batch.weight.dtype) * batch.weight)
        total += hyper["loss.mask"] * terms["masked"]
    if intermediates.latent is not None:
        weight = jnp.where(masking.masked, 0.0, batch.weight)
        loss, parts = djvae_loss(intermediates.latent, conversations, weight, warm, hyper)
        terms |= parts
        total += hyper["loss.vae"] * loss
    return total, {"total": total, **terms}


def joint_step(
    objective: Objective,
    variables: dict,
    optimizer_state: optax.OptState,
    batch: Batch,
    key: jax.Array,
    progress: jax.Array,
) -> tuple[dict, optax.OptState, dict[str, jax.Array]]:
    """One step of the joint model.

    Args:
      objective: the model and what its losses weigh.
      variables: the model's ``params`` and ``constants``.
      optimizer_state: of ``joint_optimizer``.
      batch: the rows.
      key: random key of this step.
      progress: [] share of the training that is done.

    Returns:
      New variables, new optimiser state, the loss terms.
    """
    model, counts, steps, hyper, frozen, parts = objective
    mask_key, dropout_key, latent_key = jax.random.split(key, 3)
    masking = no_masking(batch.label.shape)
    if model.settings.reconstruction:
        masking = draw_masking(
            mask_key,
            batch.label,
            batch.conversations.segment > 0,
            class_mask_probability(counts, rate=hyper["mask.rate"], tau=hyper["mask.tau"]),
            rate=hyper["mask.rate"],
            swap=hyper["mask.swap"],
        )
        masking = parts.keep_whole(masking)
    warm = jnp.minimum(1.0, progress / jnp.maximum(hyper["loss.kl_warmup"], 1e-9))
    keys = {"dropout": dropout_key, "latent": latent_key}

    def loss_of(params):
        return joint_loss(objective, {**variables, "params": params}, batch, masking, keys, warm)

    (_, terms), gradient = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
    update, optimizer_state = joint_optimizer(hyper, steps, frozen).update(
        gradient, optimizer_state, variables["params"]
    )
    params = optax.apply_updates(variables["params"], update)
    return {**variables, "params": params}, optimizer_state, terms
