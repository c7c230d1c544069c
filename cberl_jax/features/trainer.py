"""Tunes a text encoder: a linear layer over its features learns the labels together with it.

After each epoch it is asked for the emotions of dev, and the encoder of the best epoch is kept,
without the layer. No label of test is used, and of dev only for that choice. Draws depend on the
seed and the number of the step alone, so that a tuning that was stopped ends with the numbers of
one that was not.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from cberl_jax.errors import Interrupted, UserError
from cberl_jax.features.context import Inputs, by_length, embed
from cberl_jax.features.layers import FrozenLayers, freeze, group_parameters, training_batches
from cberl_jax.features.objective import Objective
from cberl_jax.features.tuning import Tuning
from cberl_jax.metrics import confusion_matrix, scores, select_score
from cberl_jax.runtime.files import explaining_failure, replacing, write_json
from cberl_jax.runtime.progress import spell_seconds
from cberl_jax.runtime.signals import Stopper
from cberl_jax.runtime.workdir import list_differences

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BATCH = 32
WEIGHT_DECAY = 0.01
WARM_UP = 0.1
LONGEST_GRADIENT = 1.0
# Between two checkpoints within an epoch, and between two lines of progress.
SAVE_SECONDS, TELL_SECONDS = 300.0, 30.0
# Of narrower encoders the products take less time than the conversion to bfloat16.
NARROW = 128
STOPPING = "stopping after this batch; once more stops at once, without a checkpoint"


class Task(NamedTuple):
    """What an encoder is tuned on.

    Attributes:
      inputs: what it reads of n utterances.
      label: [n] int.
      classes: how many there are.
      train: [m] int, the inputs that it learns from.
      dev: [m'] int, the inputs that it is judged by.
    """

    inputs: Inputs
    label: np.ndarray
    classes: int
    train: np.ndarray
    dev: np.ndarray


def claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Makes the folder of a tuning, or finds it with the same settings.

    Raises:
      UserError: it is of another tuning, or cannot be written.
    """
    file = folder / "tuning.json"
    if file.exists():
        try:
            there = json.loads(file.read_text())
        except ValueError as error:
            raise UserError(f"{file}: is damaged; delete {folder} and start again.") from error
        differences = list_differences(there, json.loads(json.dumps(identity)), ())
        if not differences:
            return
        if any(folder.glob("**/checkpoint.pt")) or any(folder.glob("fold*")):
            raise UserError(
                f"{folder}: holds the checkpoint of another tuning ({differences}); delete the "
                "folder, or name another one to --finetune."
            )
        # Nothing was learned yet: the settings may have been at fault.
        shutil.rmtree(folder)
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: holds files of something else; name another --finetune.")
    with explaining_failure(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(file, dict(identity))


def tune(
    encoder: "SentenceTransformer",
    task: Task,
    tuning: Tuning,
    folder: Path,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Tunes an encoder in place, or goes on with it.

    Args:
      encoder: as of ``load_encoder``, before any tuning.
      task: what it learns from.
      tuning: how.
      folder: for checkpoints, which is there; the caller removes it once the encoder is saved.
      say: is told the progress.

    Returns:
      ``precision``, ``epoch`` that was kept (from 1) and its ``dev_weighted_f1`` and
      ``dev_macro_f1``.

    Raises:
      UserError: the encoder has no such layers, or the folder cannot be written.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    if tuning.freeze_layers:
        freeze(encoder, tuning.freeze_layers)
    try:
        stopper = Stopper(lambda line: say(STOPPING))
        with stopper.listening():
            return _Trainer(encoder, task, tuning, folder, say).run(stopper)
    finally:
        encoder.requires_grad_(True)
        encoder.eval()


def rate_factor(step: int, steps: int) -> float:
    """What the learning rate is multiplied by in a step: a linear rise, then a linear fall."""
    warm = max(1, round(WARM_UP * steps))
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm))


class _Trainer:
    """One tuning; its state is what ``save`` writes."""

    def __init__(self, encoder, task: Task, tuning: Tuning, folder: Path, say):
        self.encoder, self.task, self.tuning, self.say = encoder, task, tuning, say
        self.file, self.best_file = folder / "checkpoint.pt", folder / "best.pt"
        torch.manual_seed(tuning.seed)
        counts = np.bincount(task.label[task.train], minlength=task.classes)
        width = encoder.get_embedding_dimension()
        self.objective = Objective(tuning.loss, width, counts).to(encoder.device)
        groups = group_parameters(encoder, self.objective, tuning.learning_rate, tuning.layer_decay)
        self.optimiser = torch.optim.AdamW(
            groups, lr=tuning.learning_rate, weight_decay=WEIGHT_DECAY
        )
        self.an_epoch = math.ceil(len(task.train) / BATCH)
        self.step = 0
        self.best: dict[str, Any] = {}
        self.without_gain = 0
        self.precision = tuning.precision
        there = self.file.exists()
        if there:
            self._restore()
        # Of the precision that was chosen: what is kept of frozen layers depends on it.
        self._embed = lambda which: embed(encoder, task.inputs, which)
        if self.precision == "auto":
            self.precision = choose_precision(encoder)
        say(f"text encoder: learns in {self.precision}")
        if tuning.freeze_layers:
            which = np.sort(np.concatenate([task.train, task.dev]))
            with self._autocast():
                kept = FrozenLayers(
                    encoder, task.inputs, tuning.freeze_layers, folder / "frozen.npy", which
                )
            self._embed = lambda which: kept.embed(encoder, which)
        if not there:
            self._save()

    def run(self, stopper: Stopper) -> dict[str, Any]:
        epochs, saved, told = self.tuning.epochs, time.monotonic(), time.monotonic()
        begun, first = told, self.step
        while self.step < epochs * self.an_epoch and self.without_gain < self.tuning.patience:
            epoch, done = divmod(self.step, self.an_epoch)
            random = np.random.default_rng([self.tuning.seed, epoch])
            length = self.task.inputs.length[self.task.train]
            for number, rows in enumerate(training_batches(length, BATCH, random)):
                if number < done:
                    continue
                loss = self._learn(self.task.train[rows])
                self.step += 1
                now = time.monotonic()
                if now - told > TELL_SECONDS:
                    told = now
                    left = epochs * self.an_epoch - self.step
                    left_s = spell_seconds((now - begun) / (self.step - first) * left)
                    self.say(
                        f"text encoder, epoch {epoch + 1}/{epochs}: batch {number + 1} of "
                        f"{self.an_epoch}, loss {float(loss):.3f}, {left_s} left"
                    )
                # The last batch is followed by the epoch's own checkpoint.
                ends = number + 1 == self.an_epoch
                if not ends and (stopper.received or now - saved > SAVE_SECONDS):
                    self._save(stopper)
                    saved = time.monotonic()
            self._judge(epoch)
            self._save(stopper)
            saved = time.monotonic()
        self._load(self.best_file)
        return {"precision": self.precision, **self.best}

    def _learn(self, which: np.ndarray) -> torch.Tensor:
        """One step; the loss."""
        factor = rate_factor(self.step, self.tuning.epochs * self.an_epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * factor
        torch.manual_seed(self.tuning.seed * 2**32 + self.step)
        self.encoder.train()
        label = torch.as_tensor(self.task.label[which], dtype=torch.long)
        with self._autocast():
            features = self._embed(which)
        loss = self.objective(features, label.to(features.device))
        self.optimiser.zero_grad()
        loss.backward()
        learning = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(learning, LONGEST_GRADIENT)
        if not torch.isfinite(norm):
            raise UserError(
                f"the tuning of the text encoder diverged in batch {self.step + 1}; lower "
                "--finetune_learning_rate, or take --precision=float32."
            )
        self.optimiser.step()
        return loss.detach()

    def _judge(self, epoch: int) -> None:
        """Scores dev, and keeps the encoder if it is the best so far."""
        found = _predict(self.encoder, self.objective.head, self._embed, self.task, self._autocast)
        label = self.task.label[self.task.dev]
        judged = {
            name: float(value)
            for name, value in scores(confusion_matrix(label, found, self.task.classes)).items()
        }
        score = select_score(judged, self.tuning.select)
        weighted, macro = judged["weighted_f1"], judged["macro_f1"]
        self.say(
            f"text encoder, epoch {epoch + 1}/{self.tuning.epochs}: weighted F1 {weighted:.3f}, "
            f"macro F1 {macro:.3f} on dev"
        )
        self.without_gain += 1
        if score > self.best.get("score", -1.0):
            self.without_gain = 0
            self.best = {
                "score": score,
                "epoch": epoch + 1,
                "dev_weighted_f1": weighted,
                "dev_macro_f1": macro,
            }
            with replacing(self.best_file) as file:
                torch.save(self.encoder.state_dict(), file)

    def _save(self, stopper: Stopper | None = None) -> None:
        """Writes a checkpoint; ends the tuning if a signal asked for it."""
        state = {
            "encoder": self.encoder.state_dict(),
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "best": self.best,
            "without_gain": self.without_gain,
            "precision": self.precision,
        }
        with stopper.writing() if stopper else nullcontext(), replacing(self.file) as file:
            torch.save(state, file)
        if stopper is not None and stopper.received:
            raise Interrupted(stopper.received)

    def _restore(self) -> None:
        state = self._load(self.file)
        self.objective.load_state_dict(state["objective"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.best = state["step"], state["best"]
        self.without_gain, self.precision = state["without_gain"], state["precision"]
        self.say(f"text encoder: going on after batch {self.step}")

    def _load(self, path: Path) -> dict[str, Any]:
        """Reads a file of this tuning, and the encoder's weights out of it."""
        try:
            # Tensors and plain values alone: nothing in the file is run.
            state = torch.load(path, map_location=self.encoder.device, weights_only=True)
            self.encoder.load_state_dict(state.get("encoder", state))
        except Exception as error:
            raise UserError(f"{path}: is damaged; delete {path.parent} and start again.") from error
        return state

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.encoder.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"
        )


def choose_precision(encoder: "SentenceTransformer") -> str:
    """The precision that is faster, by the machine and the encoder's width.

    It is not timed: on a busy machine a measurement would make numbers depend on chance.
    """
    if encoder.device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = getattr(torch.cpu, "get_capabilities", dict)()
        native = bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))
    wide = encoder.get_embedding_dimension() >= NARROW
    return "bfloat16" if native and wide else "float32"


def _predict(encoder, head, embedding, task: Task, autocast) -> np.ndarray:
    """[m'] int, the classes of dev."""
    encoder.eval()
    length = task.inputs.length[task.dev]
    found = np.zeros(len(task.dev), np.int64)
    with torch.no_grad():
        for own in by_length(length, np.argsort(-length, kind="stable")):
            with autocast():
                features = embedding(task.dev[own])
            found[own] = head(features.float()).argmax(-1).cpu().numpy()
    return found
