// Samples that come with the page: n labels of a byte each, then n images of 28 x 28 bytes.

const PIXELS = 28 * 28;

/** {images, labels} of a file's ArrayBuffer. */
export function samples(buffer) {
  const bytes = new Uint8Array(buffer);
  const n = bytes.length / (1 + PIXELS);
  if (!Number.isInteger(n) || !n) throw new Error(`A file of samples has ${bytes.length} bytes; 785 each are expected.`);
  const image = (i) => Float32Array.from(bytes.subarray(n + i * PIXELS, n + (i + 1) * PIXELS), (value) => value / 255);
  return { labels: [...bytes.subarray(0, n)], images: Array.from({ length: n }, (_, i) => image(i)) };
}
