"""Settings of the test process: several CPU devices, and programs that compile fast."""

import os
import shutil
import tempfile

# Tests compile far more than they compute. Programs started by tests do not inherit this: see
# ``program_environment``.
FLAGS = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=4"
# A second test process inherits what the first has set.
OUTSIDE = os.environ.get("XLA_FLAGS", "").replace(FLAGS, "").strip()
os.environ["XLA_FLAGS"] = f"{OUTSIDE} {FLAGS}".strip()
# Source lines in a program only make lowering slower.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
# Many tests train the same tiny model: what one has compiled serves the others. A test process has
# a cache to itself: entries are not written in one go, and another process might find half of one.
COMPILED = tempfile.mkdtemp(prefix="compiled-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import pytest  # noqa: E402


def pytest_unconfigure():
    """Removes what was compiled."""
    shutil.rmtree(COMPILED, ignore_errors=True)


@pytest.fixture(scope="session")
def program_environment(tmp_path_factory):
    """A person's shell, but with fast compilation, and a cache of its own for what is compiled."""
    return os.environ | {
        "XLA_FLAGS": f"{OUTSIDE} --xla_backend_optimization_level=0".strip(),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
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
