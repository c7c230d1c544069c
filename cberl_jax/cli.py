"""What all commands share: flags, help, and exit status 2 for a mistake that a person can mend.

Importing this module imports neither jax nor the settings: ``cberl --help`` has to be quick. They
are imported by the functions that need them.
"""

import contextlib
import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from absl import app, flags, logging

from cberl_jax.errors import Interrupted, UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

# Before all but a few lines of the package were loaded.
STARTED = time.time()
USER_ERROR_STATUS = 2
# The usual exit status of a program that writes to a closed pipe, as in "| head".
BROKEN_PIPE_STATUS = 141
HELP = ("--help", "-help", "-h")
# Flags of any command whose values are files or folders.
MAY_BE_EMPTY = {"text_encoder", "audio_encoder", "visual_encoder", "finetune", "audio_dir"}
PATH_FLAGS = MAY_BE_EMPTY | {
    *("config", "config.data.path", "workdir", "data", "input", "output", "out", "fork", "traces"),
    *("folds", "config.data.folds", "init", "config.train.init"),
    *("transcript", "video_dir", "table", "features", "own", "predictions", "slurm"),
    *("encoders", "face_detector", "space"),
}
_PATH_ARGUMENT = re.compile(r"--?(?P<name>[\w.]+)=(?P<value>.*)", re.DOTALL)
# A home folder where a path begins: at the start, or after a comma or a name with "=".
_HOME = re.compile(r"(?<![^,=])~[^/,=]*")
# The flags that a function here defines belong to the command that calls it.
flags.disclaim_key_flags()


def run(
    main: Callable[..., int | None],
    define_flags: Callable[[], None],
    help_text: str,
    arguments: Sequence[str] = (),
) -> None:
    """Parses the flags, runs a command and exits.

    A ``UserError`` and a wrong flag end as one sentence on the standard error stream and exit
    status 2; anything else is a fault of this package and keeps its traceback.

    Args:
      main: the command; reads its flags from ``absl.flags.FLAGS`` and returns its exit status.
      define_flags: defines them.
      help_text: what ``--help`` prints above the flags.
      arguments: names of the arguments that it takes besides flags; those in square brackets, the
        last ones, may be left out.
    """

    def guarded(given: Sequence[str]) -> int | None:
        if not flags.FLAGS["verbosity"].present:
            # orbax tells every step of every write at the usual level.
            logging.set_verbosity(logging.WARNING)
        try:
            given = given[1:]
            if given[len(arguments) :]:
                surplus = given[len(arguments)]
                raise UserError(f"unexpected argument {surplus!r}; flags start with --.")
            if len(given) < sum(not name.startswith("[") for name in arguments):
                raise UserError(f"the arguments {' '.join(arguments)} are needed")
            status = _work(main, given)
            sys.stdout.flush()
            return status
        except UserError as error:
            fail(error)
        except BrokenPipeError:
            _discard_output()
            return BROKEN_PIPE_STATUS

    define_flags()
    if any(argument in HELP for argument in sys.argv[1:]):
        show(_help(help_text, define_flags.__module__))
        return
    _escape_output()
    app.run(guarded, flags_parser=_parse_flags)


def _work(main: Callable[..., int | None], given: Sequence[str]) -> int | None:
    """Runs a command on the devices that its flags name, with numbers that depend on no variable.

    Raises:
      UserError: as of the command, and where there is no such device or the folder is no run's.
    """
    from cberl_jax.runtime.numerics import pin
    from cberl_jax.runtime.processes import explaining_devices

    pin()
    _keep_compiled_programs()
    _check_workdir()
    with explaining_devices():
        _start_devices()
        return main(*given)


def _escape_output() -> None:
    """Escapes what an output that is not UTF-8 cannot show, such as a Chinese class name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show(text: str) -> None:
    """Prints a text that a pager may stop reading halfway."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _discard_output()


def _discard_output() -> None:
    """Lets what is still to be printed vanish: Python flushes once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_report(text: str, folder: str, name: str) -> None:
    """Prints the tables of a report, and last where all of it is.

    Args:
      text: the tables.
      folder: that it was written to.
      name: of its file.
    """
    print(f"{text}\nreport: {os.path.join(folder, name)}")


def _help(text: str, module: str) -> str:
    """A command's help: a text, and the flags and settings that a module's command has."""
    _, own = flags.FLAGS.module_help(module).split("\n", 1)
    parts = [text.strip(), f"flags (those of absl: --helpfull):\n\n{own}"]
    if "config" in flags.FLAGS:
        from cberl_jax.config.settings import describe_settings

        parts.append(f"settings, for --config.<name>=<value>:\n\n{describe_settings()}")
    return "\n\n".join(parts)


def _keep_compiled_programs() -> None:
    """Compiled programs outlive the process: the second start of a run skips the compilation."""
    import jax

    from cberl_jax.runtime.compiled import keep_compiled

    keep_compiled(STARTED)

    # jax defines the attributes of its config as it runs.
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "cberl_jax"))


class _ConfigParser(flags.ArgumentParser["ConfigDict"]):
    """Reads the value of ``--config`` as ``cberl_jax.train`` does."""

    def parse(self, argument: str) -> "ConfigDict":
        from cberl_jax.config.presets import read_config

        return read_config(argument)


def define_config() -> None:
    """Defines ``--config``, a preset or a file, and ``--config.<setting>=<value>``."""
    from ml_collections import config_flags

    from cberl_jax.config.presets import CONFIGS

    # Without a default: one would be loaded, overrides and all, before there is anybody to catch
    # what is wrong with them.
    config_flags.DEFINE_config_file(
        "config",
        None,
        f"{', '.join(CONFIGS)}, or a file with get_config(); any setting is overridden by "
        "--config.<group>.<name>=<value>.",
    )
    flags.FLAGS["config"].parser = _ConfigParser()
    flags.mark_flag_as_required("config")


def define_devices() -> None:
    """Defines the flags that say on what a program runs; ``run`` reads them before it starts."""
    flags.DEFINE_integer(
        "cpu_devices",
        None,
        "Devices that the CPU is divided into; by default as many as the seeds can use.",
        1,
    )
    flags.DEFINE_string(
        "coordinator",
        None,
        "host:port of process 0 of several. Under SLURM and on TPU pods they find each other.",
    )
    flags.DEFINE_integer("num_processes", None, "Number of processes.", 1)
    flags.DEFINE_integer("process_id", None, "This process's number, from 0.", 0)


def _start_devices() -> None:
    """Does what the flags of ``define_devices`` say."""
    values = flags.FLAGS
    if "coordinator" not in values:
        return
    import jax

    from cberl_jax.runtime.processes import divide_cpu, in_cluster, is_main, start_processes

    if values.cpu_devices is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", values.cpu_devices)
    elif values.coordinator is None and not in_cluster():
        devices = divide_cpu(_count_members())
        if devices > 1:
            jax.config.update("jax_num_cpu_devices", devices)
    start_processes(values.coordinator, values.num_processes, values.process_id)
    if not is_main():
        # One process speaks for all; what goes wrong is still said by each.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


def _count_members() -> int:
    """How many members are trained at once, as far as the flags tell."""
    values = flags.FLAGS
    seeds = values.seeds if "seeds" in values else 1
    if "trials" in values:
        # A search trains several points at once.
        seeds *= values.batch or max(1, (values.trials or 128) // 8)
    if "folds" not in values or not (values.folds or values.fold_by):
        return seeds
    return seeds * (int(values.folds) if (values.folds or "").isdecimal() else 2)


def define_workdir(what: str) -> None:
    """Defines ``--workdir`` of a command that fills it; ``run`` checks it before the start.

    Args:
      what: what the folder is, for the help.
    """
    flags.DEFINE_string("workdir", None, what, required=True)
    flags.DEFINE_boolean(
        "allow_unrelated", False, "Whether --workdir may hold files that are of no run."
    )


def _check_workdir() -> None:
    """Does what the flags of ``define_workdir`` say."""
    values = flags.FLAGS
    if "allow_unrelated" in values and not values.allow_unrelated:
        from cberl_jax.runtime.workdir import check_unrelated

        check_unrelated(values.workdir)


def define_encoders(whose: str) -> None:
    """Defines ``--encoders``.

    Args:
      whose: the run that keeps them, for the help.
    """
    flags.DEFINE_list(
        "encoders",
        [],
        "Folders of the encoders that made the features, and files of face detectors, to be kept "
        f"in the folder of {whose}: predict then takes raw conversations.",
    )


def define_data() -> None:
    """Defines ``--data``."""
    flags.DEFINE_string(
        "data", None, "Corpus: canonical .npz, a pickle of the field, or simulated:<size>."
    )


# Flag -> the setting that it is short for.
_SHORT = {
    "data": "data.path",
    "folds": "data.folds",
    "fold_by": "data.fold_by",
    "allow_seen": "data.allow_seen",
    "init": "train.init",
    "freeze": "train.freeze",
    "causal": "model.causal",
    "metrics": "train.metrics",
}


def define_folds() -> None:
    """Defines ``--folds`` and ``--fold_by``."""
    flags.DEFINE_string(
        "folds",
        None,
        "Test every dialogue by folds: how many, or a CSV with the columns dialogue and fold; "
        "short for --config.data.folds.",
    )
    flags.DEFINE_string(
        "fold_by",
        None,
        "What stays in one fold: speaker, session (of IEMOCAP's ids), or a group that the .npz "
        "names; short for --config.data.fold_by.",
    )
    flags.DEFINE_boolean(
        "allow_seen",
        None,
        "Make folds, or draw another dev, of features that were tuned on labels, or start from a "
        "run by other splits; short for --config.data.allow_seen.",
    )


def define_start() -> None:
    """Defines ``--init`` and ``--freeze``."""
    flags.DEFINE_string(
        "init",
        None,
        "Folder of a run, on another corpus too, whose weights the members start from; short for "
        "--config.train.init.",
    )
    flags.DEFINE_string(
        "freeze",
        None,
        "Parts that keep the weights they start with: fusion, bilstm, graph, ensemble, joined by "
        "commas; short for --config.train.freeze.",
    )


def read_settings() -> "ConfigDict":
    """The settings that ``--config``, its overrides and the flags that are short for some give."""
    given = flags.FLAGS
    settings = given.config
    for flag, setting in _SHORT.items():
        if flag in given and given[flag].value is not None:
            group, name = setting.split(".")
            settings[group][name] = given[flag].value
    return settings


@contextlib.contextmanager
def explaining_interrupts() -> Iterator[None]:
    """Ends an interrupted program with the signal's customary status and how to go on."""
    from cberl_jax.runtime.processes import ending_with_others
    from cberl_jax.training.fleet import is_compiling

    try:
        with ending_with_others():
            yield
    except (Interrupted, KeyboardInterrupt) as interrupt:
        number: int = signal.SIGINT
        if isinstance(interrupt, Interrupted):
            number = interrupt.number
            print("stopped; a checkpoint is written. The same command goes on.", file=sys.stderr)
        if is_compiling():
            # The usual way out would wait for the compiler.
            sys.stdout.flush()
            os._exit(128 + number)
        if isinstance(interrupt, KeyboardInterrupt):
            raise
        sys.exit(128 + number)


def _overrides(arguments: Sequence[str]) -> list[str]:
    """Names of the settings that the arguments override."""
    found = (re.match(r"--?(?:no)?config\.([^=]+)", argument) for argument in arguments)
    return [match[1] for match in found if match]


def _parse_flags(arguments: Sequence[str]) -> Sequence[str]:
    from cberl_jax.config.settings import check_known

    # absl's own parser would exit with status 1, and the config flags' with a traceback.
    try:
        check_known(_overrides(arguments))
        return flags.FLAGS([_expand_paths(argument) for argument in arguments])
    except flags.UnrecognizedFlagError as error:
        if not error.flagname.startswith("config.") or "config" not in flags.FLAGS:
            fail(error)
        # The settings have flags once there is a config whose settings they are.
        fail(
            f"--{error.flagname} changes a setting of the config that --config names, and there is "
            "none: add --config=meld, or your own file"
        )
    except (flags.Error, UserError) as error:
        # absl puts the whole flag before what is wrong with its value.
        fail(error.__context__ if isinstance(error.__context__, UserError) else error)
    except Exception as error:  # What config_flags raises at overrides is of many kinds.
        fail(f"--config: {type(error).__name__}: {error}")


def _expand_paths(argument: str) -> str:
    """An argument with every ``~`` expanded that begins a path; a shell leaves ``--x=~`` alone.

    Raises:
      UserError: a path is empty that has to be named.
    """
    given = _PATH_ARGUMENT.fullmatch(argument)
    if given is None or given["name"] not in PATH_FLAGS:
        return argument
    if given["value"] or given["name"] in MAY_BE_EMPTY:
        paths = _HOME.sub(lambda home: os.path.expanduser(home[0]), given["value"])
        return argument[: given.start("value")] + paths
    raise UserError(f"--{given['name']} is empty; name a path ('.' is the current folder)")


def fail(error: BaseException | str) -> NoReturn:
    """Ends the program with one sentence on the standard error stream and exit status 2."""
    sentence = " ".join(str(error).split())
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(USER_ERROR_STATUS)
