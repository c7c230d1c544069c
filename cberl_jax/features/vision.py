"""Pictures by an encoder of images or videos of transformers: CLIP, DINOv2, ResNet, VideoMAE..."""

from collections.abc import Sequence

import numpy as np

from cberl_jax.errors import UserError
from cberl_jax.features.optional import load_library
from cberl_jax.features.pretrained import POOLER, check_whole, load_model, load_pretrained

# Frames of an utterance at most: those of a longer one lie further apart.
MOST_FRAMES = 64
BATCH = 16


class VisualEncoder:
    """An encoder of frames, or of several together, whose outputs are summed up over time.

    Attributes:
      width: of a row: the mean over the frames, then, for encoders of single frames, their
        standard deviation.
      frames: how many a video encoder takes; None for an encoder of single frames.
    """

    def __init__(self, name: str):
        """Loads an encoder.

        Args:
          name: a local folder, or the name of a model that transformers then downloads.

        Raises:
          UserError: there is no such encoder, it takes no pictures, or it lacks weights.
        """
        transformers, self._torch = load_library("transformers"), load_library("torch")
        model, lacking = load_model(name, "a visual encoder")
        # Without the backend it would look for torchvision, and warn.
        self._prepare = load_pretrained(
            transformers.AutoImageProcessor, name, "a visual encoder", backend="pil"
        )
        # CLIP and its kind have an encoder of texts, too.
        self._model = getattr(model, "vision_model", model)
        part = "" if self._model is model else "vision_model."
        lacking = [key.removeprefix(part) for key in lacking if key.startswith(part)]
        check_whole(name, "a visual encoder", [k for k in lacking if not k.startswith(POOLER)])
        # Models that were tuned to classify pictures often come without a pooler.
        self._pools = not lacking
        if hasattr(self._model.config, "mask_ratio"):
            # ViT-MAE hides patches, other ones at each call, unless it is told not to.
            self._model.config.mask_ratio = 0.0
        self.frames = getattr(self._model.config, "num_frames", None)
        config = self._model.config
        # Convolutional networks (ResNet, ConvNeXt) name a width per stage.
        widths = getattr(config, "hidden_sizes", None) or [getattr(config, "hidden_size", None)]
        if widths[-1] is None:
            raise UserError(f"{name}: its settings do not say how wide its outputs are")
        self.width = widths[-1] * (1 if self.frames else 2)

    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray | None:
        """Sums an utterance's frames up.

        Args:
          frames: n times [height, width, 3] uint8, RGB, whose sizes may differ.

        Returns:
          [width] float32; None without a frame.
        """
        if not len(frames):
            return None
        if self.frames:
            # As many as it takes, evenly spaced; of fewer some are there twice.
            places = np.linspace(0, len(frames) - 1, self.frames).round().astype(int)
            return self._encode([frames[place] for place in places])[0]
        starts = range(0, len(frames), BATCH)
        parts = [self._encode(list(frames[start : start + BATCH])) for start in starts]
        rows = np.concatenate(parts)
        return np.concatenate([rows.mean(axis=0), rows.std(axis=0)]).astype(np.float32)

    def _encode(self, frames: list[np.ndarray]) -> np.ndarray:
        """[n, hidden] of n frames, or [1, hidden] of a video."""
        pixels = self._prepare(frames, return_tensors="pt")["pixel_values"]
        with self._torch.inference_mode():
            found = self._model(pixel_values=pixels)
        pooled = getattr(found, "pooler_output", None) if self._pools else None
        if pooled is None:
            # Without an output for the whole, the mean of all patches [n, patches, hidden], or of
            # all places [n, hidden, height, width].
            hidden = found.last_hidden_state
            pooled = hidden.mean(dim=1) if hidden.ndim == 3 else hidden.mean(dim=(2, 3))
        return pooled.flatten(1).float().numpy()
