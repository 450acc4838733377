"""The web kit in a real browser: a scripted person draws, corrects, takes back, saves and loads.

Tests in a browser need Chromium, the Python package playwright (pip install 'edgepep[web]'), and the runtime, in the
checkout: npm install --no-save onnxruntime-web@1.30.0. They skip, saying so, without them.
"""

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from edgepep import checkpoint, datasets, learning_files
from edgepep.cli import main
from edgepep.folders import EXPORT
from edgepep.plugins import module_at
from tests.strokes import strokes

KIT = EXPORT / "web"
MODULES = Path(__file__).parent.parent / "node_modules"  # not in the kit, which goes into wheels
RUNTIME = MODULES / "onnxruntime-web" / "dist" / "ort.wasm.bundle.min.mjs"
NEW_CLASS = 7
CORRECTIONS = 40
RANDOM = "let seed = 1; Math.random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;"  # the same each time


def command(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["edgepep", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
    return int(stopped.value.code or 0)


@pytest.fixture(scope="session")
def packed(mnist, tmp_path_factory):
    """A run that was never shown a 7, and its packed kit."""
    run = tmp_path_factory.mktemp("runs") / "run"
    assert command("train", "mnist-fc", "--epochs", "1", "--without", NEW_CLASS, "--out", run) == 0
    assert command("export", run, "--kit", "web") == 0
    return run


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found:
        pytest.skip("needs Chromium, such as Debian's package chromium")
    if not RUNTIME.exists():
        pytest.skip("needs onnxruntime-web: npm install --no-save onnxruntime-web@1.30.0 in the checkout")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(packed, browser):
    """Address of the packed page, and the server, which may be shut down."""
    folder = packed / "web"
    if not (folder / "node_modules").exists():
        os.symlink(MODULES, folder / "node_modules")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", server
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(browser, served):
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    context.add_init_script(RANDOM)
    made = context.new_page()
    made.trouble = []
    made.on("pageerror", lambda error: made.trouble.append(str(error)))
    made.on("console", lambda m: made.trouble.append(m.text) if m.type == "error" else None)
    made.goto(served[0])
    ready(made)
    yield made
    context.close()
    assert not made.trouble


def ready(page):
    page.wait_for_function("() => !document.getElementById('main').inert", timeout=60_000)


def draw(page, lines):
    box = page.locator("#sheet").bounding_box()
    for line in lines:
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in line]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()


def said(page, words):
    page.wait_for_function(
        "words => document.getElementById('status').textContent.includes(words)", arg=words, timeout=60_000
    )


def changes(page, n):
    page.wait_for_function(
        "n => document.getElementById('plot').ariaLabel.startsWith(`After ${n} changes`)", arg=n, timeout=60_000
    )


def accuracies(page):
    """In percent, of each class."""
    return np.array([int(t.split()[0]) for t in page.locator("#classes span").all_text_contents()])


def others(values):
    return np.delete(values, NEW_CLASS).mean()


def prediction(page):
    return int(page.locator(".bars button.best b").text_content())


def digits(mnist, label, start, n):
    """Strokes of training images; of the class that is left out, the network has seen none."""
    train = mnist[0]
    return [strokes(train.inputs[i, 0].numpy()) for i in (train.labels == label).nonzero()[:, 0][start : start + n]]


@pytest.mark.slow
@pytest.mark.data
def test_a_class_that_it_never_saw_is_taught_by_drawing(page, packed, mnist, tmp_path):
    before = accuracies(page)
    assert before[NEW_CLASS] == 0  # below chance: it was taught that nothing is one
    assert others(before) > 88
    assert f"It has never seen a {NEW_CLASS}." in page.locator("header").inner_text()
    for n, lines in enumerate(digits(mnist, NEW_CLASS, 100, CORRECTIONS), 1):
        draw(page, lines)
        page.keyboard.press(str(NEW_CLASS))
        changes(page, n)
    after = accuracies(page)
    print(
        f"after {CORRECTIONS} corrections: {after[NEW_CLASS]} % of the new class (before: {before[NEW_CLASS]} %), "
        f"{others(after):.1f} % of the others (before: {others(before):.1f} %)"
    )
    assert after[NEW_CLASS] >= 80
    assert others(after) >= 85

    with page.expect_download() as download:  # and back in PyTorch
        page.get_by_role("button", name="Save").click()
    state = tmp_path / "state.safetensors"
    download.value.save_as(state)
    rule = checkpoint.read(packed).learner
    found = {}
    for name in ("before", "after"):
        with torch.no_grad():
            right = rule.network(mnist[1].take(slice(None))[0]).argmax(1) == mnist[1].labels
        new = mnist[1].labels == NEW_CLASS
        found[name] = float(right[new].float().mean()), float(right[~new].float().mean())
        learning_files.load_state(rule, state)
    print(f"in PyTorch, all test samples, new class and others: {found}")
    assert found["before"][0] == 0
    assert found["after"][0] > 0.8
    assert found["after"][1] > 0.85

    for name in ("training_step.onnx", "inference.onnx"):  # and in the kit for Python, which goes on learning
        shutil.copyfile(packed / "web" / "model" / name, tmp_path / name)
    x, labels = mnist[1].take(slice(0, 200))
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "y.npy", labels.numpy())
    call = [sys.executable, EXPORT / "onnxruntime" / "learn.py", tmp_path, tmp_path / "x.npy", tmp_path / "y.npy"]
    ran = subprocess.run([*map(str, call), "--rate", "0.01"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout.split()[1]) > 0.85


@pytest.mark.slow
@pytest.mark.data
def test_undo_and_starting_over(page, mnist):
    before = accuracies(page)
    three, *rest = digits(mnist, 3, 100, 3)
    draw(page, three)
    page.get_by_role("button", name="It is a 5").click()
    changes(page, 1)
    page.keyboard.press("3")  # the 5 was a slip: it is taken back, and 3 is taught instead
    said(page, "learned from this 3")
    changes(page, 1)
    page.keyboard.press("3")
    said(page, "draw another")
    for n, lines in enumerate(rest, 2):
        draw(page, lines)
        page.get_by_role("button", name="It is a 3").click()
        changes(page, n)
    assert page.locator("#plot polyline.told").get_attribute("points").count(",") == 4
    page.keyboard.press("Control+z")
    changes(page, 2)
    page.get_by_role("button", name="Start over").click()
    changes(page, 0)
    assert (accuracies(page) == before).all()
    page.get_by_role("button", name="Undo").click()
    changes(page, 2)


@pytest.mark.slow
@pytest.mark.data
def test_all_by_keys(page):
    """A 1 is drawn, corrected and taken back without a pointer."""
    page.keyboard.press("1")
    said(page, "Draw a digit first")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "sheet"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    said(page, "The pen is down")
    for _ in range(22):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    said(page, "It looks like a 1")
    assert prediction(page) == 1
    page.keyboard.press("1")
    said(page, "learned from this 1")
    changes(page, 1)
    page.keyboard.press("Control+z")
    said(page, "Taken back")
    changes(page, 0)
    page.keyboard.press("Delete")
    page.wait_for_function("() => !document.querySelector('.bars button.best')")
    stops = []
    for _ in range(16):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.dataset.label"))
    assert [*map(str, range(10)), "save", "load"] == [s for s in stops if s and s not in ("clear", "undo", "reset")][
        :12
    ]
    names = page.locator("button, canvas, svg, input").evaluate_all(
        "all => all.filter(e => !(e.getAttribute('aria-label') || e.textContent.trim())).length"
    )
    assert names == 0


@pytest.mark.slow
@pytest.mark.data
def test_it_works_offline_once_loaded(page, served, mnist):
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    page.wait_for_function("() => caches.keys().then(keys => keys.length)")
    served[1].shutdown()
    served[1].server_close()
    page.context.set_offline(True)
    page.reload()
    ready(page)
    draw(page, digits(mnist, 0, 100, 1)[0])
    said(page, "It looks like a 0")
    page.keyboard.press("0")
    changes(page, 1)
    page.trouble.clear()  # the browser notes that the network is away


def bad_states(content):
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]

    def written(header):
        header["__metadata__"]["sha256"] = "0" * 64
        text = json.dumps(header).encode()
        whole = len(text).to_bytes(8, "little") + text + data
        return whole.replace(b"0" * 64, hashlib.sha256(whole).hexdigest().encode(), 1)

    newer = json.loads(json.dumps(header))
    newer["__metadata__"]["edgepep.version"] = "2"
    other = json.loads(json.dumps(header))
    other["network.layers.5.weight"] = other.pop("network.layers.1.synapses.weight")
    yield "is damaged: its checksum", content[:-1] + bytes([content[-1] ^ 1])
    yield "is damaged: its checksum", content[: len(content) // 2]
    yield "is damaged: its checksum", content.replace(b"layers.0", b"layers.9")
    yield "no readable header", b"\x00"
    yield "no readable header", b"this is not a learned state at all"
    yield "of version 2; this page reads 1", written(newer)
    yield "has no network.layers.1.synapses.weight", written(other)


@pytest.mark.slow
@pytest.mark.data
def test_what_cannot_be_used_is_refused_and_changes_nothing(page, packed, tmp_path):
    content = (packed / "web" / "model" / "state.safetensors").read_bytes()
    before = page.locator("#plot").get_attribute("aria-label")
    for words, wrong in bad_states(content):
        page.locator("#file").set_input_files({"name": "bad", "mimeType": "application/octet-stream", "buffer": wrong})
        page.wait_for_function("w => document.getElementById('alert').textContent.includes(w)", arg=words)
        assert page.locator("#alert").text_content().endswith("Nothing was changed.")
        assert page.locator("#plot").get_attribute("aria-label") == before
        assert page.locator("#undo").is_disabled()
        page.keyboard.press("Delete")
    good = {"name": "good", "mimeType": "application/octet-stream", "buffer": content}
    page.locator("#file").set_input_files(good)
    said(page, "Going on from good")
    changes(page, 1)


@pytest.mark.slow
@pytest.mark.data
def test_a_finger_on_a_phone(browser, served):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(served[0])
    ready(page)
    box, touch = page.locator("#sheet").bounding_box(), context.new_cdp_session(page)
    at = [{"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] * y / 20} for y in range(4, 17)]
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": at[:1]})
    for point in at[1:]:
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    said(page, "It looks like a 1")
    assert page.evaluate("scrollY") == 0
    page.wait_for_timeout(600)  # a tap at once after so quick a stroke would count as the end of a fling
    page.get_by_role("button", name="It is a 1").tap()
    changes(page, 1)
    context.close()


@pytest.mark.slow
@pytest.mark.data
def test_a_runtime_that_is_not_there_is_named(browser, served):
    context = browser.new_context()
    page = context.new_page()
    page.route("**/node_modules/**", lambda route: route.abort())
    page.goto(served[0])
    words = "onnxruntime-web is not here: run `npm install`"
    page.wait_for_function("w => document.getElementById('alert').textContent.includes(w)", arg=words)
    context.close()


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("size", [(1280, 800), (390, 844), (320, 640)])
def test_it_fits(size, page):
    page.set_viewport_size({"width": size[0], "height": size[1]})
    wide, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= inner
    if size[0] > 1000:  # all at once, without scrolling
        assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    small = page.locator("button:visible").evaluate_all("all => all.filter(b => b.offsetHeight < 40).length")
    assert small == 0


def test_its_files_are_short_and_all_are_kept_offline():
    kept = (KIT / "offline.js").read_text(encoding="utf-8")
    for path in KIT.iterdir():
        if path.is_file() and path.suffix in (".js", ".html", ".css", ".py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) < 250, path.name
        if path.suffix in (".js", ".css", ".svg") and path.name != "offline.js":
            assert f'"{path.name}"' in kept, path.name


NODE = """
import { pixels, varied } from "./digit.js";
import { sha256 } from "./sha256.js";
const { drawings, lengths } = JSON.parse(process.argv[1]);
const images = drawings.map((strokes) => Array.from(pixels(strokes)));
let state = 1;
const random = () => (state = (state * 48271) % 2147483647) / 2147483647;
const variants = Array.from({ length: 200 }, () => Array.from(varied(drawings[0], random)));
const digests = lengths.map((n) => sha256(new Uint8Array(n).map((_, i) => i % 251)));
console.log(JSON.stringify({ images, variants, digests, nothing: pixels([]) }));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
def test_a_drawing_becomes_pixels_as_mnist_s_are():
    seven = [[[0.2, 0.2], [0.8, 0.2], [0.4, 0.9]]]
    smaller = [[[0.6 + x / 10, 0.1 + y / 10] for x, y in line] for line in seven]  # elsewhere, a tenth of the size
    dot, lengths = [[[0.5, 0.5]]], [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000]
    given = json.dumps({"drawings": [seven, smaller, dot], "lengths": lengths})
    call = ["node", "--input-type=module", "-e", NODE, given]
    ran = subprocess.run(call, cwd=KIT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    made = json.loads(ran.stdout)
    images, variants = (np.array(made[name]).reshape(-1, 28, 28) for name in ("images", "variants"))
    np.testing.assert_allclose(images[0], images[1], atol=1e-5)
    centres = np.arange(28) + 0.5
    for image in (*images, *variants):
        assert image.min() == 0
        assert 0.5 < image.max() <= 1
        mass = image.sum()
        assert abs((image.sum(0) @ centres) / mass - 14) < 0.1
        assert abs((image.sum(1) @ centres) / mass - 14) < 0.1
        rows, columns = np.nonzero(image > 0.5)
        assert max(np.ptp(rows), np.ptp(columns)) < 21
    assert np.ptp(np.nonzero(images[0] > 0.5)[0]) >= 18
    assert made["nothing"] is None
    assert made["digests"] == [hashlib.sha256(bytes(i % 251 for i in range(n))).hexdigest() for n in lengths]


def test_samples_of_each_class():
    pack = module_at(KIT / "pack.py")
    labels = np.arange(3000) % 9
    images = np.full((3000, 1, 28, 28), labels[:, None, None, None], np.uint8)
    made = np.frombuffer(pack.samples(images, labels, 20), np.uint8)
    n = len(made) // 785
    assert n == 180  # and none of the class that is not there
    assert (np.bincount(made[:n]) == 20).all()
    assert (made[n:].reshape(n, 784)[:, 0] == made[:n]).all()


def test_what_the_page_cannot_draw_is_refused_by_name(tmp_path, capsys):
    run = tmp_path / "run"
    assert command("train", "digits-fc", "--epochs", "1", "--out", run) == 0
    assert command("export", run, "--kit", "web") == 2
    assert "the kit web takes inputs of [1, 28, 28] and 10 classes; digits-fc has [1, 8, 8]" in capsys.readouterr().err
    assert command("export", run, "--kit", "wbe") == 2
    assert "no kit called 'wbe'; did you mean 'web'?" in capsys.readouterr().err
    assert command("export", run, "--kit", "web", "--format", "onnx_float") == 2
    assert not (run / "web").exists()


def test_training_without_a_class(tmp_path, capsys):
    data = datasets.load("digits", True)
    assert set(data.without([7, 3]).labels.tolist()) == set(range(10)) - {3, 7}
    assert command("train", "digits-fc", "--epochs", "1", "--without", "10", "--out", tmp_path / "none") == 2
    assert "digits has no class 10 to leave out; there are 0 to 9." in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
