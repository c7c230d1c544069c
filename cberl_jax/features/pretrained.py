"""Models of transformers by name or folder, with one sentence where there is none."""

from typing import Any

from cberl_jax.errors import UserError
from cberl_jax.features.optional import load_library


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
