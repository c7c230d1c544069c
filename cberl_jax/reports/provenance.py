"""How a result was made: command, date, device, versions, data and settings."""

import datetime
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from cberl_jax.config.settings import default_config, flatten, without_folders
from cberl_jax.data.corpus import Corpus, fingerprint
from cberl_jax.reports.html import plain
from cberl_jax.reports.tables import format_table
from cberl_jax.version import versions

# From the start of an absolute path, also one below a home folder, to its last part.
_FOLDERS = re.compile(r"(?<![\w.~/-])(?:~[\w.-]*)?/(?:.*/)?")


def create_provenance(config: ConfigDict, corpus: Corpus) -> dict[str, Any]:
    """What is to be known to make a result again.

    Args:
      config: the settings.
      corpus: the corpus.

    Returns:
      ``command``, None where no program was started by one; ``date`` in UTC; ``device``;
      ``versions``; ``corpus``; ``fingerprint`` of its contents; ``settings``: name -> value and
      default, of those that differ from the defaults. It is handed on with reports and models:
      of absolute paths it holds the last part alone.
    """
    own, usual = without_folders(flatten(config)), flatten(default_config())
    devices = jax.devices()
    return {
        "command": _find_command(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "versions": versions(),
        "corpus": corpus.name,
        "fingerprint": fingerprint(corpus),
        "settings": {
            name: {"value": value, "default": usual.get(name)}
            for name, value in own.items()
            if value != usual.get(name)
        },
    }


def _format_start(start: Mapping[str, Any]) -> str:
    """What members started from."""
    rows = [
        [own["part"], f"{own['taken']:,}", f"{own['fresh']:,}", plain(own["why"])]
        for own in start["parts"]
    ]
    caption = f"parameters that the members took over from the run {plain(start['run'])}; the "
    caption += "others were drawn, and so was all of the GAN."
    return format_table(["part", "taken over", "fresh", "why fresh"], rows, caption)


def _find_command() -> str | None:
    """The command line of a program of this package, which has read its flags."""
    if not flags.FLAGS.is_parsed():
        return None
    return format_command(sys.argv)


def format_command(argv: Sequence[str]) -> str:
    """A command line as reports have it: of absolute paths the last part, others as they are."""
    words = [_FOLDERS.sub("", word.rstrip("/")) for word in argv[1:]]
    # The first word may be two: the program and its command.
    return f"{os.path.basename(argv[0])} {shlex.join(words)}".rstrip()


def format_provenance(made: Mapping[str, Any]) -> str:
    """A section in Markdown: how a result was made."""
    listed = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    rows = [
        ["command", plain(made["command"] or "none: started from Python")],
        ["date", made["date"]],
        ["device", plain(made["device"])],
        ["versions", listed],
        ["data", plain(made["corpus"])],
        ["fingerprint of the data (sha256)", made["fingerprint"]],
    ]
    parts = ["## How it was made", format_table(["what", "value"], rows, "command, device, data.")]
    together = made.get("together", [])
    if len(together) > 1:
        listed = " and ".join([", ".join(map(str, together[:-1])), str(together[-1])])
        parts.append(
            f"Not all members were trained at the same time, but {listed} of them together. A "
            "member's scores do not depend on that, except by rounding."
        )
    if "start" in made:
        parts.append(_format_start(made["start"]))
    settings = [
        [name, plain(str(own["value"])), plain(str(own["default"]))]
        for name, own in made["settings"].items()
    ]
    if settings:
        caption = "settings that differ from the defaults."
        parts.append(format_table(["setting", "value", "default"], settings, caption))
    else:
        parts.append("All settings are the defaults.")
    return "\n\n".join(parts)
