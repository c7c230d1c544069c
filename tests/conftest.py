"""Settings of the test process: several CPU devices, and programs that compile fast."""

import os

# Tests compile far more than they compute. Programs started by tests do not inherit this: see
# ``program_environment``.
FLAGS = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=4"
# A second test process inherits what the first has set.
OUTSIDE = os.environ.get("XLA_FLAGS", "").replace(FLAGS, "").strip()
os.environ["XLA_FLAGS"] = f"{OUTSIDE} {FLAGS}".strip()

import pytest  # noqa: E402


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
    from cberl_jax import fleet

    found = []
    for name in ("gan_epoch", "joint_epoch"):
        function = getattr(fleet, name)

        def counted(*arguments, name=name, function=function, **options):
            found.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(fleet, name, counted)
    return found
