"""``MODEL_CARD.md``: what a run's model is, what it was measured on, and what it is not for.

It opens with the block of YAML that model hubs read (Hugging Face's "Model Cards", specification
``modelcard.md``). The sections are those of model cards (Mitchell et al. 2019, "Model Cards for
Model Reporting").
Everything in it is filled from the run; only what it must not be used for is the same in all.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml
from ml_collections import ConfigDict

from cberl_jax.data.corpus import SPLITS, UNLABELLED, Corpus
from cberl_jax.data.provenance import list_looking_ahead
from cberl_jax.data.readers.known import CORPORA
from cberl_jax.data.simulate import SIMULATED
from cberl_jax.metrics import FEWEST_SEEDS, METRICS
from cberl_jax.models.cberl import describe_sight
from cberl_jax.reports.html import plain
from cberl_jax.reports.run import (
    class_table,
    count_sound,
    list_meanings,
    result_table,
    scored_split,
)
from cberl_jax.reports.tables import AVERAGE, MEMBERS, TITLES, format_table
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.training.prepare import Splits

# Of a class, below which an utterance more or less moves its scores by over a point.
FEW_UTTERANCES = 100
# What people have to say themselves; hubs show the line as it is until then.
LICENCE = "# license: to be filled in by you; the licence of the training data counts, too"
TAGS = ("emotion-recognition", "emotion-recognition-in-conversations", "cberl", "jax")
TASK = {
    "type": "emotion-recognition-in-conversations",
    "name": "Emotion recognition in conversations",
}
# As hubs call them. The corpora that settings can name are all in English.
_HUB_METRICS = {"weighted_f1": "f1", "macro_f1": "f1"}
_LANGUAGES = dict.fromkeys(CORPORA, "en")
NOT_FOR = """\
- Decisions about people: hiring, work, schooling, credit, insurance, policing, borders, health. The
  European Union's AI Act (Regulation 2024/1689, Article 5) forbids systems that infer emotions at
  work and in education, but for medical or safety reasons.
- Telling what somebody feels. The labels are what annotators took from what was said and shown.
- People who do not know of it, or have not agreed.
- Another language, culture, recording or feature extractor than that of the training data, unless
  it is measured there first."""


def format_model_card(config: ConfigDict, splits: Splits, report: Mapping[str, Any]) -> str:
    """The model card of a finished run, as Markdown.

    Args:
      config: the run's settings.
      splits: of the corpus that it was trained on.
      report: the run's, with at least one sound member.

    Returns:
      The card.
    """
    corpus = splits.corpora[0]
    source = plain(corpus.name)
    sections = {
        f"Model card: CBERL on {source}": _describe_model(config, corpus, report),
        "Use": _describe_use(config, corpus),
        "Not for": NOT_FOR,
        "Data": _describe_data(splits, report["provenance"]["fingerprint"]),
        "Results": _describe_results(report),
        "Limits": "\n".join(f"- {limit}" for limit in _list_limits(config, corpus, report)),
    }
    title, *others = sections
    parts = [f"# {title}\n\n{sections[title]}"]
    parts += [f"## {name}\n\n{sections[name]}" for name in others]
    return _format_metadata(config, corpus, report) + "\n\n".join(parts) + "\n"


def _format_metadata(config: ConfigDict, corpus: Corpus, report: Mapping[str, Any]) -> str:
    """The block for model hubs, with the lines that enclose it."""
    language = _LANGUAGES.get(config.data.corpus)
    # Names of data sets have no other signs there.
    name = re.sub(r"[^\w.]+", "-", corpus.name.removesuffix(".npz"), flags=re.ASCII).strip("-.")
    data = {
        "type": name or "corpus",
        "name": corpus.name,
        "revision": report["provenance"]["fingerprint"],
    }
    models = [
        ("test", AVERAGE, report["ensemble"]),
        ("test", MEMBERS, report["test"]),
        ("dev", MEMBERS, report["dev"]),
    ]
    metadata = {
        "library_name": "cberl-jax",
        **({"language": language} if language else {}),
        "tags": list(TAGS),
        "datasets": [data["type"]],
        "metrics": sorted({_HUB_METRICS.get(metric, metric) for metric in METRICS}),
        "model-index": [
            {
                "name": f"CBERL on {corpus.name}",
                "results": [
                    {
                        "task": dict(TASK),
                        "dataset": {**data, "split": split},
                        "metrics": _list_metrics(scores, title),
                    }
                    for split, title, scores in models
                    if scores
                ],
            }
        ],
    }
    # Aliases would be of no use to a person.
    text = yaml.dump(metadata, Dumper=_Plain, sort_keys=False, allow_unicode=True)
    return f"---\n{LICENCE}\n{text}---\n\n"


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _list_metrics(scores: Mapping[str, Any], title: str) -> list[dict[str, Any]]:
    """The scores of one model on one split, as hubs have them."""
    return [
        {
            "type": _HUB_METRICS.get(metric, metric),
            "name": f"{TITLES[metric]}, {title}",
            "value": round(scores[metric]["mean"], 4),
        }
        for metric in METRICS
    ]


def write_model_card(
    workdir: Workdir, config: ConfigDict, splits: Splits, report: Mapping[str, Any]
) -> None:
    """Writes the card into the run's folder; a run without a sound member has none."""
    if report["dev"]:
        workdir.write_text(workdir.model_card, format_model_card(config, splits, report))


def _describe_model(config: ConfigDict, corpus: Corpus, report: Mapping[str, Any]) -> str:
    parts = {
        "joint variational autoencoder": config.model.djvae,
        "BiLSTM": config.model.bilstm,
        "graph attention": config.model.graph,
        "reconstruction of masked nodes": config.model.reconstruction,
        # No class may lack utterances.
        "GAN augmentation": config.augment.method == "gan"
        and any(own["generated"] for own in report["augmentation"].values()),
    }
    widths = ", ".join(f"{plain(name)} ({width})" for name, width in corpus.widths.items())
    sound = count_sound(report)
    members = "one member" if sound == 1 else f"{sound} members, trained with different seeds"
    return (
        "Gives every utterance of a conversation the probability of each of "
        f"{len(corpus.classes)} emotions ({', '.join(map(plain, corpus.classes))}) from feature "
        f"vectors: {widths}. It is CBERL (arXiv 2312.06337) as cberl-jax "
        f"{report['versions']['cberl-jax']} implements it: {members}, whose probabilities are "
        f"averaged. Parts in use: {', '.join(n for n, used in parts.items() if used) or 'none'}."
    )


def _describe_use(config: ConfigDict, corpus: Corpus) -> str:
    turns = describe_sight(config.model)
    sight = f"with the {turns}" if turns else "by itself"
    live = "can follow a conversation live" if config.model.causal else "is not for live use"
    ahead = list_looking_ahead(corpus)
    if config.model.causal and ahead:
        sight += f", and by its features {plain(', '.join(ahead))} with later ones"
        live = "is not for live use"
    return (
        "Research on emotions in conversations. Features have to come from the extractors that "
        f"made the training data's. An utterance is judged {sight}, and the model {live}. "
        "What may be done with the weights is also up to the licence of the training data, "
        f"{plain(corpus.name)}."
    )


def _describe_data(splits: Splits, fingerprint: str) -> str:
    head = ["split", "dialogues", "utterances", "labelled", "speakers"]
    if splits.folds:
        names = [("test", f"test, fold {name}") for name in splits.folds.names]
        rows = [_count(corpus, *name) for corpus, name in zip(splits.corpora, names)]
    else:
        rows = [_count(splits.corpora[0], split, split) for split in SPLITS]
    table = format_table(head, rows)
    return f"{table}\n\nFingerprint of the contents (sha256): `{fingerprint}`."


def _count(corpus: Corpus, split: str, name: str) -> list[str]:
    """A line of the table of the data."""
    inside = corpus.in_split(split)
    speakers = len(np.unique(corpus.speaker[inside]))
    labelled = int(np.sum(corpus.label[inside] != UNLABELLED))
    counts = (int(np.sum(corpus.split == split)), int(inside.sum()), labelled, speakers)
    return [name, *map(str, counts)]


def _describe_results(report: Mapping[str, Any]) -> str:
    return "\n\n".join(
        [
            *list_meanings(report),
            result_table(report),
            class_table(report),
        ]
    )


def _list_limits(config: ConfigDict, corpus: Corpus, report: Mapping[str, Any]) -> list[str]:
    split = scored_split(report)
    # Of the model that is used, the average of the members' probabilities, if that is scored.
    scores = (report["ensemble"] or report["dev"])["per_class"]
    held = {name: own for name, own in scores.items() if own["support"]}
    weakest = min(held, key=lambda name: held[name]["recall"]["mean"])
    recall = held[weakest]["recall"]["mean"]
    limits = [f"Of 100 utterances of {plain(weakest)}, {100 * recall:.0f} are recognised."]
    support = {plain(name): own["support"] for name, own in held.items()}
    few = [f"{name} ({count})" for name, count in support.items() if count < FEW_UTTERANCES]
    if few:
        limits.append(
            f"Few {split} utterances: {', '.join(few)}. One more or less that is recognised moves "
            "such a class's recall by over a point."
        )
    unseen = [plain(name) for name in scores if name not in held]
    if unseen:
        limits.append(f"Not measured, since the {split} split has none: {', '.join(unseen)}.")
    if split == "dev":
        limits.append(
            "Not measured on conversations other than those that its epochs were chosen by."
        )
    sound = count_sound(report)
    if sound == 1:
        limits.append("A single member: nothing is known of what another seed would give.")
    elif sound < FEWEST_SEEDS:
        limits.append(f"{sound} members: too few to say what other seeds would give.")
    if sound < len(report["members"]):
        lost = len(report["members"]) - sound
        limits.append(f"{lost} of {len(report['members'])} trainings diverged and are left out.")
    if config.train.best_on_test:
        limits.append("The test split was looked at in training, to report the best epoch on it.")
    if corpus.source.startswith(SIMULATED):
        limits.append("The data is simulated: it says nothing about people.")
    return limits
