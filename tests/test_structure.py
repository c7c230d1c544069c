"""Data flows one way: each file imports only from the files before it."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "cberl_jax"
# A file may import from its own row upwards only; files of one row do not know each other.
ORDER = [
    ["version", "errors"],
    ["files", "processes", "progress", "stopping"],
    ["data.corpus"],
    ["data.matching", "data.transcripts", "data.validate"],
    [
        "data.conversations",
        "data.layers",
        "data.npz",
        "data.simulate",
        "data.subset",
        "data.unpickling",
    ],
    ["data.bayes", "data.pickles", "data.vectors"],
    ["data.load"],
    ["data.packing"],
    ["data.placement"],
    ["data.dataset"],
    ["features.optional", "features.timing"],
    ["features.audio", "features.text", "features.tuning"],
    ["extraction"],
    ["graphs", "losses", "masking", "metrics"],
    ["models.layers"],
    ["models.bilstm", "models.djvae", "models.ensemble", "models.gan", "models.mgnn"],
    ["models.cberl"],
    ["settings"],
    ["configs", "grid"],
    ["variants"],
    ["gan_steps", "joint_steps"],
    ["epochs"],
    ["prepare", "fleet"],
    ["inside"],
    ["evaluate", "event_files", "workdir"],
    ["checkpoints"],
    ["pages"],
    ["pictures", "quality", "report"],
    ["attention_picture", "model_card", "run_pictures", "traces"],
    ["predictions"],
    ["compare", "inference", "sweep_report"],
    ["ablation_report", "forking", "generated", "stream"],
    ["illustrations"],
    ["predictor"],
    ["export"],
    ["training"],
    ["point_run"],
    ["api", "baselines", "benchmark", "gan_report", "sweep"],
    ["ablation"],
    ["cli"],
    ["__init__"],
]
ROW = {name: number for number, names in enumerate(ORDER) for name in names}


def modules():
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name not in ("data.__init__", "features.__init__", "models.__init__"):
            yield name, path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cberl_jax"):
            module = node.module.removeprefix("cberl_jax").removeprefix(".")
            yield from [module] if module else [alias.name for alias in node.names]
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("cberl_jax") for alias in node.names), path


def test_every_file_has_its_place():
    assert {name for name, _ in modules()} == set(ROW)


def test_no_file_imports_from_its_right():
    for name, path in modules():
        for imported in imports(path):
            assert ROW[imported] < ROW[name], f"{name} imports {imported}"


def test_only_the_joint_model_imports_its_siblings():
    for name, path in modules():
        siblings = {x for x in imports(path) if x.startswith("models.")} - {"models.layers"}
        if name.startswith("models.") and name != "models.cberl":
            assert not siblings, name


def test_programs_are_thin():
    for path in (PACKAGE.parent / "experiments").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 70, path.name
