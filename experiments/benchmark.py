r"""Measures speed and memory: against PyTorch, by members, to the limit, at the start, by size.

python experiments/benchmark.py --config=experiments/configs/meld.py --data=meld.npz \
    --out=runs/bench

PyTorch is compared with where it is installed: pip install -e ".[bench]".
"""

import importlib.util
import pathlib

from absl import flags
from ml_collections import config_flags

from cberl_jax import cli
from cberl_jax.reports.benchmark import format_benchmark
from cberl_jax.studies.benchmark import REPEATS, SECTIONS, benchmark

ROOT = pathlib.Path(__file__).resolve().parent
CONFIG = cli.define_config()
DATA = cli.define_data()
OUT = flags.DEFINE_string("out", None, "Folder of benchmark.json and .md.", required=True)
PARTS = flags.DEFINE_multi_enum("sections", SECTIONS, SECTIONS, "What to measure.")
TIMES = flags.DEFINE_integer("repeats", REPEATS, "Timings per contestant.", 1)


def create_reference(prepared, hyper, dialogues):
    """The PyTorch contestant, on the accelerator if torch has one."""
    path = ROOT.parent / "benchmarks" / "torch_reference.py"
    spec = importlib.util.spec_from_file_location("torch_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    device = "cuda" if module.torch.cuda.is_available() else "cpu"
    return module.TorchTrainer(prepared, hyper, batch_size=dialogues, device=device)


def main() -> None:
    """Measures and prints the tables."""
    config = cli.read_config(CONFIG, DATA)
    reference = create_reference if importlib.util.find_spec("torch") else None
    if reference is None:
        print('PyTorch is left out: pip install -e ".[bench]"')
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    train = [str(ROOT / "train.py"), f"--config={file}"]
    result = benchmark(config, OUT.value, train, reference, PARTS.value, TIMES.value)
    print(format_benchmark(result))


if __name__ == "__main__":
    cli.run(main)
