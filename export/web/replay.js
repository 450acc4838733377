// What a correction teaches: a few steps, each on a batch in which the person's own digits are a small part and the
// rest are samples of what the network was trained on. One digit alone, repeated, would teach "it is always a 7"; a
// batch in which each class has about its natural share moves the one without losing the nine.

export const STEPS = 4; // for each correction
export const RATE = 0.5; // of the learning rate that the network was trained with
const OWN = 4; // in a batch: the newest, and others of the person's
const OLD = 28; // in a batch, from what the network was trained on
const KEPT = 200; // corrections that are remembered

export class Replay {
  /** memory: {images, labels} of training samples. random: gives numbers from 0 to 1. */
  constructor(memory, random = Math.random) {
    this.memory = memory;
    this.random = random;
    this.own = [];
  }

  /** Remember one corrected digit. */
  add(image, label) {
    this.own = [...this.own, { image, label }].slice(-KEPT);
  }

  /** A batch {images, labels}: the newest, some others of the person's, and old ones. */
  batch() {
    const newest = this.own.at(-1);
    const own = [newest, ...Array.from({ length: OWN - 1 }, () => this.#any(this.own))];
    const old = Array.from({ length: OLD }, () => Math.floor(this.random() * this.memory.labels.length));
    return {
      images: [...own.map(({ image }) => image), ...old.map((i) => this.memory.images[i])],
      labels: [...own.map(({ label }) => label), ...old.map((i) => this.memory.labels[i])],
    };
  }

  #any(list) {
    return list[Math.floor(this.random() * list.length)];
  }
}
