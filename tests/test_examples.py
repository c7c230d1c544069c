"""The notebook runs from its first cell to its last, in the order in which it stands."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"


def read_cells():
    return [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]


@pytest.mark.slow
def test_the_notebook_runs(program_environment, tmp_path):
    # As a kernel does, but for showing what a cell's last line is.
    program = "\n\n".join("".join(cell["source"]) for cell in read_cells())
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=program_environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if "±" in line]) == 3
    run = tmp_path / "runs" / "notebook"
    assert (run / "report_confusion.png").exists()
    lines = [json.loads(line) for line in (run / "emotions.jsonl").read_text().splitlines()]
    assert sum(line["label"] == line["truth"] for line in lines) > 0.5 * len(lines)


def test_what_the_notebook_shows_was_run_in_its_order_and_without_errors():
    cells = read_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    shown = {kind for output in outputs for kind in output.get("data", {})}
    assert {"text/markdown", "image/png"} <= shown
