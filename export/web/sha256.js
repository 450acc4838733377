// SHA-256 (FIPS 180-4). The browser's own is missing where a page is not served from localhost or over https, such as
// on a phone that reads it from a computer beside it.

const primes = [];
for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);

/** The first 32 bits of a fraction. */
const bits = (value) => ((value - Math.floor(value)) * 2 ** 32) >>> 0;
const START = primes.slice(0, 8).map((p) => bits(Math.sqrt(p)));
const ROUND = Uint32Array.from(primes, (p) => bits(Math.cbrt(p)));

/** Hexadecimal digest of a Uint8Array. */
export function sha256(bytes) {
  const whole = bytes.length - (bytes.length % 64);
  const tail = new Uint8Array(bytes.length - whole < 56 ? 64 : 128);
  tail.set(bytes.subarray(whole));
  tail[bytes.length - whole] = 0x80;
  const ends = new DataView(tail.buffer);
  ends.setUint32(tail.length - 8, Math.floor(bytes.length / 2 ** 29));
  ends.setUint32(tail.length - 4, (bytes.length << 3) >>> 0);
  const hash = Uint32Array.from(START);
  const words = new Uint32Array(64);
  blocks(hash, words, new DataView(bytes.buffer, bytes.byteOffset, whole));
  blocks(hash, words, ends);
  return Array.from(hash, (word) => word.toString(16).padStart(8, "0")).join("");
}

function blocks(hash, words, view) {
  for (let start = 0; start < view.byteLength; start += 64) {
    for (let i = 0; i < 16; i++) words[i] = view.getUint32(start + 4 * i);
    for (let i = 16; i < 64; i++) {
      const [early, late] = [words[i - 15], words[i - 2]];
      const s0 = turn(early, 7) ^ turn(early, 18) ^ (early >>> 3);
      const s1 = turn(late, 17) ^ turn(late, 19) ^ (late >>> 10);
      words[i] = words[i - 16] + s0 + words[i - 7] + s1;
    }
    compress(hash, words);
  }
}

function compress(hash, words) {
  let [a, b, c, d, e, f, g, h] = hash;
  for (let i = 0; i < 64; i++) {
    const s1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
    const first = (h + s1 + ((e & f) ^ (~e & g)) + ROUND[i] + words[i]) | 0;
    const s0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22);
    const second = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((value, i) => (hash[i] += value));
}

function turn(word, by) {
  return (word >>> by) | (word << (32 - by));
}
