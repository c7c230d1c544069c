r"""Measures speed and memory, also against PyTorch.

cberl benchmark --config=meld --data=meld.npz --out=runs/bench

Sections: the PyTorch reference, members at a time, the forms of attention, rows from the host, the
distance to the machine's limit, the start, and growth with the corpus. PyTorch is compared with
where it is installed and the repository is there: pip install -e ".[bench]".

``--target=h100`` (or tpu-v5e, tpu-v6e) runs nothing: it compiles the training for a device that is
not there, and says what the programs would need on it.
"""

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import flags

from cberl_jax import cli
from cberl_jax.errors import UserError

if TYPE_CHECKING:
    from cberl_jax.studies.benchmark import Reference
    from cberl_jax.training.prepare import Prepared

# Beside the package in the repository; the wheel does not hold it.
REFERENCE = pathlib.Path(__file__).parents[2] / "benchmarks" / "torch_reference.py"


def define_flags() -> None:
    """Defines the flags of the command."""
    from cberl_jax.studies.benchmark import REPEATS, SECTIONS
    from cberl_jax.studies.target import TARGETS

    cli.define_config()
    cli.define_data()
    flags.DEFINE_string("out", None, "Folder of benchmark.json and .md.", required=True)
    flags.DEFINE_multi_enum("sections", SECTIONS, SECTIONS, "What to measure.")
    flags.DEFINE_integer("repeats", REPEATS, "Timings per contestant.", 1)
    flags.DEFINE_multi_enum(
        "target", [], list(TARGETS), "Compile for this device, which need not be there."
    )
    flags.DEFINE_integer("members", 64, "Members that --target compiles for.", 1)


def create_reference(prepared: "Prepared", hyper: Mapping[str, float], dialogues: int) -> Any:
    """The PyTorch contestant, on the accelerator if torch has one."""
    spec = importlib.util.spec_from_file_location("torch_reference", REFERENCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    device = "cuda" if module.torch.cuda.is_available() else "cpu"
    return module.TorchTrainer(prepared, hyper, batch_size=dialogues, device=device)


def find_reference() -> "Reference | None":
    """The PyTorch contestant where it can run; else says why not."""
    if not REFERENCE.is_file():
        print("PyTorch is left out: benchmarks/torch_reference.py is in the repository alone")
    elif importlib.util.find_spec("torch") is None:
        print('PyTorch is left out: pip install -e ".[bench]"')
    else:
        return create_reference
    return None


def _check_use(given: flags.FlagValues) -> None:
    """Refuses flags that would change nothing."""
    why = "with --target, which runs nothing" if given.target else "without --target"
    for name in ("sections", "repeats") if given.target else ("members",):
        if given[name].present:
            raise UserError(f"--{name} changes nothing {why}")


def main() -> None:
    """Measures and prints the tables."""
    from ml_collections import config_flags

    from cberl_jax.reports.benchmark import format_benchmark
    from cberl_jax.reports.target import format_targets
    from cberl_jax.studies.benchmark import benchmark
    from cberl_jax.studies.target import TARGETS, measure_targets

    given = flags.FLAGS
    _check_use(given)
    config = cli.read_settings()
    if given.target:
        results = measure_targets(config, given.out, given.target, given.members)
        cli.show_report(format_targets(results, TARGETS), given.out, "target.md")
        return
    source = config_flags.get_config_filename(given["config"])
    train = ["-m", "cberl_jax", "train", f"--config={source}"]
    reference = find_reference()
    result = benchmark(config, given.out, train, reference, given.sections, given.repeats)
    cli.show_report(format_benchmark(result), given.out, "benchmark.md")
