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

from edgepep.folders import SHARE

GUIDES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def shell(tmp_path):
    """Runs one block in the folder; `edgepep` and `python` are this checkout's."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, call in (("edgepep", "-m edgepep"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
        (tools / name).chmod(0o755)
    root = Path(__file__).parent.parent
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
