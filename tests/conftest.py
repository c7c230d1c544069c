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


@pytest.fixture
def traces(monkeypatch):
    """Names of the epochs, one for each time that one is traced, which is when it is compiled."""
    # Not at the top: jax must not be there before its flags.
    from cberl_jax import fleet

    found = []
    for name in ("gan_epoch", "joint_epoch"):
        function = getattr(fleet, name)

        def counted(*arguments, name=name, function=function, **options):
            found.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(fleet, name, counted)
    return found
