// Maps of attention: one canvas a warehouse, drawn from bytes; values under the pointer or the arrow keys as text.

const LARGEST_PIXELS = 8e6; // of a canvas: phones refuse more
const MARKED = 4; // pixels of a cell, from which on there is room for the assignment's squares
const average = document.getElementById("average");
const difference = document.getElementById("difference");
const drawn = [];

// Averages are numbers of two bytes, the lower one first; differences of one.
const decode = ({ values, steps }, Numbers) => {
  const { buffer } = Uint8Array.from(atob(values), (letter) => letter.charCodeAt(0));
  return { numbers: new Numbers(buffer), steps };
};
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const rgb = (name) => [1, 3, 5].map((from) => parseInt(colour(name).slice(from, from + 2), 16));

// Three digits, or fewer where rounding to steps of that size has left no more.
function number(value, step = 0) {
  value = Number(value.toPrecision(3));
  if (!value) return "0";
  const digits = Math.min(2 - Math.floor(Math.log10(Math.abs(value))), Math.ceil(-Math.log10(step)));
  return value.toFixed(clamp(digits, 0, 12)).replace("-", "−");
}

class Sheet {
  constructor(figure, sheet) {
    Object.assign(this, { figure, ...sheet });
    this.mean = decode(sheet.mean, Int16Array);
    this.byClass = sheet.byClass.map((one) => decode(one, Int8Array));
    this.fixed = new Map(sheet.assigned.map(([row, column, value]) => [row * sheet.columns + column, value]));
    this.starts = [];
    this.rows = 0;
    for (const [, count] of sheet.layers) {
      this.starts.push(this.rows);
      this.rows += count;
    }
    this.canvas = figure.querySelector("canvas");
    this.cursor = figure.querySelector(".cursor");
    this.row = this.column = 0;
    followPointer(this.canvas, (event) => this.point(event));
    this.canvas.addEventListener("keydown", (event) => this.move(event));
    this.canvas.addEventListener("blur", () => { this.cursor.hidden = true; });
    new ResizeObserver(() => this.fit()).observe(figure);
  }

  // What is shown: the average of all images, of a class, or how that differs.
  get chosen() {
    const number = average ? Number(average.value) : -1;
    return { number, apart: number >= 0 && difference.checked };
  }

  read(row, column, { number, apart }) {
    const place = row * this.columns + column;
    const of = (matrix) => matrix.numbers[place] * matrix.steps[row];
    const more = number < 0 ? 0 : of(this.byClass[number]);
    return apart ? more : (this.fixed.get(place) ?? of(this.mean)) + more;
  }

  // How finely the value is known.
  step(row, column, { number, apart }) {
    const exact = apart || this.fixed.has(row * this.columns + column);
    return Math.max(exact ? 0 : this.mean.steps[row], number < 0 ? 0 : this.byClass[number].steps[row]);
  }

  fit() {
    const room = this.figure.querySelector(".window").clientWidth;
    const most = Math.floor(Math.sqrt(LARGEST_PIXELS / (this.rows * this.columns)));
    const side = clamp(Math.floor(room / this.columns), 3, this.shared ? 14 : 28);
    if (room && this.side !== (this.side = Math.max(1, Math.min(side, most)))) this.draw();
  }

  draw() {
    if (!this.side) return;
    const { canvas, side, rows, columns, chosen } = this;
    const bound = chosen.apart ? this.classBound : this.bound;
    const [minus, zero, plus] = ["--minus", "--zero", "--plus"].map(rgb);
    const cells = new ImageData(columns, rows);
    for (let row = 0, at = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++, at += 4) {
        const share = clamp(this.read(row, column, chosen) / bound, -1, 1);
        const end = share < 0 ? minus : plus;
        for (let i = 0; i < 3; i++) cells.data[at + i] = zero[i] + (end[i] - zero[i]) * Math.abs(share);
        cells.data[at + 3] = 255;
      }
    }
    canvas.width = columns * side;
    canvas.height = rows * side;
    const context = canvas.getContext("2d");
    const small = new OffscreenCanvas(columns, rows);
    small.getContext("2d").putImageData(cells, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    context.fillStyle = colour("--line");
    for (const start of this.starts.slice(1)) context.fillRect(0, start * side, canvas.width, 1);
    if (side >= MARKED) {
      context.strokeStyle = colour("--mark");
      for (const place of this.fixed.keys()) {
        const [x, y] = [place % columns, Math.floor(place / columns)].map((index) => index * side + 1.5);
        context.strokeRect(x, y, side - 3, side - 3);
      }
    }
    this.figure.querySelector(".low").textContent = number(-bound);
    this.figure.querySelector(".high").textContent = number(bound);
    this.label();
  }

  // Names of layers beside the map, as far as there is room.
  label() {
    const box = this.figure.querySelector(".labels");
    let free = 0;
    box.replaceChildren(...this.starts.flatMap((start, index) => {
      const top = start * this.side;
      if (top < free) return [];
      free = top + 13;
      const name = document.createElement("span");
      name.textContent = this.layers[index][0];
      name.style.top = `${top + 1}px`;
      return [name];
    }));
    box.style.height = `${this.canvas.height}px`;
  }

  text(row, column) {
    const index = this.starts.findLastIndex((start) => start <= row);
    const [layer, mixtures] = this.layers[index];
    const { number: which, apart } = this.chosen;
    const value = number(this.read(row, column, this.chosen), this.step(row, column, this.chosen));
    const whose = which < 0 ? `average over ${content.images.toLocaleString("en")} images` : `average over images of ${content.classes[which]}`;
    const where = this.shared
      ? `${layer}, mixture [${row - this.starts[index]}] of ${mixtures}, cell [${column}] of ${this.columns}`
      : `${layer}, kernel [${column}] of ${this.columns}`;
    const mark = this.fixed.has(row * this.columns + column) ? "; assigned" : "";
    return `${where}: ${value}, ${whose}${apart ? " minus that over all" : ""}${mark}`;
  }

  choose(row, column, event) {
    this.row = clamp(row, 0, this.rows - 1);
    this.column = clamp(column, 0, this.columns - 1);
    const text = this.text(this.row, this.column);
    say(this.figure, text, event);
    return text;
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    this.cursor.hidden = true;
    return this.choose(Math.floor((event.clientY - box.top) / this.side), Math.floor((event.clientX - box.left) / this.side), event);
  }

  move(event) {
    const layer = this.starts.findLastIndex((start) => start <= this.row);
    const to = {
      ArrowUp: [this.row - 1, this.column],
      ArrowDown: [this.row + 1, this.column],
      ArrowLeft: [this.row, this.column - 1],
      ArrowRight: [this.row, this.column + 1],
      PageUp: [this.starts[Math.max(layer - 1, 0)], this.column],
      PageDown: [this.starts[Math.min(layer + 1, this.starts.length - 1)], this.column],
      Home: [this.row, 0],
      End: [this.row, this.columns - 1],
    }[event.key];
    if (!to || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.choose(...(this.cursor.hidden ? [this.row, this.column] : to), event); // the first key shows where one is
    this.cursor.hidden = false;
    const { style } = this.cursor;
    style.left = `${this.column * this.side}px`;
    style.top = `${this.row * this.side}px`;
    style.width = style.height = `${this.side}px`;
    this.cursor.scrollIntoView({ block: "nearest", inline: "nearest", behavior: "instant" });
  }
}

for (const figure of document.querySelectorAll(".map")) drawn.push(new Sheet(figure, content.sheets[figure.dataset.sheet]));

function again() {
  if (average) difference.disabled = average.value === "-1";
  for (const sheet of drawn) sheet.side ? sheet.draw() : sheet.fit();
}

average?.addEventListener("change", again);
difference?.addEventListener("change", again);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
again();
