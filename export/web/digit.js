// From strokes to the 28 x 28 pixels that the network was trained on: the ink is fitted into a box of 20 x 20 and its
// centre of mass put into the middle, as MNIST's digits are. A stroke is a list of points [x, y] in any unit.

export const SIZE = 28;
const BOX = 20;
const ROUNDS = 4; // of centring: a shift by part of a pixel changes a little how much ink each pixel takes
const WIDTH = 2.3; // of the pen, in pixels of the result: as much ink as MNIST has on average

/** Pixels [28 * 28] from 0 to 1, or null where there is no ink; width: of the pen, in pixels. */
export function pixels(strokes, width = WIDTH) {
  const points = strokes.flat();
  if (!points.length) return null;
  const [left, right] = range(points.map(([x]) => x));
  const [top, bottom] = range(points.map(([, y]) => y));
  const extent = Math.max(right - left, bottom - top);
  const scale = extent > 0 ? (BOX - width) / extent : 1;
  const at = (x, y) => [(x - (left + right) / 2) * scale + SIZE / 2, (y - (top + bottom) / 2) * scale + SIZE / 2];
  const lines = strokes.filter((stroke) => stroke.length).map((stroke) => stroke.map(([x, y]) => at(x, y)));
  let [shiftX, shiftY] = [0, 0];
  for (let round = 0; round < ROUNDS; round++) {
    const [massX, massY] = centre(ink(lines, shiftX, shiftY, width));
    shiftX += SIZE / 2 - massX;
    shiftY += SIZE / 2 - massY;
  }
  return ink(lines, shiftX, shiftY, width);
}

/** Pixels of strokes as another hand might have drawn them: turned, slanted, stretched, a thinner or thicker pen. */
export function varied(strokes, random) {
  const upTo = (bound) => bound * (2 * random() - 1);
  const [turn, slant, stretch] = [upTo(0.2), upTo(0.2), 1 + upTo(0.15)];
  const [sin, cos] = [Math.sin(turn), Math.cos(turn)];
  const bent = ([x, y]) => {
    const across = (x + slant * y) * stretch;
    return [cos * across - sin * y, sin * across + cos * y];
  };
  return pixels(strokes.map((stroke) => stroke.map(bent)), WIDTH + upTo(0.6));
}

/** Coverage of each pixel by the pen, from its centre's distance to the nearest line: antialiased by nature. */
function ink(lines, shiftX, shiftY, width) {
  const image = new Float32Array(SIZE * SIZE);
  const reach = width / 2 + 0.5;
  for (const line of lines) {
    for (let i = 0; i < line.length; i++) {
      const [ax, ay] = line[Math.max(i - 1, 0)];
      const [bx, by] = line[i];
      segment(image, ax + shiftX, ay + shiftY, bx + shiftX, by + shiftY, reach);
    }
  }
  return image;
}

function segment(image, ax, ay, bx, by, reach) {
  const [left, right] = range([ax, bx]);
  const [top, bottom] = range([ay, by]);
  for (let row = clamp(top - reach); row <= clamp(bottom + reach); row++) {
    for (let column = clamp(left - reach); column <= clamp(right + reach); column++) {
      const covered = Math.min(1, reach - distance(column + 0.5, row + 0.5, ax, ay, bx, by));
      const place = row * SIZE + column;
      if (covered > image[place]) image[place] = covered;
    }
  }
}

function distance(x, y, ax, ay, bx, by) {
  const [dx, dy] = [bx - ax, by - ay];
  const length = dx * dx + dy * dy;
  const along = length ? Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / length)) : 0;
  return Math.hypot(x - ax - along * dx, y - ay - along * dy);
}

function centre(image) {
  let [mass, x, y] = [0, 0, 0];
  image.forEach((value, place) => {
    mass += value;
    x += value * ((place % SIZE) + 0.5);
    y += value * (Math.floor(place / SIZE) + 0.5);
  });
  return [x / mass, y / mass];
}

function range(values) {
  return values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
}

function clamp(value) {
  return Math.min(SIZE - 1, Math.max(0, Math.floor(value)));
}
