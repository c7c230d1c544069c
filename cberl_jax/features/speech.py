"""Sound by a speech encoder of transformers: wav2vec 2.0, HuBERT, WavLM, Whisper and others."""

import functools
import math
from collections.abc import Callable

import numpy as np

from cberl_jax.errors import UserError
from cberl_jax.features.media import RATE
from cberl_jax.features.optional import load_library
from cberl_jax.features.pretrained import check_whole, load_model, load_pretrained

# Whisper takes 30 s at once; in the others attention costs the square of the length.
LONGEST = 30.0
MEAN = "mean"
# They cut longer sounds off and fill shorter ones up, and classify sounds of any kind.
_OF_FIXED_LENGTH = ("audio-spectrogram-transformer", "clap")


class SpeechEncoder:
    """A speech encoder whose layers are summed up over time.

    Attributes:
      width: of a row: the mean over the frames, then their standard deviation.
    """

    def __init__(self, name: str, layer: str = "-1"):
        """Loads an encoder.

        Args:
          name: a local folder, or the name of a model that transformers then downloads.
          layer: number of the hidden layer, 0 for what goes into the first and -1 for the last; or
            ``mean`` of all.

        Raises:
          UserError: there is no such encoder or layer, it takes no sound, or it lacks weights.
        """
        transformers, self._torch = load_library("transformers"), load_library("torch")
        self._model, lacking = load_model(name, "an audio encoder")
        self._prepare = load_pretrained(transformers.AutoFeatureExtractor, name, "an audio encoder")
        if getattr(self._prepare, "sampling_rate", RATE) != RATE:
            raise UserError(
                f"{name}: takes {self._prepare.sampling_rate} samples a second; encoders of "
                f"{RATE} are supported"
            )
        if self._model.config.model_type in _OF_FIXED_LENGTH:
            raise UserError(
                f"{name}: {self._model.config.model_type} takes pieces of one fixed length; name "
                "an encoder of speech of any length, such as wav2vec 2.0, HuBERT, WavLM or Whisper"
            )
        self._encoder = self._model.get_encoder() if _is_whisper(self._model) else self._model
        part = "encoder." if _is_whisper(self._model) else ""
        check_whole(name, "an audio encoder", [key for key in lacking if key.startswith(part)])
        hidden = self._encoder.config.hidden_size
        self.width = 2 * hidden
        layers = self._encoder.config.num_hidden_layers + 1
        self._pick = _pick_layer(name, layer, layers)

    def __call__(self, samples: np.ndarray) -> np.ndarray | None:
        """Sums an utterance's sound up.

        Args:
          samples: [n] float32, ``RATE`` a second; what is beyond ``LONGEST`` seconds is left out.

        Returns:
          [width] float32; None where it is too short for a frame.
        """
        samples = samples[: int(LONGEST * RATE)]
        whisper = _is_whisper(self._model)
        if not whisper and self._frames(len(samples)) < 1:
            return None
        if not len(samples):
            return None
        inputs = self._prepare(samples, sampling_rate=RATE, return_tensors="pt")
        with self._torch.inference_mode():
            found = self._encoder(**_first_input(inputs), output_hidden_states=True)
        frames = self._pick(self._torch.stack(found.hidden_states))[0]
        if whisper:
            # Whisper fills half a minute up with silence; a frame stands for two hops.
            stride = 2 * self._prepare.hop_length
            frames = frames[: max(1, math.ceil(len(samples) / stride))]
        return _sum_up(frames.float().numpy())

    def _frames(self, samples: int) -> int:
        """How many frames the convolutions make of so many samples."""
        config = self._model.config
        for kernel, stride in zip(
            getattr(config, "conv_kernel", ()), getattr(config, "conv_stride", ())
        ):
            samples = (samples - kernel) // stride + 1
        return samples


def _is_whisper(model) -> bool:
    return model.config.model_type == "whisper"


def _first_input(inputs) -> dict:
    """The sound alone: without padding a mask says nothing."""
    name = next(key for key in ("input_values", "input_features") if key in inputs)
    return {name: inputs[name]}


def _pick_layer(name: str, layer: str, layers: int) -> Callable:
    if layer == MEAN:
        return lambda hidden: hidden.mean(dim=0)
    try:
        number = int(layer)
        if not -layers <= number < layers:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--audio_layer={layer}: {name} has layers 0 to {layers - 1}, -1 for the last; or mean"
        ) from None
    return functools.partial(lambda number, hidden: hidden[number], number)


def _sum_up(frames: np.ndarray) -> np.ndarray:
    """Mean and standard deviation over time of frames [T, d]: [2 d]."""
    return np.concatenate([frames.mean(axis=0), frames.std(axis=0)]).astype(np.float32)
