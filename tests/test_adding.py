"""A rule is one file, here the guide's: it is on the command line, in the tests, the profile and the documentation."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.test_guides import rule_of_the_guide

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = """
from edgepep.cli import app
profile, train = "profile --rule pull --model digits-fc", "train digits-fc --rule pull --epochs 1"
for line in ("rules", "rules --markdown", "rules pull", profile, train):
    app(line.split(), standalone_mode=False)
"""


def test_a_rule_is_one_file(tmp_path):
    for folder in ("edgepep", "models", "export", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "edgepep" / "rules" / "pull.py").write_text(rule_of_the_guide())
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*arguments):
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    said = run("-c", COMMANDS)
    assert "pull\t1 forward\tno" in said
    assert "| `pull` | 1 forward | no |" in said
    assert "a fixed random readout of it, R, says the label" in said
    assert "BP BP place BP check   frozen     pull" in said
    assert "rule pull" in said
    said = run("-m", "pytest", "tests/test_contract.py", "-k", "pull", "-p", "no:cacheprovider")
    assert "passed" in said
    assert "failed" not in said


def test_the_page_of_rules_is_as_generated():
    from edgepep import catalogue

    assert (ROOT / "edgepep" / "rules" / "README.md").read_text(encoding="utf-8") == catalogue.markdown()
