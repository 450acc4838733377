// What a correction teaches: a few steps, each on a batch in which the person's own digits are a small part and the
// rest are samples of what the network was trained on. One digit alone, repeated, would teach "it is always a 7"; old
// samples beside it keep the other nine. The person's digits are drawn anew each time, a little turned, slanted,
// stretched, thinner or thicker, so that a few stand for many. Each correction starts without momentum: what the
// first ones bring along would carry a new class far past its due before the next is seen.

import { pixels, varied } from "./digit.js";

export const STEPS = 8; // for each correction
export const RATE = 0.4; // of the learning rate that the network was trained with
const OWN = 8; // in a batch: the newest as it is, and others of the person's
const OLD = 24; // in a batch, from what the network was trained on
const KEPT = 200; // corrections that are remembered

export class Replay {
  /** memory: {images, labels} of training samples. random: gives numbers from 0 to 1. */
  constructor(memory, random = Math.random) {
    this.memory = memory;
    this.random = random;
    this.own = [];
  }

  /** Remember one corrected digit. */
  add(strokes, label) {
    this.own = [...this.own, { strokes, label }].slice(-KEPT);
  }

  /** A batch {images, labels}. */
  batch() {
    const newest = this.own.at(-1);
    const own = Array.from({ length: OWN - 1 }, () => this.own[this.#below(this.own.length)]);
    const old = Array.from({ length: OLD }, () => this.#below(this.memory.labels.length));
    const drawn = own.map(({ strokes }) => varied(strokes, this.random));
    return {
      images: [pixels(newest.strokes), ...drawn, ...old.map((i) => this.memory.images[i])],
      labels: [newest.label, ...own.map(({ label }) => label), ...old.map((i) => this.memory.labels[i])],
    };
  }

  #below(n) {
    return Math.floor(this.random() * n);
  }
}
