"""What is written is there whole or not at all; what is damaged is refused, and the one before it taken."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgepep import RunError, checkpoint, durable, sealed, states
from tests.test_resume import go, make_loop, run_to

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> Path:
    """A small state of a run, 5 steps in."""
    folder = tmp_path_factory.mktemp("state")
    loop = make_loop("pepita")
    run_to(loop, 5)
    return states.write(folder, 5, loop.state_dict())


@pytest.fixture
def stopped(tmp_path) -> Path:
    """A run stopped after 30 steps, with states at 20 and 30."""
    assert not go(tmp_path / "run", 30, save_steps=20)
    assert len(states.found(tmp_path / "run")) == 2
    return tmp_path / "run"


def test_every_flipped_byte_is_refused(state, tmp_path):
    content, path = state.read_bytes(), tmp_path / state.name
    shutil.copy(state, path)
    with path.open("r+b", buffering=0) as file:
        for i, byte in enumerate(content):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << i % 8]), i)
            with pytest.raises(RunError):
                states.read(path, 1 << 24)
            os.pwrite(file.fileno(), bytes([byte]), i)
    assert path.read_bytes() == content
    assert states.read(path, 1 << 24)
    assert len(content) > 10_000


def test_every_truncation_is_refused(state, tmp_path):
    path = tmp_path / state.name
    shutil.copy(state, path)
    for length in range(state.stat().st_size - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(RunError):
            states.read(path, 1 << 24)
    path.write_bytes(state.read_bytes() + b"\0")
    with pytest.raises(RunError):
        states.read(path, 1 << 24)


def test_weights_and_run_json_are_sealed(tmp_path):
    assert go(tmp_path / "run")
    content = (tmp_path / "run" / "weights.safetensors").read_bytes()
    for i in range(len(content)):
        with pytest.raises(RunError):
            sealed.unpack(content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :])
        with pytest.raises(RunError):
            sealed.unpack(content[:i])
    about = (tmp_path / "run" / "run.json").read_bytes()
    wanted = checkpoint.read_about(tmp_path / "run")
    for i in range(len(about)):
        (tmp_path / "run" / "run.json").write_bytes(about[:i] + bytes([about[i] ^ 1 << i % 8]) + about[i + 1 :])
        try:
            assert checkpoint.read_about(tmp_path / "run") == wanted  # a space that became another, say
        except RunError:
            continue


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "garbage", "link", "folder"])
def test_the_state_before_a_damaged_one_is_used(damage, stopped, tmp_path):
    newest = states.found(stopped)[0]
    content = newest.read_bytes()
    newest.unlink()
    if damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        newest.symlink_to(tmp_path / "elsewhere")
    elif damage == "folder":
        newest.mkdir()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        newest.write_bytes({"flip": flipped, "cut": content[:middle], "empty": b"", "garbage": b"?" * 5000}[damage])
    said = []
    assert go(stopped, said=said)
    assert newest.name in said[0]
    assert "It is set aside" in said[0]
    assert "going on from state-000000020" in said[1]
    assert go(tmp_path / "whole")
    ends = [(folder / "weights.safetensors").read_bytes() for folder in (stopped, tmp_path / "whole")]
    assert ends[0] == ends[1]


def test_with_no_good_state_a_run_does_not_begin_anew(stopped):
    for path in states.found(stopped):
        path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(RunError, match="no state"):
            go(stopped)


@contextlib.contextmanager
def small_files(most: int):
    """No file may grow beyond so many bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def goes_on_elsewhere(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "elsewhere", ignore=shutil.ignore_patterns(".lock"))
    assert go(tmp_path / "elsewhere")
    assert go(tmp_path / "whole")
    ends = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("elsewhere", "whole")]
    assert ends[0] == ends[1]


def test_a_file_that_cannot_grow(stopped, tmp_path):
    before = {path.name: path.read_bytes() for path in states.found(stopped)}
    with small_files(4000), pytest.raises(RunError, match=r"cannot write .*state-.*: File too large"):
        go(stopped, save_steps=1)
    assert before == {path.name: path.read_bytes() for path in states.found(stopped)}
    assert not list(stopped.glob(".state*"))
    goes_on_elsewhere(stopped, tmp_path)


@contextlib.contextmanager
def mounted(folder: Path, options: str):
    """A file system in memory, of a given size."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None or not hasattr(os, "geteuid") or os.geteuid(), reason="needs root")
def test_a_full_disk_and_a_read_only_one(tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "size=160k"):
        (disk / "ballast").write_bytes(b"")
        assert not go(disk / "run", 30, save_steps=20)
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
            while ballast.write(bytes(4096)):
                pass
        before = [path.name for path in states.found(disk / "run")]
        with pytest.raises(RunError, match=r"cannot write .*: No space left on device"):
            go(disk / "run", save_steps=1)
        assert before == [path.name for path in states.found(disk / "run")]
        goes_on_elsewhere(disk / "run", tmp_path)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(RunError, match="Read-only file system"):
            go(disk / "run")
        with pytest.raises(RunError, match="cannot make the run directory"):
            go(disk / "other")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_order_of_system_calls(tmp_path):
    code = "import sys; from pathlib import Path; from edgepep import durable; durable.write(Path(sys.argv[1]), b'x')"
    calls = "trace=openat,write,fsync,fdatasync,rename,renameat,renameat2,close"
    log = tmp_path / "log"
    command = ["strace", "-y", "-o", str(log), "-e", calls, sys.executable, "-c", code, str(tmp_path / "file")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode and "ptrace" in done.stderr:
        pytest.skip("this system lets nobody trace")
    assert done.returncode == 0, done.stderr
    lines = [line for line in log.read_text().splitlines() if str(tmp_path) in line]
    order = [line.split("(")[0] + (" folder" if f"<{tmp_path}>" in line else "") for line in lines]
    order = [call for call in order if not call.startswith(("openat", "close"))]
    assert order == ["write", "fsync", f"{next(c for c in order if c.startswith('rename'))}", "fsync folder"]
    assert f"<{tmp_path}/.file.new>" in next(line for line in lines if line.startswith("fsync"))


def test_all_of_a_run_is_written_so(tmp_path, monkeypatch):
    """States, weights, run.json and, at the end, metrics."""
    written = set()
    write = durable.write
    monkeypatch.setattr(durable, "write", lambda path, *parts: (written.add(path.name), write(path, *parts)))
    assert go(tmp_path / "run", save_steps=45)
    assert {"run.json", "weights.safetensors", "metrics.jsonl", "state-000000045.edgepep"} <= written
    assert {path.name for path in (tmp_path / "run").iterdir()} <= written | {".lock"}
