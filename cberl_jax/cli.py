"""What all programs share: flags, and exit status 2 for a mistake that a person can mend."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from cberl_jax.config.presets import check_complete
from cberl_jax.config.settings import check_known, check_types, describe_settings, flatten
from cberl_jax.errors import Interrupted, UserError
from cberl_jax.runtime.processes import ending_with_others, is_main, start_processes

USER_ERROR_STATUS = 2


def run(main: Callable[..., int | None], arguments: Sequence[str] = ()) -> None:
    """Parses the flags, runs a program and exits.

    A ``UserError`` and a wrong flag end as one sentence on the standard error stream and exit
    status 2; anything else is a fault of this package and keeps its traceback.

    Args:
      main: the program; reads its flags from ``absl.flags.FLAGS`` and returns its exit status.
      arguments: names of the arguments that it takes besides flags, all of them required.
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
            if len(given) < len(arguments):
                raise UserError(f"the arguments {' '.join(arguments)} are needed")
            _start_devices()
            return main(*given)
        except UserError as error:
            _fail(error)

    _keep_compiled_programs()
    app.run(guarded, flags_parser=_parse_flags)


def _keep_compiled_programs() -> None:
    """Compiled programs outlive the process: the second start of a run skips the compilation."""
    if jax.config.jax_compilation_cache_dir is None:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "cberl_jax"))


def define_config() -> flags.FlagHolder:
    """Defines ``--config``, a file with ``get_config()``, and ``--config.<setting>=<value>``."""
    # Without a default: one would be loaded, overrides and all, before there is anybody to catch
    # what is wrong with them.
    holder = config_flags.DEFINE_config_file(
        "config",
        None,
        "File with the settings; any of them is overridden by --config.<group>.<name>=<value>. "
        f"The settings and their defaults:\n{describe_settings()}",
    )
    flags.mark_flag_as_required("config")
    return holder


def define_devices() -> None:
    """Defines the flags that say on what a program runs; ``run`` reads them before it starts."""
    flags.DEFINE_integer(
        "cpu_devices", None, "Number of devices that the CPU is to pass for; for trials.", 1
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
    if values.cpu_devices is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", values.cpu_devices)
    start_processes(values.coordinator, values.num_processes, values.process_id)
    if not is_main():
        # One process speaks for all; what goes wrong is still said by each.
        sys.stdout = open(os.devnull, "w")


def define_data() -> flags.FlagHolder:
    """Defines ``--data``."""
    return flags.DEFINE_string(
        "data", None, "Corpus: canonical .npz, a pickle of the field, or simulated:<size>."
    )


def read_config(config: flags.FlagHolder, data: flags.FlagHolder) -> ConfigDict:
    """The settings that the two flags give."""
    settings = config.value
    file = config_flags.get_config_filename(flags.FLAGS[config.name])
    try:
        flat = flatten(settings)
        grouped = isinstance(settings, ConfigDict)
    except OSError as error:
        raise UserError(f"{file}: is not a config file that can be read") from error
    except AttributeError:
        grouped = False
    if not grouped:
        raise UserError(f"{file}: get_config() has to return what default_config() does, changed")
    check_complete(flat)
    check_types(flat)
    if data.value is not None:
        settings.data.path = data.value
    return settings


@contextlib.contextmanager
def explaining_interrupts() -> Iterator[None]:
    """Ends an interrupted program with the signal's customary status and how to go on."""
    try:
        with ending_with_others():
            yield
    except Interrupted as interrupt:
        print("stopped; a checkpoint is written. The same command goes on.", file=sys.stderr)
        sys.exit(128 + interrupt.number)


def _overrides(arguments: Sequence[str]) -> list[str]:
    """Names of the settings that the arguments override."""
    found = (re.match(r"--?config\.([^=]+)", argument) for argument in arguments)
    return [match[1] for match in found if match]


def _parse_flags(arguments: Sequence[str]) -> Sequence[str]:
    # absl's own parser would exit with status 1, and the config flags' with a traceback.
    try:
        check_known(_overrides(arguments))
        return flags.FLAGS(list(arguments))
    except flags.UnrecognizedFlagError as error:
        if not error.flagname.startswith("config.") or "config" not in flags.FLAGS:
            _fail(error)
        # The settings have flags once there is a file whose settings they are.
        _fail(
            f"--{error.flagname} changes a setting of the file that --config names, and there is "
            "none: add --config=experiments/configs/meld.py, or your own"
        )
    except (flags.Error, UserError) as error:
        _fail(error)
    except Exception as error:  # The config file is the person's own code: it can raise anything.
        _fail(f"--config: {type(error).__name__}: {str(error).strip().splitlines()[-1]}")


def _fail(error: Exception | str) -> None:
    sentence = " ".join(str(error).split())
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(USER_ERROR_STATUS)
