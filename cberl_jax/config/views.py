"""Names of features: a modality such as ``text``, or a view of one such as ``text.minilm``.

A view is one encoder's features of a modality. The modality is what stands before the dot; the
model sees it as one, its views side by side.
"""

import re
from collections.abc import Iterable

# They are named in settings, joined by commas, and in checkpoints.
MODALITY_NAME = re.compile(r"[\w-]{1,64}")
FEATURE_NAME = re.compile(r"[\w-]{1,64}(\.[\w-]{1,64})?")
NAMING = "use up to 64 letters, digits, _ and -, for a view modality.view, as in text.minilm"


def modality_of(name: str) -> str:
    """The modality that features of a name belong to."""
    return name.partition(".")[0]


def is_view(name: str) -> bool:
    """Whether features of a name are one view of several that a modality may have."""
    return "." in name


def group_views(names: Iterable[str]) -> dict[str, list[str]]:
    """Modality -> names of its features, sorted; modalities in order of first appearance.

    Sorted, since checkpoints and files do not keep an order.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(modality_of(name), []).append(name)
    return {modality: sorted(own) for modality, own in groups.items()}


def find_unclear(names: Iterable[str]) -> tuple[str, str] | None:
    """A modality that has a name of its own beside a view of it, and that view; None if none."""
    for modality, own in group_views(names).items():
        if len(own) > 1 and modality in own:
            return modality, next(name for name in own if name != modality)
    return None


def list_names(text: str) -> list[str]:
    """The names of a setting that joins them by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def views_left_out(name: str, chosen: str) -> bool:
    """Whether the setting ``data.views`` leaves features out.

    Args:
      name: of the features.
      chosen: the setting; empty for all. It chooses among the views of the modalities that it
        names; other modalities stay whole.
    """
    named = list_names(chosen)
    others = is_view(name) and name not in named
    return others and modality_of(name) in map(modality_of, named)
