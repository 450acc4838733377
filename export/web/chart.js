// Accuracy over corrections as an SVG of its own: one line a class, and the mean of all.

const FRAME = { left: 44, right: 84, top: 12, bottom: 30 };
const SVG = "http://www.w3.org/2000/svg";

/**
 * Draw a history into an svg element.
 * history: [{overall, classes}], shares from 0 to 1; told: the class that was last corrected, or null.
 */
export function plot(svg, history, told) {
  const { clientWidth: width, clientHeight: height } = svg;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const last = Math.max(history.length - 1, 10);
  const x = (i) => FRAME.left + (i / last) * (width - FRAME.left - FRAME.right);
  const y = (share) => FRAME.top + (1 - share) * (height - FRAME.top - FRAME.bottom);
  const parts = [grid(x, y, last, height)];
  const now = history.at(-1);
  if (now) {
    now.classes.forEach((_, label) => {
      if (label !== told) parts.push(line(history.map((h, i) => [x(i), y(h.classes[label])]), "other"));
    });
    const ends = [{ kind: "overall", name: "all", share: now.overall }];
    if (told !== null) ends.push({ kind: "told", name: `the ${told}s`, share: now.classes[told] });
    const shares = { overall: (h) => h.overall, told: (h) => h.classes[told] };
    const heights = apart(ends.map(({ share }) => y(share)));
    ends.forEach(({ kind, name, share }, place) => {
      const points = history.map((h, i) => [x(i), y(shares[kind](h))]);
      const [endX, endY] = points.at(-1);
      parts.push(line(points, kind), element("circle", { cx: endX, cy: endY, r: 3.5, class: kind }));
      parts.push(text(endX + 8, heights[place] + 4, `${name} ${percent(share)}`, `${kind} end`));
    });
  }
  svg.replaceChildren(...parts);
}

function grid(x, y, last, height) {
  const group = element("g", { class: "grid" });
  for (const share of [0, 0.5, 1]) {
    group.append(element("line", { x1: x(0), x2: x(last), y1: y(share), y2: y(share) }));
    group.append(text(x(0) - 8, y(share) + 4, percent(share), "tick right"));
  }
  group.append(text(x(0), height - 8, "0", "tick middle"), text(x(last), height - 8, String(last), "tick middle"));
  group.append(text((x(0) + x(last)) / 2, height - 8, "corrections", "tick middle"));
  return group;
}

/** Two heights moved so far apart that words at them can be read. */
function apart(heights) {
  if (heights.length < 2 || Math.abs(heights[0] - heights[1]) >= 16) return heights;
  const middle = (heights[0] + heights[1]) / 2;
  const first = heights[0] <= heights[1] ? -8 : 8;
  return [middle + first, middle - first];
}

function line(points, kind) {
  return element("polyline", { points: points.map((p) => p.map((v) => v.toFixed(1)).join()).join(" "), class: kind });
}

function text(x, y, words, kind) {
  const made = element("text", { x, y, class: kind });
  made.textContent = words;
  return made;
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** 0.934 as "93 %". */
export function percent(share) {
  return `${Math.round(100 * share)} %`;
}
