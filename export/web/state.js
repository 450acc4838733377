// The learned state as a safetensors file that says its version and SHA-256: the same file as the Python kit's.

import { sha256 } from "./sha256.js";

const VERSION = "1";
const EMPTY = "0".repeat(64); // in the place of the hash, in what is hashed: the whole file
const KINDS = {
  F32: [Float32Array, "float32"],
  I64: [BigInt64Array, "int64"],
  I32: [Int32Array, "int32"],
  I8: [Int8Array, "int8"],
};

/** A state that cannot be used: damaged, newer, or of another network. */
export class StateError extends Error {}

/** Tensors {name: {type, shape, data}} of a file's ArrayBuffer. */
export function unpack(buffer) {
  let header, data;
  try {
    const end = 8 + Number(new DataView(buffer).getBigUint64(0, true));
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(buffer, 8, end - 8)));
    data = new Uint8Array(buffer, end);
  } catch {
    throw new StateError("This file is damaged, or is not a learned state: it has no readable header.");
  }
  const { "edgepep.version": version, sha256: checksum } = header?.__metadata__ ?? {};
  if (!version || !checksum) throw new StateError("This file is not a learned state: it names no version and checksum.");
  if (version !== VERSION) throw new StateError(`This state is of version ${version}; this page reads ${VERSION}.`);
  const actual = digest(new Uint8Array(buffer.slice(0)), String(checksum));
  if (actual !== checksum) {
    const [found, named] = [actual, String(checksum)].map((hash) => hash.slice(0, 8));
    throw new StateError(`This state is damaged: its checksum is ${found}…, not ${named}….`);
  }
  const names = Object.keys(header).filter((name) => name !== "__metadata__");
  return Object.fromEntries(names.map((name) => [name, tensor(name, header[name], data)]));
}

function tensor(name, { dtype, shape, data_offsets: [start, end] }, data) {
  if (!(dtype in KINDS)) throw new StateError(`${name} is of type ${dtype}; there are ${Object.keys(KINDS).join(", ")}.`);
  const [Kind, type] = KINDS[dtype];
  const size = shape.reduce((product, n) => product * n, 1) * Kind.BYTES_PER_ELEMENT;
  if (end - start !== size || end > data.length) throw new StateError(`${name} has ${end - start} bytes, not ${size}.`);
  return { type, shape, data: new Kind(data.slice(start, end).buffer) }; // a copy, for it must be aligned
}

/** What unpack reads, as a Uint8Array. */
export function pack(state) {
  const parts = Object.values(state).map(({ data }) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  const data = joined(parts);
  const header = { __metadata__: { "edgepep.version": VERSION, sha256: EMPTY } };
  let at = 0;
  for (const [name, { type, shape, data }] of Object.entries(state)) {
    const dtype = Object.keys(KINDS).find((word) => KINDS[word][1] === type);
    header[name] = { dtype, shape: [...shape], data_offsets: [at, (at += data.byteLength)] };
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const spaces = new Uint8Array((8 - (text.length % 8)) % 8).fill(32); // the tensors begin at a multiple of 8
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(text.length + spaces.length), true);
  const whole = joined([length, text, spaces, data]);
  const hash = digest(whole, EMPTY);
  whole.set(new TextEncoder().encode(hash), place(whole, EMPTY));
  return whole;
}

/** SHA-256 of a whole file with zeros in the place of the hash, which are written there. */
function digest(bytes, hash) {
  const at = place(bytes, hash);
  if (at >= 0 && hash.length === EMPTY.length) bytes.fill(EMPTY.charCodeAt(0), at, at + EMPTY.length);
  return sha256(bytes);
}

/** Where in a file's header some words are. */
function place(bytes, words) {
  return new TextDecoder("latin1").decode(bytes.subarray(0, 2 ** 20)).indexOf(words);
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
