"""The guides in docs/ are run as a reader would run them, block by block, in an empty folder."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from edgepep import tables
from edgepep.folders import SHARE

ROOT = Path(__file__).parent.parent
ADDING = ROOT / "docs" / "adding.md"
GUIDES = sorted(path for path in ADDING.parent.glob("*.md") if path != ADDING)
BLOCK = re.compile(r"^```(sh|python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.(?:py|toml))\n")


@pytest.fixture
def shell(tmp_path):
    return reader(tmp_path, ROOT)


def reader(tmp_path, root):
    """What runs one block in the folder; `edgepep` and `python` are a checkout's."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, call in (("edgepep", "-m edgepep"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
        (tools / name).chmod(0o755)
    env = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "EDGEPEP": str(SHARE)}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    folder = tmp_path / "guide"
    folder.mkdir()

    def run(kind, text):
        call = ["sh", "-ec", text] if kind == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(call, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{text}\n{done.stderr[-2000:]}"
        return done.stdout + done.stderr * text.startswith("make")  # a board speaks to the debugger

    run.folder, run.env = folder, env
    return run


def serves(shell, line):
    """Start what serves a page, and read the page."""
    server = subprocess.Popen(
        ["sh", "-ec", f"exec {line} 8123 --bind 127.0.0.1"], cwd=shell.folder, env=shell.env, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            try:
                return urllib.request.urlopen("http://127.0.0.1:8123/", timeout=5).read().decode()
            except urllib.error.URLError:
                time.sleep(0.1)
        pytest.fail(f"{line} serves nothing")
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.usefixtures("mnist")
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_every_command(guide, shell):
    """All but `npm install`, which the tests of the web kit need done."""
    if not shutil.which("sh"):
        pytest.skip("needs a POSIX shell")
    text = guide.read_text(encoding="utf-8")
    out = []
    for kind, block in BLOCK.findall(text):
        if kind == "toml":
            continue
        if kind == "python":
            out.append(shell(kind, block))
            continue
        for line in block.splitlines():
            if line.startswith("python -m http.server"):
                assert "Teach it a digit" in serves(shell, line)
            elif "run-m4" in line and not shutil.which("qemu-system-arm"):
                continue  # the line after it does the same on this machine
            elif not line.startswith("npm "):
                out.append(shell(kind, line))
    found = "\n".join(out)
    for words in re.findall(r"^(before|after): sevens ([\d.]+) %, the others ([\d.]+) %$", found, re.MULTILINE):
        when, new, old = words[0], float(words[1]), float(words[2])
        assert (new >= 80) if when == "after" else (new == 0), found
        assert old > 85, found
        told = re.search(rf"^{when}: sevens ([\d.]+) %, the others ([\d.]+) %$", text, re.MULTILINE)
        assert told, f"{guide.name} does not say what came out {when}"
        assert abs(float(told[1]) - new) < 5, found  # other machines round otherwise
        assert abs(float(told[2]) - old) < 5, found
    weights = re.findall(r"^weights (\d+)$", found, re.MULTILINE)
    assert len(weights) >= 2 * ("make -C board" in text)
    assert len(set(weights)) <= 1, "the board, this machine and Python end at other weights"
    small = re.findall(r"small sevens ([\d.]+) %, the other small ones ([\d.]+) %", found)
    assert [float(new) >= 80 for new, _ in small] == [False, True][: len(small)], found


def write_file(block, folder, checkout):
    """Write a block that begins with a path there, or at the end of what is there; say whether it does."""
    named = FILE.match(block)
    if named:
        path = (checkout if "/" in named[1] else folder) / named[1]
        with path.open("a", encoding="utf-8") as file:
            file.write(block[named.end() :])
    return bool(named)


@pytest.mark.slow
def test_the_guide_to_adding(tmp_path):
    """In a copy of the checkout, as it adds files there; on the data that scikit-learn bundles."""
    if not shutil.which("sh"):
        pytest.skip("needs a POSIX shell")
    checkout = tmp_path / "checkout"
    for folder in ("edgepep", "models", "export"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shell = reader(tmp_path, checkout)
    said = {}
    for kind, block in BLOCK.findall(ADDING.read_text(encoding="utf-8")):
        if not write_file(block, shell.folder, checkout):
            for text in [block] if kind == "python" else block.splitlines():
                assert kind != "toml", f"a file without a name:\n{block}"
                said[text] = shell(kind, text)
    last = {line: re.findall(r"test ([\d.]+) %", found)[-1:] for line, found in said.items() if " train " in line}
    for network in ("digits-fc", "mnist-fc-spiking"):
        ours, control = (
            next(float(found[0]) for line, found in last.items() if f"train {network}" in line and rule in line)
            for rule in ("mine:Pull", "frozen_hidden")
        )
        assert ours > control + 1, f"{network}: {ours} %, frozen {control} %"
    found = "\n".join(said.values())
    assert all(float(value) > 85 for value in re.findall(r"^own tensors.* ([\d.]+) %$", found, re.MULTILINE))
    assert found.count("own tensors") == 2
    for words in ("the training step against torch", "kB · weights_npz", "mine:Pull fits myboard", "mychip"):
        assert words in found, found


def rule_of_the_guide():
    """Text of the guide's rule, the first block of Python."""
    return next(block for kind, block in BLOCK.findall(ADDING.read_text(encoding="utf-8")) if kind == "python")


@pytest.mark.parametrize("time", [{}, {"spiking": {"steps": 10}}], ids=["plain", "spiking"])
def test_the_rule_of_the_guide_learns_unchanged(time, tmp_path, monkeypatch):
    """Beyond what its readout learns over random hidden layers, over time too, and the same after a state is read."""
    from edgepep import InPlaceSGD, datasets, fit, load

    (tmp_path / "rule_of_the_guide.py").write_text(rule_of_the_guide())
    monkeypatch.syspath_prepend(tmp_path)
    recipe = load("digits-fc").but(**time)
    train, test = (datasets.load("digits", part) for part in (True, False))

    def after_ten_epochs(rule):
        made = recipe.make_rule(recipe.build(), rule)
        *_, last = fit(made, train, InPlaceSGD(made.network, 0.1, 0.9), epochs=10, batch_size=32, test=test)
        return last.test_accuracy, made

    (ours, made), (control, _) = after_ten_epochs("rule_of_the_guide:Pull"), after_ten_epochs("frozen_hidden")
    assert ours > control + 5
    other = recipe.make_rule(recipe.build(seed=1), "rule_of_the_guide:Pull", seed=1)
    other.load_state_dict(made.state_dict())
    x, target = train.take(slice(0, 32))
    for one in (made, other):
        InPlaceSGD(one.network, 0.1)
        one(x, target)
    assert all(other.state_dict()[key].equal(value) for key, value in made.state_dict().items())


HOMES = {
    "network": tables.NetworkTable,
    "layers": tables.LayerTable,
    "training": tables.TrainingTable,
    "quantized": tables.QuantizedTable,
    "spiking": tables.SpikingTable,
}


@pytest.mark.parametrize("home", HOMES)
def test_the_guide_to_adding_names_every_key_of_a_recipe(home):
    text = ADDING.read_text(encoding="utf-8")
    rows = re.findall(rf"^\| `{home}` \| (.*?) \|", text, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(HOMES[home].model_fields)


def test_the_guide_to_adding_names_every_preparation():
    from edgepep.synapses import NORMS, preparation

    words = re.search(r"The words of `prepare`: (.*?)\.\n", ADDING.read_text(encoding="utf-8"), re.DOTALL)
    named = re.findall(r"`([a-z]\w+)(?: N)?`", words[1])
    assert sorted(named) == sorted(["flatten", "maxpool", "avgpool", *NORMS])
    assert all(preparation(word if "pool" not in word else f"{word} 2x3") for word in named)
