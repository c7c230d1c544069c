"""Settings of the test process: several CPU devices, fast compilation, strict types."""

import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

# Tests compile far more than they compute. Set this to compile as users do, with all
# optimisations: tests/training/test_optimised.py runs the numerical tests so.
OPTIMISED = "CBERL_TEST_OPTIMISED" in os.environ
FAST = "--xla_backend_optimization_level=0"
# Another way to write the same kernels, in half the time. A jaxlib that does not know a flag ends
# the process, so it is given to the versions that were tried.
if version("jaxlib").startswith("0.10."):
    FAST += " --xla_cpu_use_fusion_emitters=false"
FAST = "" if OPTIMISED else FAST
DEVICES = "--xla_force_host_platform_device_count=4"

# A worker of pytest-xdist inherits all that follows.
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not IS_WORKER:
    # Programs that tests start get these flags of the caller's: see ``program_environment``.
    os.environ["CBERL_TEST_OUTSIDE"] = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{os.environ['CBERL_TEST_OUTSIDE']} {FAST} {DEVICES}".strip()
    # Source lines in a program only make lowering slower.
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
    # Many tests train the same tiny model: what one has compiled serves the others, also in the
    # other worker. Name a folder in CBERL_TEST_COMPILED to keep it for the next run.
    KEPT = os.environ.get("CBERL_TEST_COMPILED")
    COMPILED = Path(KEPT).absolute() if KEPT else Path(tempfile.mkdtemp(prefix="compiled-"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    # An operation between arrays of different types is an error: in the package, all types are
    # meant.
    os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
MOST_KEPT = 2 * 2**30  # Bytes.

import pytest  # noqa: E402


def pytest_configure(config):
    """Starts with an empty folder of compiled programs where the kept one has grown large."""
    if not IS_WORKER and COMPILED.exists():
        if sum(path.stat().st_size for path in COMPILED.rglob("*")) > MOST_KEPT:
            shutil.rmtree(COMPILED)
    if IS_WORKER or not config.getoption("numprocesses", None):
        write_whole_entries()
        allow_mixed_types_in_optax()


def pytest_report_header():
    return f"XLA_FLAGS: {os.environ['XLA_FLAGS']}"


# The files that take longest, so that no worker is left alone with one of them at the end.
LONGEST = (
    *("test_durability", "test_optimised", "test_readme", "test_programs", "test_devices"),
    *("test_members", "test_torch_parity", "test_sweep", "test_models", "test_numerics"),
    *("test_ablation", "test_steps", "test_stream", "test_predict", "test_gan_report"),
    *("test_pictures", "test_benchmark", "test_environment", "test_export", "test_generation"),
    *("test_bootstrap", "test_convert", "test_plots", "test_probe", "test_extract"),
    *("test_baselines", "test_unlabelled", "test_api", "test_api_arguments", "test_graphs"),
)


def pytest_collection_modifyitems(items):
    """Sorts files by how long they take, longest first."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_unconfigure():
    """Removes what was compiled."""
    if not IS_WORKER and not KEPT:
        shutil.rmtree(COMPILED, ignore_errors=True)


def write_whole_entries():
    """Makes JAX write compiled programs in one go: another process never finds half of one."""
    from jax._src import lru_cache

    def put(cache, key, value):
        path = Path(cache.path) / f"{key}{lru_cache._CACHE_SUFFIX}"
        if not path.exists():
            handle, part = tempfile.mkstemp(dir=cache.path)
            with os.fdopen(handle, "wb") as file:
                file.write(value)
            os.replace(part, path)

    lru_cache.LRUCache.put = put


def allow_mixed_types_in_optax():
    """Lets optax raise a float to an integer power, in the bias correction of Adam."""
    import jax
    import optax

    correct = optax.tree.bias_correction

    def bias_correction(*arguments):
        with jax.numpy_dtype_promotion("standard"):
            return correct(*arguments)

    optax.tree.bias_correction = bias_correction


@pytest.fixture(scope="session")
def program_environment():
    """A person's shell, but with fast compilation, and a folder for what commands compile.

    One that is killed may leave half a program of jax's there, so that it is not the test
    process's.
    """
    ours = {"JAX_NUMPY_DTYPE_PROMOTION", "CBERL_TEST_OUTSIDE"}
    return {name: value for name, value in os.environ.items() if name not in ours} | {
        "XLA_FLAGS": f"{os.environ['CBERL_TEST_OUTSIDE']} {FAST}".strip(),
        "JAX_COMPILATION_CACHE_DIR": os.path.join(
            os.environ["JAX_COMPILATION_CACHE_DIR"], "programs"
        ),
    }


@pytest.fixture
def traces(monkeypatch):
    """Names of the epochs, one for each time that one is traced, which is when it is compiled."""
    # Not at the top: jax must not be there before its flags.
    from cberl_jax.training import fleet

    found = []
    for name in ("gan_epoch", "joint_epoch"):
        function = getattr(fleet, name)

        def counted(*arguments, name=name, function=function, **options):
            found.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(fleet, name, counted)
    return found
