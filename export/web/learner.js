// A network that learns here: the browser's twin of export/onnxruntime/learn.py. onnxruntime-web runs two ordinary
// inference graphs; what changes is the state that goes in and comes out.

import { StateError } from "./state.js";

const NEW = "new.";
const CHUNK = 50; // samples that are answered before the page may draw again

export class Learner {
  /** ort: onnxruntime-web; step and network: the two graphs as bytes; state: what they begin with. */
  static async open(ort, step, network, state) {
    const made = new Learner();
    made.ort = ort;
    const options = { executionProviders: ["wasm"] };
    made.step = await ort.InferenceSession.create(step, options);
    made.network = await ort.InferenceSession.create(network, options);
    made.shapes = Object.fromEntries(Object.entries(state).map(([name, { type, shape }]) => [name, { type, shape }]));
    made.adopt(state);
    made.still = Object.entries(made.state).filter(([name]) => name.startsWith("velocity"));
    return made;
  }

  /** Go on from another state, or throw StateError and stay as it is. */
  adopt(state) {
    for (const [name, { type, shape }] of Object.entries(this.shapes)) {
      const given = state[name];
      if (!given) throw new StateError(`This state has no ${name}; it is of another network.`);
      if (given.type !== type || given.shape.join() !== shape.join()) {
        const [found, wanted] = [given, this.shapes[name]].map((t) => `${t.type} [${t.shape.join(", ")}]`);
        throw new StateError(`${name} is ${found} in this state, and ${wanted} in the network.`);
      }
      if (type === "float32" && !finite(given.data)) throw new StateError(`${name} has a value that is not finite.`);
    }
    this.state = Object.fromEntries(Object.keys(this.shapes).map((name) => [name, state[name]]));
  }

  /** Take away momentum: velocities become those of the exported state, which are zero. */
  rest() {
    this.state = { ...this.state, ...Object.fromEntries(this.still) };
  }

  /** One step on images and labels; the loss before it. A loss or weight that is no number changes nothing. */
  async learn(images, labels, rate) {
    const { Tensor } = this.ort;
    const given = {
      x: this.#batch(images),
      target: new Tensor("int64", BigInt64Array.from(labels, BigInt), [labels.length]),
      learning_rate: new Tensor("float32", [rate], []),
    };
    const made = await this.#run(this.step, given);
    const loss = made.loss.data[0];
    const next = { ...this.state };
    for (const [name, { type, dims, data }] of Object.entries(made)) {
      if (!name.startsWith(NEW)) continue;
      if (type === "float32" && !finite(data)) throw new Error(`${name} has a value that is not finite.`);
      next[name.slice(NEW.length)] = { type, shape: dims, data };
    }
    if (!Number.isFinite(loss)) throw new Error(`The loss is ${loss}.`);
    this.state = next;
    return loss;
  }

  /** Probabilities of the classes, one array for each image. */
  async answer(images) {
    const answers = [];
    for (let start = 0; start < images.length; start += CHUNK) {
      const part = images.slice(start, start + CHUNK);
      const { logits } = await this.#run(this.network, { x: this.#batch(part) });
      const classes = logits.dims[1];
      part.forEach((_, i) => answers.push(softmax(logits.data.slice(i * classes, (i + 1) * classes))));
      await new Promise((done) => setTimeout(done));
    }
    return answers;
  }

  #batch(images) {
    const size = images[0].length;
    const data = new Float32Array(images.length * size);
    images.forEach((image, i) => data.set(image, i * size));
    return new this.ort.Tensor("float32", data, [images.length, 1, 28, 28]);
  }

  #run(session, given) {
    const feeds = { ...given };
    for (const name of session.inputNames) {
      const kept = this.state[name];
      if (kept) feeds[name] = new this.ort.Tensor(kept.type, kept.data, kept.shape);
    }
    return session.run(Object.fromEntries(session.inputNames.map((name) => [name, feeds[name]])));
  }
}

function finite(values) {
  return values.every(Number.isFinite);
}

function softmax(logits) {
  const top = Math.max(...logits);
  const powers = Array.from(logits, (value) => Math.exp(value - top));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

/** The largest one's place. */
export function argmax(values) {
  return values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
}
