// Service worker: keeps the page, the runtime, the graphs, the state and the samples, so that all works offline once
// loaded. With a network the newest files are taken, and what is kept is renewed.

const CACHE = "edgepep-web-1";
const FILES = [
  "./", "index.html", "style.css", "icon.svg", "manifest.webmanifest",
  "main.js", "bars.js", "chart.js", "digit.js", "drawing.js", "learner.js", "replay.js", "samples.js", "session.js",
  "sha256.js", "state.js",
  "model/training_step.onnx", "model/inference.onnx", "model/state.safetensors",
  "model/held_back.bin", "model/memory.bin", "model/about.json",
  "node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
  "node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
];

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && new URL(request.url).origin === self.location.origin) {
    event.respondWith(newestOrKept(request));
  }
});

async function newestOrKept(request) {
  const cache = await caches.open(CACHE);
  try {
    const answer = await fetch(request, { cache: "no-cache" });
    if (answer.ok) await cache.put(request, answer.clone());
    return answer;
  } catch {
    return (await cache.match(request, { ignoreSearch: true })) ?? Response.error();
  }
}
