// What a person does with a network: ask, teach, take back, begin again, save and load; and how it then stands on
// samples that it never learns from.

import { argmax } from "./learner.js";
import { RATE, Replay, STEPS } from "./replay.js";
import { pack, unpack } from "./state.js";

const CLASSES = 10;
const UNDONE = 12; // corrections that can be taken back; each holds a state

export class Session {
  /** heldBack and memory: {images, labels}; rate: the learning rate that the network was trained with. */
  constructor(learner, heldBack, memory, rate) {
    Object.assign(this, { learner, heldBack, rate: rate * RATE });
    this.replay = new Replay(memory);
    this.first = learner.state;
    this.history = [];
    this.past = [];
    this.told = null;
    this.turn = Promise.resolve();
  }

  /** Measure where it starts. */
  start() {
    return this.#queue(async () => this.history.push(await this.#measure()));
  }

  /** Probabilities of the classes of one image. */
  ask(image) {
    return this.#queue(async () => (await this.learner.answer([image]))[0]);
  }

  /** Learn that some strokes are a label; whatever fails leaves all as it was. */
  teach(strokes, label) {
    return this.#change(async () => {
      this.replay.add(strokes, label);
      this.told = label;
      this.learner.rest();
      for (let step = 0; step < STEPS; step++) {
        const { images, labels } = this.replay.batch();
        await this.learner.learn(images, labels, this.rate);
        await new Promise((done) => setTimeout(done)); // lets the page draw
      }
      this.history = [...this.history, await this.#measure()];
    });
  }

  /** Take back the last change. */
  undo() {
    return this.#queue(async () => this.#restore(this.past.pop()));
  }

  /** Begin again from the exported state; this too can be taken back. */
  reset() {
    return this.#change(async () => {
      this.learner.adopt(this.first);
      this.replay.own = [];
      this.told = null;
      this.history = this.history.slice(0, 1);
    });
  }

  /** The learned state as the bytes of a file. */
  save() {
    return pack(this.learner.state);
  }

  /** Go on from a file's ArrayBuffer; StateError leaves all as it was. */
  load(buffer) {
    return this.#change(async () => {
      this.learner.adopt(unpack(buffer));
      this.replay.own = [];
      this.history = [...this.history, await this.#measure()];
    });
  }

  async #measure() {
    const { images, labels } = this.heldBack;
    const right = (await this.learner.answer(images)).map((answer, i) => argmax(answer) === labels[i]);
    const share = (chosen) => chosen.filter(Boolean).length / chosen.length;
    const classes = Array.from({ length: CLASSES }, (_, c) => share(right.filter((_, i) => labels[i] === c)));
    return { overall: share(right), classes };
  }

  #change(work) {
    return this.#queue(async () => {
      const before = { state: this.learner.state, own: this.replay.own, history: this.history, told: this.told };
      try {
        await work();
      } catch (error) {
        this.#restore(before);
        throw error;
      }
      this.past = [...this.past, before].slice(-UNDONE);
    });
  }

  #restore(before) {
    if (!before) return;
    this.learner.state = before.state;
    this.replay.own = before.own;
    this.history = before.history;
    this.told = before.told;
  }

  /** One thing after the other. */
  #queue(work) {
    const done = this.turn.then(work);
    this.turn = done.catch(() => {});
    return done;
  }
}
