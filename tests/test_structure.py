"""Data flows one way: a wing of the package imports only from the wings below it."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "cberl_jax"
# Each may import from those before it, and from itself.
WINGS = """errors version losses metrics models config runtime data features training evaluation
reports serving studies api cli commands __init__ __main__""".split()


def imports():
    """(importing file, wing it lies in, module that it imports) of every import in the package."""
    for path in PACKAGE.rglob("*.py"):
        wing = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cberl_jax"):
                module = node.module.removeprefix("cberl_jax").removeprefix(".")
                for name in [module] if module else [alias.name for alias in node.names]:
                    yield path, wing, name


def test_no_import_between_wings_runs_upwards():
    found = list(imports())
    assert len(found) > 100
    for path, wing, module in found:
        above = WINGS.index(module.split(".")[0]) > WINGS.index(wing)
        assert not above, f"{path.relative_to(PACKAGE)} imports {module}"


def test_the_map_names_every_module():
    text = (PACKAGE.parent / "docs" / "model.md").read_text()
    rows = dict(re.findall(r"^\| `([\w/]+)/` \| (.*) \|$", text, re.MULTILINE))
    folders = {path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
    assert {str(own) for own in folders - {Path(), Path("commands")}} == rows.keys()
    for folder, line in rows.items():
        modules = {path.stem for path in (PACKAGE / folder).glob("*.py")} - {"__init__"}
        assert set(re.findall(r"`(\w+)`", line)) == modules, folder


def test_only_the_joint_model_imports_other_networks():
    networks = {"bilstm", "cberl", "djvae", "ensemble", "gan", "mgnn"}
    for path, wing, module in imports():
        if wing == "models" and path.stem in networks - {"cberl"}:
            assert module.rpartition(".")[2] not in networks, path


def test_programs_are_thin():
    for path in (PACKAGE.parent / "experiments").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 70, path.name
