"""The numerical tests once more, compiled as users compile: with all optimisations of XLA.

The test process compiles fast and without them (``conftest.py``), so each of these is a pytest of
its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The known run and float64, members against single runs and resumed runs, rows from the host to the
# bit, and parity with PyTorch. Not what an optimisation cannot change: refusals, files, what is
# drawn.
CASES = {
    "numerics": ["tests/training/test_numerics.py", "tests/test_losses.py"],
    "members": ["tests/training/test_members.py", "-k", "alone or bit_identical or goes_on"],
    "streaming": ["tests/training/test_streaming.py", "-k", "numbers"],
    "parity": ["tests/training/test_torch_parity.py", "-k", "agree"],
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
def test_numbers_hold_with_all_optimisations(arguments, request):
    if request.node.callspec.id == "parity":
        pytest.importorskip("torch", reason="PyTorch is the benchmark's contestant, not ours")
    environment = {n: value for n, value in os.environ.items() if not n.startswith("PYTEST_")}
    environment |= {"CBERL_TEST_OPTIMISED": "1", "XLA_FLAGS": os.environ["CBERL_TEST_OUTSIDE"]}
    # Quiet is how the tests are set up; verbose once gives the line with the flags back.
    options = ["-n", "0", "-v", "-m", "not slow", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout
    (flags,) = [line for line in done.stdout.splitlines() if line.startswith("XLA_FLAGS:")]
    assert "device_count=4" in flags and "optimization_level" not in flags
