"""Who may import whom."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "edgepep"
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path):
    """Full names of what a file imports, anywhere in it but under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def reaches(names, *modules):
    return sorted(n for n in names if any(n == m or n.startswith(m + ".") for m in modules))


ORDER = ["local", "time_axis", "layer", "network", "rule", "rules", "build", "training", "reproduction", "cli"]


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_one_way(name):
    above = [f"edgepep.{other}" for other in ORDER[ORDER.index(name) + 1 :]]
    files = (PACKAGE / name).rglob("*.py") if (PACKAGE / name).is_dir() else [PACKAGE / f"{name}.py"]
    for path in files:
        assert not reaches(imported(path), *above), path.name


def test_training_profiling_and_export_do_not_know_each_other():
    parts = {"training": [PACKAGE / "training.py"], "export": [PACKAGE / "export.py"]}
    parts["profiling"] = list((PACKAGE / "profiling").glob("*.py"))
    for name, files in parts.items():
        others = [f"edgepep.{other}" for other in parts if other != name]
        for path in files:
            assert not reaches(imported(path), *others), path.name


def test_nothing_imports_the_command_line():
    for path in FILES:
        assert path.name == "__main__.py" or not reaches(imported(path), "edgepep.cli"), path.name


def test_rules_know_no_library_of_layers():
    for path in (PACKAGE / "rules").glob("*.py"):
        assert not reaches(imported(path), "brevitas", "snntorch", "onnx", "torchvision"), path.name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250
