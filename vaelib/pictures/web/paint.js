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
    input.addEventListener("input", () => { show(); this.once(() => act(Number(input.value))); });
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
    select.addEventListener("change", () => this.once(() => act(control.get())));
    Object.assign(control, this.row(label, select));
    control.fill();
    if (value !== undefined) control.put(value);
    this.controls[name] = control;
    return control;
  }

  buttons(acts) {
    const made = Object.entries(acts).map(([name, act]) =>
      make("button", { type: "button", onclick: () => this.once(act), "data-lm-suppress-shortcuts": "true" }, name));
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
    this.once(() => {
      for (const [name, value] of Object.entries(values)) {
        const control = this.controls[name];
        control?.put(value);
        control?.act(control.get());
      }
    });
  }

  once(act) {
    const before = this.quiet;
    this.quiet = true;
    act();
    this.quiet = before;
    this.request();
  }

  // --- drawing

  request() {
    this.wanted = true;
    if (this.waiting || this.quiet || !this.draw) return;
    this.waiting = true;
    this.draws += 1;
    this.now();
    requestAnimationFrame(() => {
      this.waiting = false;
      if (this.wanted) this.request();
    });
  }

  now() {
    this.wanted = false;
    const text = this.draw();
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
    this.base = make("canvas"); // all but the lines that move over it
    board.pictures.push(this);
    board.shown.append(this.figure);
    new ResizeObserver(() => {
      this.room = 0;
      if (this.drawn && this.wide() !== this.canvas.width) board.now();
    }).observe(this.canvas);
  }

  // Pixels of the screen across. To ask the page makes it lay itself out: so it is asked once, and when it may differ.
  wide() { return Math.round((this.room ||= this.canvas.clientWidth || 360) * (window.devicePixelRatio || 1)); }

  // `grey`: bytes (height, width). `fill`: bytes, which `colours` turns into [red, green, blue, opacity]; 0 is clear.
  // What has the `key` of the last draw is as it was: then only `lines` and `box` are drawn anew.
  draw(view) {
    const { width, height, aspect = 1, lines, box, key } = view, { canvas, base } = this;
    const wide = this.wide(), tall = Math.round((wide * height * aspect) / width), sx = wide / width, sy = tall / height;
    this.size = [width, height];
    this.drawn = true;
    if (canvas.width !== wide || canvas.height !== tall) {
      for (const one of [canvas, base]) [one.width, one.height] = [wide, tall];
      canvas.style.aspectRatio = `${width} / ${height * aspect}`;
      this.key = undefined;
    }
    if (!key || key !== this.key) this.ground(view, sx, sy);
    this.key = key;
    const pen = canvas.getContext("2d"), dense = window.devicePixelRatio || 1;
    pen.drawImage(base, 0, 0);
    if (lines) this.cross(pen, lines, sx, sy, dense);
    if (box) {
      [pen.lineWidth, pen.strokeStyle] = [2 * dense, "#fff"];
      pen.strokeRect(box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy);
    }
  }

  ground({ width, height, grey, fill, colours, letters = "", outlines = [] }, sx, sy) {
    const { small, base } = this, dense = window.devicePixelRatio || 1, pen = base.getContext("2d");
    if (!this.pixels || small.width !== width || small.height !== height) {
      [small.width, small.height] = [width, height];
      this.pixels = new ImageData(width, height);
      this.words = new Uint32Array(this.pixels.data.buffer);
    }
    const { words } = this;
    for (let i = 0; i < words.length; i++) words[i] = 0xff000000 | (grey[i] * 0x010101);
    for (let i = 0; fill && i < words.length; i++) {
      if (!fill[i]) continue;
      const colour = colours[fill[i]], a = colour[3], under = (1 - a) * grey[i];
      words[i] = 0xff000000 | ((under + a * colour[2]) << 16) | ((under + a * colour[1]) << 8) | (under + a * colour[0]);
    }
    small.getContext("2d").putImageData(this.pixels, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, base.width, base.height);
    for (const { mask, colour, opacity = 1 } of outlines) {
      const path = new Path2D();
      path.addPath(edges(mask, width), new DOMMatrix([sx, 0, 0, sy, 0, 0]));
      pen.lineCap = "square";
      for (const [style, broad] of [["#000", 3.5], [colour, 1.75]]) { // on black, so that it shows on any grey
        [pen.strokeStyle, pen.lineWidth, pen.globalAlpha] = [style, broad * dense, opacity];
        pen.stroke(path);
      }
      pen.globalAlpha = 1;
    }
    this.letters(pen, letters, base.width, base.height, dense);
  }

  cross(pen, [column, row], sx, sy, dense) {
    const x = (column + 0.5) * sx, y = (row + 0.5) * sy, gap = 10 * dense, path = new Path2D();
    [[0, y, x - gap, y], [x + gap, y, this.canvas.width, y], [x, 0, x, y - gap], [x, y + gap, x, this.canvas.height]]
      .forEach(([a, b, c, d]) => { path.moveTo(a, b); path.lineTo(c, d); });
    [pen.lineWidth, pen.strokeStyle] = [dense, "#56B4E9"];
    pen.stroke(path);
  }

  letters(pen, letters, wide, tall, dense) {
    pen.font = `600 ${13 * dense}px system-ui, sans-serif`;
    [pen.textAlign, pen.textBaseline, pen.lineWidth] = ["center", "middle", 3 * dense];
    [pen.strokeStyle, pen.fillStyle] = ["#000", "#fff"];
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

// Meshes in mm, LPS, seen from an azimuth and an elevation, as `solids.View` draws them.
class Solid {
  constructor(picture, vertices, faces, colour, limits) {
    const centre = limits[0].map((low, i) => (low + limits[1][i]) / 2);
    this.half = limits[0].map((low, i) => (limits[1][i] - low) / 2);
    this.reach = Math.max(...this.half);
    Object.assign(this, { picture, faces, colour: rgb(colour), vertices: vertices.map((x, i) => x - centre[i % 3]) });
  }

  // The triangles that face the eye, each of one shade; of two at a pixel the nearer one is seen.
  shade(side, place, eye, light) {
    const pixels = new ImageData(side, side), words = new Uint32Array(pixels.data.buffer).fill(0xffffffff);
    const depth = new Float32Array(words.length).fill(-Infinity), count = this.vertices.length / 3;
    const seen = Array.from({ length: count }, (_, k) => {
      const v = this.vertices.subarray(3 * k, 3 * k + 3);
      return [...place(v), dot(v, eye), v];
    });
    for (let f = 0; f < this.faces.length; f += 3) {
      const [[ax, ay, az, a], [bx, by, bz, b], [cx, cy, cz, c]] = [0, 1, 2].map((k) => seen[this.faces[f + k]]);
      const area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay);
      if (area >= 0) continue; // seen from inside: y goes down in a picture
      const [u, v] = [[b[0] - a[0], b[1] - a[1], b[2] - a[2]], [c[0] - a[0], c[1] - a[1], c[2] - a[2]]];
      const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
      const bright = 0.35 + (0.65 * Math.max(0, dot(n, light))) / (Math.hypot(...n) || 1);
      const [red, green, blue] = this.colour.map((x) => Math.round(bright * x));
      const word = 0xff000000 | (blue << 16) | (green << 8) | red, last = side - 1;
      const top = Math.max(0, Math.floor(Math.min(ay, by, cy))), end = Math.min(last, Math.ceil(Math.max(ay, by, cy)));
      const from = Math.max(0, Math.floor(Math.min(ax, bx, cx))), to = Math.min(last, Math.ceil(Math.max(ax, bx, cx)));
      for (let y = top; y <= end; y++) {
        for (let x = from; x <= to; x++) {
          const p = ((bx - x) * (cy - y) - (cx - x) * (by - y)) / area;
          const q = ((cx - x) * (ay - y) - (ax - x) * (cy - y)) / area;
          if (p < -1e-6 || q < -1e-6 || p + q > 1 + 1e-6) continue;
          const near = p * az + q * bz + (1 - p - q) * cz, at = y * side + x;
          if (near > depth[at]) { depth[at] = near; words[at] = word; }
        }
      }
    }
    return pixels;
  }

  turn(azimuth, elevation, bar) {
    const { canvas } = this.picture, side = this.picture.wide(), dense = window.devicePixelRatio || 1;
    if (canvas.width !== side || canvas.height !== side) [canvas.width, canvas.height] = [side, side];
    const [a, e] = [azimuth, elevation].map((degrees) => (degrees * Math.PI) / 180);
    const eye = [Math.cos(e) * Math.cos(a), Math.cos(e) * Math.sin(a), Math.sin(e)], right = [-Math.sin(a), Math.cos(a), 0];
    const up = [-Math.sin(e) * Math.cos(a), -Math.sin(e) * Math.sin(a), Math.cos(e)];
    const light = eye.map((x, i) => (x + 0.5 * up[i] - 0.5 * right[i]) / Math.sqrt(1.5)); // above the left shoulder
    const scale = side / (2 * this.reach + 44), pen = canvas.getContext("2d");
    const place = (v) => [side / 2 + scale * dot(v, right), side / 2 - scale * dot(v, up)];
    this.picture.drawn = true;
    pen.putImageData(this.shade(side, place, eye, light), 0, 0);
    const beside = (direction, gap) => { // the body taken as an ellipsoid
      const long = Math.hypot(...direction) || 1, unit = direction.map((x) => x / long);
      return unit.map((x) => x * (Math.hypot(...unit.map((y, i) => y * this.half[i])) + gap));
    };
    pen.fillStyle = pen.strokeStyle = "#303030";
    pen.lineWidth = 2 * dense;
    pen.font = `${13 * dense}px system-ui, sans-serif`;
    [pen.textAlign, pen.textBaseline] = ["center", "middle"];
    [..."RLAPIS"].forEach((letter, k) => {
      const direction = [0, 0, 0];
      direction[k >> 1] = 2 * (k % 2) - 1;
      const toward = dot(direction, eye); // the two that point at the viewer say nothing
      if (Math.abs(toward) < 0.8) pen.fillText(letter, ...place(beside(direction.map((x, i) => x - toward * eye[i]), 9)));
    });
    const [x, y] = [side / 2, side - 12 * dense], half = (bar * scale) / 2;
    pen.fillRect(x - half, y, 2 * half, 2 * dense);
    pen.fillText(`${bar} mm`, x, y - 9 * dense);
  }
}

// Dots on two axes: each a slice, named under the pointer with its thumbnail, and taken by a click.
class Chart extends Picture {
  constructor(board, points, { name, pick, thumb, title }) {
    super(board, title);
    Object.assign(this, { board, points, name, pick, thumb });
    this.label = make("span");
    this.tip = make("div", { className: "thumb", hidden: true }, this.small, this.label);
    this.figure.className = "map";
    this.figure.append(this.tip);
    const ends = (end) => [0, 1].map((i) => points.reduce((found, at) => end(found, at[i]), points[0][i]));
    [this.low, this.high] = [ends(Math.min), ends(Math.max)];
    this.canvas.addEventListener("click", (event) => { const k = this.nearest(event); if (k >= 0) pick(k); });
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => { this.tip.hidden = true; });
  }

  place(at, side) { // a margin of one twentieth
    return at.map((x, i) => {
      const share = 0.05 + (0.9 * (x - this.low[i])) / (this.high[i] - this.low[i] || 1);
      return side * (i ? 1 - share : share);
    });
  }

  nearest(event) {
    const box = this.canvas.getBoundingClientRect(), at = [event.clientX - box.left, event.clientY - box.top];
    let best = -1, least = 14 ** 2;
    this.points.forEach((point, k) => {
      const [x, y] = this.place(point, box.width), far = (x - at[0]) ** 2 + (y - at[1]) ** 2;
      if (far < least) [best, least] = [k, far];
    });
    return best;
  }

  point(event) {
    const k = this.nearest(event), box = this.canvas.getBoundingClientRect();
    this.tip.hidden = k < 0;
    if (k < 0) return;
    const { grey, side } = this.thumb(k), words = Uint32Array.from(grey, (g) => 0xff000000 | (g * 0x010101));
    [this.small.width, this.small.height] = [side, side];
    const pixels = new ImageData(new Uint8ClampedArray(words.buffer), side, side);
    this.small.getContext("2d").putImageData(pixels, 0, 0);
    this.label.textContent = this.name(k);
    const x = event.clientX - box.left;
    this.tip.style.left = `${x > box.width / 2 ? x - 120 : x + 14}px`;
    this.tip.style.top = `${this.canvas.offsetTop + event.clientY - box.top - 60}px`;
  }

  scatter(side, dot, ink) {
    const pen = this.base.getContext("2d");
    [this.base.width, this.base.height, this.ink] = [side, side, ink];
    [pen.fillStyle, pen.globalAlpha] = [ink, 0.35];
    for (const point of this.points) {
      const [x, y] = this.place(point, side);
      pen.fillRect(x - dot, y - dot, 2 * dot, 2 * dot);
    }
  }

  draw(here, group) { // `group`: the dots that a line joins, in order
    const side = this.wide(), dot = side / 170, pen = this.canvas.getContext("2d");
    const ink = getComputedStyle(this.board.root).color;
    this.drawn = true;
    if (this.canvas.width !== side) [this.canvas.width, this.canvas.height] = [side, side];
    if (this.base.width !== side || this.ink !== ink) this.scatter(side, dot, ink);
    pen.clearRect(0, 0, side, side);
    pen.drawImage(this.base, 0, 0);
    [pen.strokeStyle, pen.lineWidth] = ["#56B4E9", 1.2 * dot];
    pen.beginPath();
    for (const k of group) pen.lineTo(...this.place(this.points[k], side));
    pen.stroke();
    const [x, y] = this.place(here, side);
    for (const [style, wide] of [[ink, 4], ["#D55E00", 2]]) {
      [pen.strokeStyle, pen.lineWidth] = [style, wide * dot];
      pen.beginPath();
      pen.arc(x, y, 5 * dot, 0, 7);
      pen.stroke();
    }
  }
}
