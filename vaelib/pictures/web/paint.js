// What is on the page: controls that work by keyboard and have names, pictures on a canvas, a caption in words.

function make(tag, settings = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) {
    if (name in made && !name.startsWith("aria")) made[name] = value;
    else made.setAttribute(name.replace("aria", "aria-").toLowerCase(), value);
  }
  made.append(...inside);
  return made;
}

const rgb = (colour) => [1, 3, 5].map((k) => parseInt(colour.slice(k, k + 2), 16));
const shown = (number, digits) => number.toFixed(digits).replace("-", "−");
let boards = 0; // on this page: names of controls are its own

// Pictures, controls and a caption that follow each other. Controls are kept by name; `draw()` of the board returns the
// caption. One draw is made at once, and further ones wait for the next frame: never more than one a frame.
class Board {
  constructor(el, alt) {
    this.controls = {};
    this.pictures = [];
    this.draws = 0;
    this.alt = alt;
    this.id = `vaelib-live-${++boards}`;
    this.shown = make("div", { className: "pictures" });
    this.form = make("div", { className: "controls", role: "group", ariaLabel: "Controls" });
    this.caption = make("p", { className: "caption" });
    this.status = make("p", { className: "unseen", role: "status", ariaLive: "polite" });
    this.root = make("div", { className: "vaelib-live" }, this.shown, this.form);
    this.root.board = this;
    el.replaceChildren(this.root);
  }

  begin(draw, key = {}) {
    this.draw = draw;
    const words = Object.entries(key).map(([name, colour]) =>
      make("span", {}, make("i", { style: `background: ${colour}` }), ` ${name}`));
    this.shown.append(make("p", { className: "key" }, ...words), this.caption, this.status);
  }

  // --- controls

  row(label, control, ...more) {
    control.dataset.lmSuppressShortcuts = "true"; // JupyterLab takes no key that is pressed in it
    control.id ||= `${this.id}-${Object.keys(this.controls).length}-${this.form.querySelectorAll(".row").length}`;
    const text = make("label", { htmlFor: control.id }, label);
    const row = make("div", { className: "row" }, text, control, ...more);
    (this.within ?? this.form).append(row);
    return { row, text };
  }

  slider(name, label, min, max, value, step = 1, act = () => {}) {
    const input = make("input", { type: "range", min, max, step, value, autocomplete: "off" });
    const output = make("output");
    const digits = (String(step).split(".")[1] ?? "").length;
    const show = () => { output.value = shown(Number(input.value), digits); };
    input.addEventListener("input", () => { show(); act(Number(input.value)); this.request(); });
    const { row, text } = this.row(label, input, output);
    output.htmlFor = input.id;
    this.controls[name] = {
      input, row, text, act, get: () => Number(input.value), put: (x) => { input.value = x; show(); },
    };
    show();
    return this.controls[name];
  }

  choice(name, label, options, value, act = () => {}) { // `options`: what is chosen, by its name
    const select = make("select", { autocomplete: "off" });
    const control = { input: select, options, act };
    control.fill = () => {
      const at = select.value;
      select.replaceChildren(...Object.keys(options).map((key) => new Option(key, key)));
      if (at in options) select.value = at;
    };
    control.get = () => options[select.value];
    control.put = (x) => {
      const same = (y) => JSON.stringify(y) === JSON.stringify(x);
      const found = Object.keys(options).find((key) => options[key] === x || (typeof x === "object" && same(options[key])));
      select.value = x in options ? x : found ?? "";
    };
    select.addEventListener("change", () => { act(control.get()); this.request(); });
    Object.assign(control, this.row(label, select));
    control.fill();
    if (value !== undefined) control.put(value);
    this.controls[name] = control;
    return control;
  }

  buttons(acts) {
    const made = Object.entries(acts).map(([name, act]) =>
      make("button", { type: "button", onclick: () => { act(); this.request(); }, "data-lm-suppress-shortcuts": "true" }, name));
    this.form.append(make("div", { className: "buttons" }, ...made));
  }

  group(legend, fill) {
    this.within = make("fieldset", {}, make("legend", {}, legend));
    this.form.append(this.within);
    fill();
    this.within = undefined;
  }

  value(name) { return this.controls[name].get(); }

  // Move several controls, and draw once.
  set(values) {
    for (const [name, value] of Object.entries(values)) {
      const control = this.controls[name];
      if (!control) continue;
      control.put(value);
      control.act(control.get());
    }
    this.request();
  }

  // --- drawing

  request() {
    this.wanted = true;
    if (this.waiting || !this.draw) return;
    this.waiting = true;
    this.now();
    requestAnimationFrame(() => {
      this.waiting = false;
      if (this.wanted) this.request();
    });
  }

  now() {
    this.wanted = false;
    const text = this.draw();
    this.draws += 1;
    this.caption.textContent = text;
    for (const picture of this.pictures) {
      picture.canvas.setAttribute("aria-label", `${picture.title.textContent}: ${this.alt}. ${text}`);
    }
    clearTimeout(this.spoken); // a screen reader hears where a movement ends, not each step of it
    this.spoken = setTimeout(() => { this.status.textContent = text; }, 400);
    this.after?.();
  }
}

// A grey image, colours over it, outlines, letters: one canvas, drawn as sharp as the screen is.
class Picture {
  constructor(board, title = "") {
    this.canvas = make("canvas", { role: "img", ariaLabel: title });
    this.title = make("figcaption", {}, title);
    this.figure = make("figure", {}, this.title, this.canvas);
    this.small = make("canvas"); // the image at its own size, before it is enlarged
    board.pictures.push(this);
    board.shown.append(this.figure);
    new ResizeObserver(() => { if (this.drawn && this.wide() !== this.canvas.width) board.request(); }).observe(this.canvas);
  }

  wide() { return Math.round((this.canvas.clientWidth || 360) * (window.devicePixelRatio || 1)); }

  // `grey`: bytes (height, width). `fill`: bytes, which `colours` turns into [red, green, blue, opacity]; 0 is clear.
  draw({ width, height, grey, fill, colours, aspect = 1, letters = "", outlines = [], lines, box }) {
    const { canvas, small } = this, wide = this.wide(), tall = Math.round((wide * height * aspect) / width);
    this.size = [width, height];
    this.drawn = true;
    if (canvas.width !== wide || canvas.height !== tall) {
      [canvas.width, canvas.height] = [wide, tall];
      canvas.style.aspectRatio = `${width} / ${height * aspect}`;
    }
    if (!this.pixels || small.width !== width || small.height !== height) {
      [small.width, small.height] = [width, height];
      this.pixels = new ImageData(width, height);
      this.words = new Uint32Array(this.pixels.data.buffer);
    }
    const { words } = this;
    for (let i = 0; i < words.length; i++) words[i] = 0xff000000 | (grey[i] * 0x010101);
    if (fill) {
      for (let i = 0; i < words.length; i++) {
        if (!fill[i]) continue;
        const [r, g, b, a] = colours[fill[i]], under = (1 - a) * grey[i];
        words[i] = 0xff000000 | ((under + a * b) << 16) | ((under + a * g) << 8) | (under + a * r);
      }
    }
    small.getContext("2d").putImageData(this.pixels, 0, 0);
    const pen = canvas.getContext("2d"), sx = wide / width, sy = tall / height, dense = window.devicePixelRatio || 1;
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, wide, tall);
    for (const { mask, colour } of outlines) this.outline(pen, mask, colour, sx, sy, dense);
    if (lines) this.cross(pen, lines, sx, sy, dense);
    if (box) {
      pen.lineWidth = 2 * dense;
      pen.strokeStyle = "#fff";
      pen.strokeRect(box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy);
    }
    this.letters(pen, letters, wide, tall, dense);
  }

  // The edges between pixels inside and outside of a mask, on black, so that they show on any grey.
  outline(pen, mask, colour, sx, sy, dense) {
    const [w, h] = this.size, path = new Path2D();
    for (let r = 0, i = 0; r < h; r++) {
      for (let c = 0; c < w; c++, i++) {
        if (!mask[i]) continue;
        const x = c * sx, y = r * sy, X = x + sx, Y = y + sy;
        if (!r || !mask[i - w]) { path.moveTo(x, y); path.lineTo(X, y); }
        if (r === h - 1 || !mask[i + w]) { path.moveTo(x, Y); path.lineTo(X, Y); }
        if (!c || !mask[i - 1]) { path.moveTo(x, y); path.lineTo(x, Y); }
        if (c === w - 1 || !mask[i + 1]) { path.moveTo(X, y); path.lineTo(X, Y); }
      }
    }
    pen.lineCap = "square";
    for (const [style, wide] of [["#000", 3.5], [colour, 1.75]]) {
      pen.strokeStyle = style;
      pen.lineWidth = wide * dense;
      pen.stroke(path);
    }
  }

  cross(pen, [column, row], sx, sy, dense) {
    const x = (column + 0.5) * sx, y = (row + 0.5) * sy, gap = 10 * dense, path = new Path2D();
    for (const [a, b, c, d] of [[0, y, x - gap, y], [x + gap, y, this.canvas.width, y],
      [x, 0, x, y - gap], [x, y + gap, x, this.canvas.height]]) {
      path.moveTo(a, b);
      path.lineTo(c, d);
    }
    pen.lineWidth = dense;
    pen.strokeStyle = "#56B4E9";
    pen.stroke(path);
  }

  letters(pen, letters, wide, tall, dense) {
    pen.font = `600 ${13 * dense}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineWidth = 3 * dense;
    pen.strokeStyle = "#000";
    pen.fillStyle = "#fff";
    const edge = 11 * dense;
    const places = [[edge, tall / 2], [wide - edge, tall / 2], [wide / 2, edge], [wide / 2, tall - edge]];
    [...letters].forEach((letter, k) => {
      pen.strokeText(letter, ...places[k]);
      pen.fillText(letter, ...places[k]);
    });
  }

  // The pixel of the image under the pointer: [column, row].
  under(event) {
    const box = this.canvas.getBoundingClientRect(), [w, h] = this.size;
    const inside = (x, n) => Math.max(0, Math.min(n - 1, Math.floor(x * n)));
    return [inside((event.clientX - box.left) / box.width, w), inside((event.clientY - box.top) / box.height, h)];
  }
}
