"""A rule is one file: with no other edit it is on the command line, in the tests, the profile and the documentation."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOY = '''"""Toy: the label's rows through random maps, at half size."""

import torch
from torch import Tensor

from edgepep.rule import Traits
from edgepep.rules.dfa import Dfa


class Toy(Dfa):
    """Direct feedback alignment with maps of half the size."""

    source = "a test"
    traits = Traits("1 forward", False, "nothing", "output error", "A + maps")

    def projected(self, i: int, signal: Tensor) -> Tensor:
        """Half of it."""
        return 0.5 * super().projected(i, signal)
'''
COMMANDS = """
from edgepep.cli import app
profile, train = "profile --rule toy --model digits-fc", "train digits-fc --rule toy --epochs 1"
for line in ("rules", "rules --markdown", "rules toy", profile, train):
    app(line.split(), standalone_mode=False)
"""


def test_a_rule_is_one_file(tmp_path):
    for folder in ("edgepep", "models", "export", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "edgepep" / "rules" / "toy.py").write_text(TOY)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*arguments):
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    said = run("-c", COMMANDS)
    assert "toy\t1 forward\tno" in said
    assert "| `toy` | 1 forward | no |" in said
    assert "maps of half the size" in said
    assert "BP BP place BP check   frozen      toy" in said
    assert "rule toy" in said
    said = run("-m", "pytest", "tests/test_contract.py", "-k", "toy", "-p", "no:cacheprovider")
    assert "passed" in said
    assert "failed" not in said


def test_the_page_of_rules_is_as_generated():
    from edgepep import catalogue

    assert (ROOT / "edgepep" / "rules" / "README.md").read_text(encoding="utf-8") == catalogue.markdown()
