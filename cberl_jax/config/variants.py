"""What is compared in an ablation: CBERL without each of its parts, and the usual remedies.

A variant is a name and the settings in which it differs from the config that it is compared under.
Those that differ in numeric settings alone share one compiled program (``grid.py``).
"""

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from cberl_jax.config.grid import Point, check_sweepable, own_settings, point_config
from cberl_jax.config.settings import Value, check_types
from cberl_jax.config.views import group_views, is_view
from cberl_jax.errors import UserError

# No class weights, no focusing, no adjustment: a cross entropy.
_PLAIN_LOSS = {"loss.class_balance": 0.0, "loss.gamma": 0.0, "loss.logit_adjustment": 0.0}
_PLAIN: Point = {"augment.method": "none", "mask.tau": 0.0, **_PLAIN_LOSS}
# The largest beta that there is: (1 - beta^n) / (1 - beta) is n to 3 per mille at 50,000.
_INVERSE = {"loss.class_balance": 0.9999999}
_EFFECTIVE = {"loss.class_balance": 0.999}
_FOCAL = {"loss.gamma": 2.0}
_ADJUSTED = {"loss.logit_adjustment": 1.0}
_MASKED = {"mask.tau": 0.5}


# augment.method -> what a table calls it.
_METHODS = {
    "gan": "GAN",
    "flow": "flow matching",
    "smote": "SMOTE",
    "repeat": "repetition",
    "none": "augmentation",
}


class Variant(NamedTuple):
    """One row of an ablation.

    Attributes:
      name: in the tables.
      settings: in which it differs from the config.
    """

    name: str
    settings: Point


class Preset(NamedTuple):
    """Variants to be compared with each other.

    Attributes:
      variants: their names are different.
      reference: the name of the one that the others are compared with.
    """

    variants: list[Variant]
    reference: str


def takes_view(variant: Variant) -> bool:
    """Whether a variant is the config with other views, and nothing else."""
    return set(variant.settings) == {"data.views"}


def list_parts(config: ConfigDict, features: Sequence[str]) -> Preset:
    """CBERL without each of its parts, without each view, and on every subset of the modalities.

    The three imbalance measures are the paper's: generated utterances, masked nodes, focal loss
    (with class weights, which are ours).
    """
    without_masks = {"model.reconstruction": False}
    variants = [
        Variant("full", {}),
        Variant(f"without {_METHODS[config.augment.method]}", {"augment.method": "none"}),
        Variant("without DJVAE (concatenation)", {"model.djvae": False}),
        Variant("without BiLSTM", {"model.bilstm": False}),
        Variant("without graph", {"model.graph": False, **without_masks}),
        Variant("without mask reconstruction", without_masks),
        _other_masking(config),
        Variant("one classifier", {"model.classifiers": 1, "model.subspace": 1.0}),
        Variant("gamma = 0", {"loss.gamma": 0.0}),
        Variant("no class weights", {"loss.class_balance": 0.0}),
        Variant("no imbalance measure", {**_PLAIN, **without_masks}),
    ]
    if config.model.residual and config.model.residual_turns:
        off = {"model.residual_turns": 0}
        variants.append(Variant("without turns around in the residual", off))
    groups = group_views(features)
    modalities = list(groups)
    for views in groups.values():
        for view in views if len(views) > 1 else ():
            others = ",".join(name for name in features if is_view(name) and name != view)
            variants.append(Variant(f"without {view}", {"data.views": others}))
    for size in range(len(modalities) - 1, 0, -1):
        for chosen in itertools.combinations(modalities, size):
            name = f"{' + '.join(chosen)} only"
            variants.append(Variant(name, {"data.modalities": ",".join(chosen)}))
    return Preset(variants, "full")


def _other_masking(config: ConfigDict) -> Variant:
    """Masking by class where the config masks uniformly, and uniformly where it masks by class."""
    if config.mask.tau:
        return Variant("uniform masking", {"mask.tau": 0.0})
    return Variant("class-aware masking", _MASKED)


def list_remedies() -> Preset:
    """Every usual remedy for imbalance in one harness, each in its published form, and pairs.

    All are put on the same network with a cross entropy, without label smoothing, and uniform
    masks. Whatever is generated or repeated is placed by one rule (``data/augmentation.py``: up to
    the config's ``augment.balance`` of the largest class, at most ``augment.max_ratio`` for each
    real utterance, which is less than the full balance that repetition and SMOTE are often used
    with) and weighs as much as a real utterance.

    - inverse frequency: class weights ~ 1 / n_c (King and Zeng, Logistic Regression in Rare Events
      Data, 2001, section 4).
    - effective number: class weights by Cui et al., CVPR 2019, equation 2, at beta = 0.999.
    - focal loss: Lin et al., ICCV 2017, equation 4, at their gamma = 2, without alpha.
    - repetition: random oversampling (Japkowicz and Stephen, The Class Imbalance Problem, 2002) in
      expectation: each utterance of a class weighs as much more as it would be repeated.
    - SMOTE: Chawla et al., JAIR 2002, between each minority utterance and one of its five nearest
      of its class, drawn anew every epoch. Not imbalanced-learn's: see ``find_neighbours``.
    - logit adjustment: Menon et al., ICLR 2021, equation 10, at tau = 1.
    - GAN: section 3.1 of the design.
    - flow matching: Lipman et al., ICLR 2023, class-conditional, out of noise.
    - masks by class: CBERL's sampling strategy in our form, p(c) ~ n_c^-0.5.
    """
    whole: dict[str, Value] = {"augment.weight": 1.0}
    repeat = whole | {"augment.method": "repeat"}
    smote = whole | {"augment.method": "smote"}
    gan = whole | {"augment.method": "gan"}
    flow = whole | {"augment.method": "flow"}
    measures: dict[str, Point] = {
        "none": {},
        "inverse frequency": _INVERSE,
        "effective number": _EFFECTIVE,
        "focal loss": _FOCAL,
        "logit adjustment": _ADJUSTED,
        "masks by class": _MASKED,
        "repetition": repeat,
        "SMOTE": smote,
        "GAN": gan,
        "flow matching": flow,
        "effective number + focal loss": _EFFECTIVE | _FOCAL,
        "repetition + effective number": repeat | _EFFECTIVE,
        "SMOTE + effective number": smote | _EFFECTIVE,
        "GAN + effective number": gan | _EFFECTIVE,
        "flow matching + effective number": flow | _EFFECTIVE,
        "GAN + focal loss": gan | _FOCAL,
        "GAN + logit adjustment": gan | _ADJUSTED,
        "GAN + masks by class + focal loss": gan | _MASKED | _FOCAL,
    }
    plain = {**_PLAIN, "loss.label_smoothing": 0.0}
    return Preset([Variant(n, {**plain, **own}) for n, own in measures.items()], "none")


def list_sizes() -> Preset:
    """The full model on ever smaller shares of the train dialogues: a learning curve."""
    shares = (1.0, 0.5, 0.25, 0.125, 0.0625)
    settings = {f"{share:g} of train": {"data.train_share": share} for share in shares}
    return Preset([Variant(n, s) for n, s in settings.items()], "1 of train")


PRESETS = ("parts", "remedies", "sizes")


def list_variants(preset: str, config: ConfigDict, features: Sequence[str]) -> Preset:
    """The variants of a preset.

    Args:
      preset: one of ``PRESETS``.
      config: what the variants start from.
      features: names of the corpus's, modalities and views.

    Raises:
      UserError: there is no such preset.
    """
    if preset not in PRESETS:
        raise UserError(f"there is no preset {preset!r}, only {', '.join(PRESETS)}")
    if preset == "parts":
        return list_parts(config, features)
    return list_remedies() if preset == "remedies" else list_sizes()


def read_variants(path: str | os.PathLike[str]) -> list[Variant]:
    """Reads a person's own variants: JSON, ``{"name": {"loss.gamma": 3}, ...}``.

    Raises:
      UserError: the file cannot be read, or is of another form, or a setting does not exist.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file, object_pairs_hook=_refuse_repeated)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f'{path}: has to be of the form {{"name": {{"loss.gamma": 3}}}}')
    try:
        return create_variants(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def create_variants(own: Mapping[str, Mapping[str, Value]]) -> list[Variant]:
    """A person's own variants.

    Args:
      own: name -> the settings in which the variant differs from the config.

    Raises:
      UserError: a setting does not exist, or is not one that members can differ in.
    """
    for name, settings in own.items():
        if not isinstance(settings, Mapping):
            raise UserError(f"variant {name!r}: its settings have to be names and values")
        try:
            for setting in settings:
                check_sweepable(setting)
            check_types(settings)
        except UserError as error:
            raise UserError(f"variant {name!r}: {error}") from error
    return [Variant(name, dict(settings)) for name, settings in own.items()]


def _refuse_repeated(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """A JSON object, none of whose names is there twice."""
    names = sorted(name for name, _ in pairs)
    for name, following in zip(names, names[1:]):
        if name == following:
            raise ValueError(f"{name!r} is there twice")
    return dict(pairs)


def choose_variants(
    preset: Preset, own: Sequence[Variant], names: Sequence[str] | None, config: ConfigDict
) -> Preset:
    """The variants to run: those named, a person's own, and always the reference.

    Args:
      preset: what there is to choose from.
      own: further ones.
      names: of the preset's; where None, all that differ from the config.
      config: what the variants start from.

    Returns:
      The variants, without settings that are the config's own, reference first.

    Raises:
      UserError: a name does not exist or is there twice, or settings that no training could follow.
    """
    known = [variant.name for variant in preset.variants]
    for name in names or ():
        if name not in known:
            raise UserError(f"there is no variant {name!r}, only {', '.join(known)}")
    for variant in own:
        if variant.name in known:
            raise UserError(f"variant {variant.name!r} is there already; give yours another name")
        known.append(variant.name)
    kept = []
    for variant in sorted(preset.variants, key=lambda v: v.name != preset.reference):
        normal = _normalise(variant, config)
        wanted = variant.name in names if names is not None else normal.settings
        if wanted or variant.name == preset.reference:
            kept.append(normal)
    return Preset([*kept, *(_normalise(v, config) for v in own)], preset.reference)


def _normalise(variant: Variant, config: ConfigDict) -> Variant:
    """Only with the settings that differ from the config's, each of its own type.

    So equal variants share members: 2 and 2.0 are one point.
    """
    own = own_settings(config, variant.settings)
    try:
        point_config(config, own)
    except UserError as error:
        raise UserError(f"variant {variant.name!r}: {error}") from error
    return Variant(variant.name, own)
