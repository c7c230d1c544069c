"""The points of a search: Optuna chooses them and keeps their scores; processes take them in turns.

A batch is some points that one process trains together; its trials hold its name. While a process
works on a batch it holds the lock of that name, which ends with the process. So the points of a
process that died are free at once, and the next process that asks gets them.
"""

import contextlib
import hashlib
import json
import math
import pathlib
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.config.grid import spell_point
from cberl_jax.config.settings import SETTINGS, Value
from cberl_jax.config.space import Range, Space, split_point
from cberl_jax.errors import UserError
from cberl_jax.features.optional import load_library
from cberl_jax.runtime.locks import take_lock

SAMPLERS = ("tpe", "random", "qmc", "cmaes")
JOURNAL = "search.journal"
LOCKS = "search_locks"
# Batches before TPE chooses static settings by what came of them.
FIRST_BATCHES = 5
# What the trials of a study hold besides their scores, and how names of what it holds itself begin.
_BATCH, _CORPUS = "batch", "corpus "


class Batch(NamedTuple):
    """Points that are trained together.

    Attributes:
      name: of their chunks.
      points: number of the trial -> its point, in the order in which they were asked for. They
        share their static settings.
    """

    name: str
    points: dict[int, dict[str, Value]]


class Told(NamedTuple):
    """A point with what came of it.

    Attributes:
      number: of its trial.
      point: its settings in the space.
      batch: that it was trained with.
      score: None where a member diverged.
      details: what was told besides.
    """

    number: int
    point: dict[str, Value]
    batch: str
    score: float | None
    details: dict[str, Any]


def name_study(space: Space, seeds: int) -> str:
    """The name of the study of a space: another space is another study in the same file."""
    text = json.dumps([space, seeds], sort_keys=True)
    return f"search-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class Sampling(NamedTuple):
    """How points are chosen.

    Attributes:
      sampler: one of ``SAMPLERS``.
      first: the point that is tried first; None for one that the sampler chooses.
      seed: of the sampler.
    """

    sampler: str
    first: Mapping[str, Value] | None = None
    seed: int = 0


class Trials:
    """The points of one study, which several processes may ask for."""

    def __init__(
        self,
        folder: pathlib.Path,
        space: Space,
        name: str,
        sampling: Sampling,
        storage: str | None = None,
    ):
        """Opens the study, or makes it.

        Args:
          folder: of the search.
          space: where points are looked for.
          name: of the study.
          sampling: how they are chosen.
          storage: a URL that Optuna takes; by default a file in the folder.

        Raises:
          UserError: Optuna is not installed, or cannot read the study.
        """
        self._optuna = load_library("optuna", "search")
        if sampling.sampler == "cmaes":
            load_library("cmaes", "search")
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        self._locks, self._sampling = folder / LOCKS, sampling
        self._distributions = {n: self._make_distribution(n, own) for n, own in space.items()}
        self._where = where = storage or str(folder / JOURNAL)
        try:
            self._study = self._optuna.create_study(
                storage=storage or self._open_journal(folder / JOURNAL),
                study_name=name,
                direction="maximize",
                load_if_exists=True,
            )
        except Exception as error:  # Of as many kinds as there are data bases.
            reason = (str(error).strip().splitlines() or [""])[0]
            raise UserError(
                f"{where}: Optuna cannot open this study ({type(error).__name__}: {reason})"
            ) from error

    def _open_journal(self, path: pathlib.Path) -> Any:
        storages = self._optuna.storages
        # Its lock is a symbolic link, which network file systems make at once or not at all.
        return storages.JournalStorage(storages.journal.JournalFileBackend(str(path)))

    def _make_distribution(self, name: str, own: Range | Sequence[Value]) -> Any:
        distributions = self._optuna.distributions
        if not isinstance(own, Range):
            return distributions.CategoricalDistribution(list(own))
        whole = isinstance(SETTINGS[name].default, int)
        kind = distributions.IntDistribution if whole else distributions.FloatDistribution
        return kind(own.low, own.high, log=own.log)

    @contextlib.contextmanager
    def taking(
        self, most: int, total: int | None, static: Mapping[str, Value] | None
    ) -> Iterator[Batch | None]:
        """Gives a batch to work on within the block: one whose process died, or a new one.

        Args:
          most: points in a new batch at most; 0 for none.
          total: points of the study at most; None for any number.
          static: the static settings of a new batch; None to have them drawn.
        """
        lock = None
        try:
            # One process asks at a time, and sees the points that the others are at work on.
            with take_lock(self._locks / "asking", wait=True):
                batch, lock = self._adopt()
                if batch is None:
                    batch, lock = self._ask(most, total, static)
            yield batch
        finally:
            if lock is not None:
                lock.close()

    def _adopt(self) -> tuple[Batch | None, Any]:
        """A batch that no process works on, with its lock."""
        for name in dict.fromkeys(t.user_attrs.get(_BATCH) for t in self._list("RUNNING")):
            if name is None:
                self._forget_cut_off()
                continue
            lock = take_lock(self._locks / name)
            if lock is None:
                continue
            # Its process may have ended it meanwhile.
            left = [t for t in self._list("RUNNING") if t.user_attrs.get(_BATCH) == name]
            if left:
                return Batch(name, {t.number: self._point(t) for t in left}), lock
            lock.close()
        return None, None

    def _forget_cut_off(self) -> None:
        """Ends the points of processes that died while they asked: they are asked for anew."""
        for trial in self._list("RUNNING"):
            if _BATCH not in trial.user_attrs:
                self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)

    def _ask(
        self, most: int, total: int | None, static: Mapping[str, Value] | None
    ) -> tuple[Batch | None, Any]:
        """A new batch with its lock."""
        there = self._list()
        # Those that were not whole, which count for nothing, have no batch.
        count = sum(_BATCH in trial.user_attrs for trial in there)
        count, before = most if total is None else min(most, total - count), count
        if count <= 0:
            return None, None
        name = f"search-{before:05d}-{uuid.uuid4().hex[:8]}"
        lock = take_lock(self._locks / name)
        others = sampler = self._create_sampler(self._sampling.seed + len(there))
        if not before and self._sampling.first is not None:
            static = None
            self._study.enqueue_trial(dict(self._sampling.first))
        elif static is None:
            static = self._choose_static(self._sampling.seed + len(there))
            others = self._create_others(static, sampler)
        points = {}
        for number in range(count):
            own = others if number % 2 else sampler
            self._study.sampler = self._fix(own, static or {})
            trial = self._study.ask(self._distributions)
            points[trial.number] = self._point(trial)
            if static is None:
                # The first point of all is given, and the others take its static settings.
                static, _ = split_point(points[trial.number])
            trial.set_user_attr(_BATCH, name)
        return Batch(name, points), lock

    def _create_others(self, static: Mapping[str, Value], sampler: Any) -> Any:
        """The sampler of every second point of a batch.

        TPE goes on where points of other static settings were good. New ones may need other rates
        and dropout, and would be judged too low by these points alone. So half of the points of
        their first batch are drawn at random.

        Args:
          static: the static settings of the batch.
          sampler: of the other points.
        """
        if self._sampling.sampler != "tpe" or any(s == static for s, _ in self._score_batches()):
            return sampler
        # TPE draws its own first points at random: these are to be others.
        seeds = np.random.SeedSequence([self._sampling.seed, len(self._list())])
        return self._optuna.samplers.RandomSampler(seed=int(seeds.generate_state(1)[0]))

    def _fix(self, sampler: Any, static: Mapping[str, Value]) -> Any:
        with self._quietly():
            return self._optuna.samplers.PartialFixedSampler(dict(static), sampler)

    @contextlib.contextmanager
    def _quietly(self) -> Iterator[None]:
        """Without the note that a part of Optuna may change one day."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            yield

    def _create_sampler(self, seed: int) -> Any:
        samplers = self._optuna.samplers
        random = samplers.RandomSampler(seed=seed)
        with self._quietly():
            if self._sampling.sampler == "random":
                return random
            if self._sampling.sampler == "qmc":
                # One sequence in all batches; what it cannot hold is drawn at random.
                return samplers.QMCSampler(
                    scramble=True,
                    seed=self._sampling.seed,
                    independent_sampler=random,
                    warn_independent_sampling=False,
                )
            if self._sampling.sampler == "cmaes":
                return samplers.CmaEsSampler(
                    seed=seed, independent_sampler=random, warn_independent_sampling=False
                )
            return samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed)

    def _score_batches(self) -> list[tuple[dict[str, Value], float]]:
        """The static settings of each batch, and the mean score of its best points.

        These are a quarter, and two at least: half of a batch may be drawn at random, as in
        ``_create_others``.

        Among single points those of a few batches would seem well explored in one place, and no
        other one would be tried. A point that was stopped counts by the score that it had reached:
        with halving one point of eight ends, which says too little of the static settings.
        """
        scores: dict[str, list[Told]] = {}
        for own in self.told():
            scores.setdefault(own.batch, []).append(own)
        batches = []
        for each in scores.values():
            reached = [own.details.get("reached", own.score) for own in each]
            ranked = sorted((score for score in reached if score is not None), reverse=True)
            if ranked:
                static, _ = split_point(each[0].point)
                batches.append((static, float(np.mean(ranked[: max(2, len(ranked) // 4)]))))
        return batches

    def find_best_static(self) -> dict[str, Value] | None:
        """The static settings of the best batch, for TPE; None where no batch has a score.

        Nor do the other samplers ask for any: theirs are drawn evenly, whatever came of them.
        """
        batches = self._score_batches()
        if self._sampling.sampler != "tpe" or not batches:
            return None
        return max(batches, key=lambda batch: batch[1])[0]

    def _choose_static(self, seed: int) -> dict[str, Value]:
        """The static settings of a new batch.

        A search has few batches for many combinations. So at first each value that no batch had is
        tried once, in place of the best batch's: a gain is kept at once. Then TPE chooses, in a
        study of its own in which a batch is one point. The other samplers draw evenly.
        """
        static, _ = split_point(self._distributions)
        samplers, create = self._optuna.samplers, self._optuna.trial.create_trial
        best = self.find_best_static()
        if best and (untried := self._list_untried(static)):
            name, value = untried[np.random.default_rng(seed).integers(len(untried))]
            return {**best, name: value}
        with self._quietly():
            sampler = samplers.RandomSampler(seed=seed)
            if self._sampling.sampler == "tpe":
                sampler = samplers.TPESampler(
                    multivariate=True, n_startup_trials=FIRST_BATCHES, seed=seed
                )
        batches = self._optuna.create_study(direction="maximize", sampler=sampler)
        for params, value in self._score_batches():
            batches.add_trial(create(params=params, distributions=static, value=value))
        return batches.ask(static).params

    def _list_untried(self, static: Mapping[str, Any]) -> list[tuple[str, Value]]:
        """Values of static settings that no batch has, of the settings with the fewest tried."""
        points = [self._point(trial) for trial in self._list() if _BATCH in trial.user_attrs]
        left = []
        for name, own in static.items():
            met = {point[name] for point in points}
            # Of a range its ends.
            choices = getattr(own, "choices", None) or (own.low, own.high)
            left += [(len(met), name, value) for value in choices if value not in met]
        fewest = min((count for count, *_ in left), default=0)
        return [(name, value) for count, name, value in left if count == fewest]

    def _list(self, state: str | None = None) -> list[Any]:
        states = None if state is None else [self._optuna.trial.TrialState[state]]
        return self._study.get_trials(deepcopy=False, states=states)

    def _point(self, trial: Any) -> dict[str, Value]:
        """Its settings in the order of the space."""
        return {name: trial.params[name] for name in self._distributions}

    def tell(self, number: int, score: float | None, details: Mapping[str, Any]) -> None:
        """Records what came of a point.

        Args:
          number: of its trial.
          score: None where a member diverged, which counts as worse than any score.
          details: to be kept with it; what JSON can hold.
        """
        self._note(number, details)
        state = self._optuna.trial.TrialState
        if score is None:
            self._study.tell(number, state=state.PRUNED)
        else:
            self._study.tell(number, score, state=state.COMPLETE)

    def stop(self, number: int, epoch: int, reached: float, details: Mapping[str, Any]) -> None:
        """Records that a point was stopped early, which counts as worse than any score.

        Args:
          number: of its trial.
          epoch: after which it was stopped.
          reached: its score there; nan where a member had diverged.
          details: as of ``tell``.
        """
        if not math.isfinite(reached):
            self.tell(number, None, details)
            return
        trial = self._note(number, {**details, "stopped": epoch, "reached": reached})
        # By it points that were stopped at the same epoch are told apart.
        self._study._storage.set_trial_intermediate_value(trial, epoch, reached)
        self._study.tell(number, state=self._optuna.trial.TrialState.PRUNED)

    def _note(self, number: int, details: Mapping[str, Any]) -> int:
        """Keeps details with a trial; returns its key in the storage."""
        trial = self._list()[number]._trial_id
        for name, value in details.items():
            # Trials of other processes have no method for it.
            self._study._storage.set_trial_user_attr(trial, name, value)
        return trial

    @property
    def corpora(self) -> list[dict[str, Value]]:
        """The settings of ``data`` that ``check_corpus`` was called with."""
        names = [name for name in self._study.user_attrs if name.startswith(_CORPUS)]
        return [json.loads(name.removeprefix(_CORPUS)) for name in names]

    def check_corpus(self, data: Mapping[str, Value], fingerprint: str) -> None:
        """Refuses points on another corpus: their scores would be compared with those on this one.

        Args:
          data: the settings of ``data`` of the points.
          fingerprint: of what they read by them; the first one is kept.

        Raises:
          UserError: another one is kept.
        """
        name = _CORPUS + json.dumps(data, sort_keys=True)
        known = self._study.user_attrs.get(name)
        if known is None:
            self._study.set_user_attr(name, fingerprint)
        elif known != fingerprint:
            raise UserError(
                f"{self._where}: points at {spell_point(data)} were trained on another corpus than "
                f"the present one; name a new workdir, or give the corpus as it was"
            )

    def end(self, batch: Batch) -> None:
        """Forgets the lock of a batch whose points are all told."""
        (self._locks / batch.name).unlink(missing_ok=True)

    def told(self) -> list[Told]:
        """All points that have been told, by number."""
        return [
            Told(
                trial.number,
                self._point(trial),
                trial.user_attrs[_BATCH],
                trial.value if trial.state.name == "COMPLETE" else None,
                {n: v for n, v in trial.user_attrs.items() if n != _BATCH},
            )
            for trial in self._list()
            if trial.state.is_finished() and _BATCH in trial.user_attrs
        ]

    def measure_importance(self, repeats: int = 20, seed: int = 0) -> dict[str, list[float]]:
        """How much of the variance of the scores each setting explains, by fANOVA.

        Args:
          repeats: of a bootstrap over points.
          seed: of the bootstrap.

        Returns:
          Setting -> its share in each repeat; empty of fewer than ten points, or where all scores
          are equal.

        Source: Hutter, Hoos and Leyton-Brown (2014), An Efficient Approach for Assessing
        Hyperparameter Importance.
        """
        trials = self._list("COMPLETE")
        if len(trials) < 10 or len({trial.value for trial in trials}) < 2:
            return {}
        random, done = np.random.default_rng(seed), 0
        shares: dict[str, list[float]] = {name: [] for name in self._distributions}
        while done < repeats:
            drawn = [trials[n] for n in random.integers(len(trials), size=len(trials))]
            if len({trial.value for trial in drawn}) < 2:
                # Of points that all score the same nothing can be said, and Optuna fails.
                continue
            done += 1
            study = self._optuna.create_study(direction="maximize")
            study.add_trials(drawn)
            evaluator = self._optuna.importance.FanovaImportanceEvaluator(n_trees=16, seed=seed)
            found = self._optuna.importance.get_param_importances(study, evaluator=evaluator)
            for name, own in shares.items():
                own.append(float(found.get(name, 0.0)))
        return shares
