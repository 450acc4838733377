// The page: what is drawn, pressed and clicked goes to the session, and what comes of it is shown and said.

import { Bars } from "./bars.js";
import { percent, plot } from "./chart.js";
import { pixels } from "./digit.js";
import { Drawing } from "./drawing.js";
import { argmax, Learner } from "./learner.js";
import { samples } from "./samples.js";
import { Session } from "./session.js";
import { unpack } from "./state.js";

const RUNTIME = "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
const part = (id) => document.getElementById(id);
const drawing = new Drawing(part("sheet"));
const bars = new Bars(part("bars"), teach);
let session;
let image = null; // what is on the sheet, as the network sees it
let taught = null; // the label that the sheet was given
let asked = false;

async function open() {
  const ort = await import(RUNTIME).catch(() => {
    throw new Error("onnxruntime-web is not here: run `npm install` in the folder that this page is served from.");
  });
  ort.env.wasm.numThreads = 1;
  const [about, step, network, state, heldBack, memory] = await Promise.all([
    file("about.json").then((buffer) => JSON.parse(new TextDecoder().decode(buffer))),
    ...["training_step.onnx", "inference.onnx", "state.safetensors", "held_back.bin", "memory.bin"].map(file),
  ]);
  if (about.version !== "1") throw new Error(`The network is of version ${about.version}; this page reads 1.`);
  const learner = await Learner.open(ort, step, network, unpack(state));
  session = new Session(learner, samples(heldBack), samples(memory), about.learning_rate);
  part("count").textContent = session.heldBack.labels.length;
  if (about.without.length) part("about").textContent = `It has never seen a ${about.without.join(" or a ")}.`;
  await session.start();
  part("main").inert = false;
  show();
  say("Ready. Draw a digit.");
}

async function file(name) {
  const answer = await fetch(`model/${name}`);
  if (!answer.ok) throw new Error(`model/${name} is not here (${answer.status}): export the run again.`);
  return answer.arrayBuffer();
}

/** Show how the network now stands. */
function show() {
  const { history, told, past } = session;
  const now = history.at(-1);
  plot(part("plot"), history, told);
  const words = now.classes.map((share, label) => `${label}: ${percent(share)}`).join(", ");
  part("plot").setAttribute("aria-label", `After ${history.length - 1} changes: all ${percent(now.overall)}; ${words}`);
  part("classes").replaceChildren(...now.classes.map((share, label) => tile(label, share, label === told)));
  part("undo").disabled = !past.length;
  part("reset").disabled = session.learner.state === session.first;
}

function tile(label, share, told) {
  const [item, digit, value] = ["li", "b", "span"].map((name) => document.createElement(name));
  digit.textContent = label;
  value.textContent = percent(share);
  item.style.setProperty("--share", share);
  item.classList.toggle("told", told);
  item.append(digit, value);
  return item;
}

/** Ask what is on the sheet; while one question is open, a later one waits. */
async function ask() {
  if (asked) return;
  asked = true;
  await new Promise(requestAnimationFrame);
  asked = false;
  image = pixels(drawing.strokes);
  seen();
  if (!image) return bars.show(null);
  const shown = image;
  const answer = await session.ask(shown);
  if (image === shown) bars.show(answer, taught); // else the sheet is another by now
}

function seen() {
  const context = part("seen").getContext("2d");
  const shown = context.createImageData(28, 28);
  image?.forEach((value, i) => shown.data.set([255, 255, 255, 255 * value], 4 * i));
  context.putImageData(shown, 0, 0);
  part("seen").classList.toggle("empty", !image);
}

async function teach(label) {
  image = pixels(drawing.strokes);
  if (!image) return say("Draw a digit first.");
  if (label === taught) return say(`It has learned from this ${label}; draw another.`);
  const again = taught !== null;
  taught = label;
  drawing.done = true;
  say("Learning…");
  const learned = await attempt(async () => {
    const [shown, strokes] = [image, drawing.strokes.map((stroke) => [...stroke])];
    if (again) await session.undo(); // the first answer was a slip
    await session.teach(strokes, label);
    const answer = await session.ask(shown);
    if (image === shown) bars.show(answer, taught);
    const { classes, overall } = session.history.at(-1);
    const held = `${percent(classes[label])} of the ${label}s, ${percent(overall)} of all`;
    say(`It has learned from this ${label}. Held back: ${held}.`);
  });
  if (!learned) taught = null;
}

async function undo() {
  await session.undo();
  forget();
  say("Taken back.");
}

function forget() {
  taught = null;
  drawing.done = false;
  show();
  ask();
}

function clear() {
  drawing.clear();
  taught = null;
  ask();
  say("A fresh sheet.");
}

async function load(chosen) {
  const { name } = chosen;
  await attempt(async () => {
    await session.load(await chosen.arrayBuffer());
    forget();
    say(`Going on from ${name}.`);
  });
}

function save() {
  const url = URL.createObjectURL(new Blob([session.save()], { type: "application/octet-stream" }));
  Object.assign(document.createElement("a"), { href: url, download: "state.safetensors" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  say("Saved as state.safetensors; the Python kit and edgepep read it.");
}

/** Do something and show how things stand then; whether it succeeded. Should it fail, it is said. */
async function attempt(work) {
  try {
    await work();
    return true;
  } catch (error) {
    part("alert").textContent = `${error.message} Nothing was changed.`;
    return false;
  } finally {
    show();
  }
}

function say(words) {
  part("alert").textContent = "";
  part("status").textContent = words;
}

function listen() {
  new ResizeObserver(() => {
    if (session?.history.length) plot(part("plot"), session.history, session.told);
  }).observe(part("plot"));
  drawing.addEventListener("fresh", () => (taught = null));
  drawing.addEventListener("stroke", ask);
  drawing.addEventListener("pen", () => say(drawing.down ? "The pen is down." : "The pen is up."));
  drawing.addEventListener("lift", async () => {
    await ask();
    if (!image) return;
    const answer = await session.ask(image);
    const best = argmax(answer);
    say(`It looks like a ${best} (${percent(answer[best])}). Is it?`);
  });
  part("clear").addEventListener("click", clear);
  part("undo").addEventListener("click", undo);
  part("reset").addEventListener("click", () => attempt(async () => {
    await session.reset();
    forget();
    say("As it was exported. Undo brings back what it had learned.");
  }));
  part("save").addEventListener("click", save);
  part("load").addEventListener("click", () => part("file").click());
  part("file").addEventListener("change", ({ target }) => {
    if (target.files.length) load(target.files[0]);
    target.value = "";
  });
  addEventListener("keydown", (event) => {
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (part("main").inert) return;
    if (plain && /^[0-9]$/.test(event.key) && !event.repeat) teach(Number(event.key));
    else if (plain && ["Delete", "Backspace"].includes(event.key)) clear();
    else if ((event.ctrlKey || event.metaKey) && event.key === "z" && session.past.length) undo();
    else return;
    event.preventDefault();
  });
}

listen();
open().catch((error) => {
  part("status").textContent = "";
  part("alert").textContent = error.message;
});
navigator.serviceWorker?.register("offline.js").catch(() => {}); // without it the page works, but not offline
