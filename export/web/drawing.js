// A sheet that one draws on, by mouse, touch, pen or keys: arrows move the pen, space puts it down and lifts it.

const STEP = 1 / 40; // of the sheet's side, for one press of an arrow
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const PEN = 0.075; // width of the line, as a share of the side

export class Drawing extends EventTarget {
  /**
   * sheet: a canvas element. It tells "stroke" as ink is added, "lift" when the pen leaves the sheet, "pen" when a key
   * puts it down or lifts it, and "fresh" when ink on a sheet that was done begins the next.
   */
  constructor(sheet) {
    super();
    this.sheet = sheet;
    this.context = sheet.getContext("2d");
    this.clear();
    this.#pointers();
    sheet.addEventListener("keydown", (event) => this.#press(event));
    sheet.addEventListener("keyup", (event) => this.held.delete(event.key));
    sheet.addEventListener("blur", () => this.#leave());
    sheet.addEventListener("focus", () => {
      this.keys = true;
      this.draw();
    });
    new ResizeObserver(() => this.#fit()).observe(sheet);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** A fresh sheet. */
  clear() {
    this.strokes = [];
    this.done = false;
    this.pen = [0.5, 0.3];
    this.down = false;
    this.held = new Set();
    this.draw();
  }

  #pointers() {
    const { sheet } = this;
    let stroke = null;
    const at = (event) => {
      const box = sheet.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    sheet.addEventListener("pointerdown", (event) => {
      if (stroke || event.button) return;
      this.keys = false;
      sheet.setPointerCapture(event.pointerId);
      stroke = { id: event.pointerId, points: [at(event)] };
      this.#add(stroke.points);
    });
    sheet.addEventListener("pointermove", (event) => {
      if (event.pointerId !== stroke?.id) return;
      const all = event.getCoalescedEvents?.() ?? [];
      stroke.points.push(...(all.length ? all : [event]).map(at));
      this.#changed();
    });
    const lift = (event) => {
      if (event.pointerId !== stroke?.id) return;
      stroke = null;
      this.#tell("lift");
    };
    for (const kind of ["pointerup", "pointercancel"]) sheet.addEventListener(kind, lift);
  }

  #press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    this.keys = true;
    if (event.key === " ") {
      event.preventDefault();
      if (!event.repeat) this.#toggle();
    } else if (event.key in ARROWS) {
      event.preventDefault();
      this.held.add(event.key);
      const moves = [...this.held].map((key) => ARROWS[key]); // two at once go aslant
      const [x, y] = [0, 1].map((axis) => moves.reduce((sum, move) => sum + move[axis], 0));
      this.#move(x * STEP, y * STEP);
    }
  }

  #toggle() {
    this.down = !this.down;
    if (this.down) this.#add([[...this.pen]]);
    else this.#tell("lift");
    this.#tell("pen");
    this.draw();
  }

  #move(x, y) {
    const [left, top] = this.pen;
    this.pen = [left + x, top + y].map((value) => Math.min(0.98, Math.max(0.02, value)));
    if (!this.down) return this.draw();
    this.strokes.at(-1).push([...this.pen]);
    this.#changed();
  }

  #leave() {
    this.held.clear();
    if (this.down) this.#toggle();
    this.draw();
  }

  #add(points) {
    if (this.done) {
      this.strokes = [];
      this.done = false;
      this.#tell("fresh");
    }
    this.strokes.push(points);
    this.#changed();
  }

  #changed() {
    this.draw();
    this.#tell("stroke");
  }

  #tell(what) {
    this.dispatchEvent(new Event(what));
  }

  #fit() {
    const side = Math.round(this.sheet.clientWidth * devicePixelRatio);
    if (this.sheet.width !== side) this.sheet.width = this.sheet.height = side;
    this.draw();
  }

  draw() {
    const { context, sheet } = this;
    const side = sheet.width;
    const { color, caretColor } = getComputedStyle(sheet);
    context.clearRect(0, 0, side, side);
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = PEN * side;
    context.strokeStyle = color;
    for (const stroke of this.strokes) this.#line(stroke.map((point) => point.map((value) => value * side)));
    if (this.keys && sheet.matches(":focus-visible")) this.#cursor(caretColor);
  }

  /** One stroke, its corners rounded off. */
  #line(points) {
    const { context } = this;
    context.beginPath();
    context.moveTo(...points[0]);
    for (let i = 1; i < points.length - 1; i++) {
      const middle = points[i].map((value, axis) => (value + points[i + 1][axis]) / 2);
      context.quadraticCurveTo(...points[i], ...middle);
    }
    context.lineTo(...points.at(-1));
    context.stroke();
  }

  #cursor(colour) {
    const { context, sheet, pen, down } = this;
    const [x, y] = pen.map((value) => value * sheet.width);
    context.beginPath();
    context.arc(x, y, (PEN / 2) * sheet.width, 0, 2 * Math.PI);
    context.lineWidth = 0.008 * sheet.width;
    context.strokeStyle = context.fillStyle = colour;
    if (down) context.fill();
    context.stroke();
  }
}
