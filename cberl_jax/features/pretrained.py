"""Models of transformers by name or folder, with one sentence where there is none.

Of weights that a folder lacks, transformers draws others at random and goes on.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from cberl_jax.errors import UserError
from cberl_jax.features.optional import load_library

# Weights that nothing but the training of an encoder reads.
_UNUSED = ("masked_spec_embed", "mask_token")
POOLER = "pooler."


@contextlib.contextmanager
def drawing_alike() -> Iterator[None]:
    """Within the block what is drawn for weights that are missing is the same every time."""
    torch = load_library("torch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def load_model(name: str, what: str) -> tuple[Any, list[str]]:
    """Loads a pretrained model, and tells which weights of it are drawn at random.

    Args:
      name: as of ``load_pretrained``.
      what: as of ``load_pretrained``.

    Returns:
      The model, for evaluation, and the names of the weights that its folder lacks, but for those
      that only a training reads.

    Raises:
      UserError: as of ``load_pretrained``.
    """
    kind = load_library("transformers").AutoModel
    model, told = load_pretrained(kind, name, what, output_loading_info=True)
    lacking = sorted(key for key in told["missing_keys"] if not key.endswith(_UNUSED))
    return model.eval(), lacking


def check_whole(name: str, what: str, lacking: list[str]) -> None:
    """Refuses an encoder of whose weights some would be drawn at random.

    Raises:
      UserError: naming one of them.
    """
    if lacking:
        raise UserError(
            f"{name}: lacks weights of {what}, such as {lacking[0]}, and random ones would take "
            "their place; name a model that has them"
        )


def load_pretrained(kind: Any, name: str, what: str, **options: Any) -> Any:
    """Loads a part of a pretrained model.

    Args:
      kind: one of the Auto classes of transformers.
      name: a local folder, or the name of a model that transformers then downloads.
      what: it is to be, for the message.
      **options: of ``from_pretrained``.

    Raises:
      UserError: there is no such model, or it is of another kind.
    """
    load_library("transformers").utils.logging.disable_progress_bar()
    try:
        return kind.from_pretrained(name, **options)
    # Damaged folders and unreachable hubs raise nearly anything.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise UserError(
            f"{name}: cannot be loaded as {what} ({reason}); name a folder or a model of "
            "transformers"
        ) from error
