"""Settings of the test process: several CPU devices, and programs that compile fast."""

import os

# Tests compile far more than they compute. Programs started by tests do not inherit this: see
# ``program_environment``.
FLAGS = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=4"
OUTSIDE = os.environ.get("XLA_FLAGS")
os.environ["XLA_FLAGS"] = f"{OUTSIDE or ''} {FLAGS}".strip()

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def program_environment(tmp_path_factory):
    """What a person's shell would give a program, with a compilation cache of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    if OUTSIDE is not None:
        environment["XLA_FLAGS"] = OUTSIDE
    environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("compiled"))
    return environment
