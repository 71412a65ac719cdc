// The latent explorer. Sliders make a latent, the two decoders make a picture and a mask of it, a canvas shows both.
// The decoders are ONNX files, run by onnxruntime-web (WebAssembly, one thread) from the folder ort/ beside this page.
"use strict";

const ORANGE = [0xd5, 0x5e, 0x00], YELLOW = "#f0e442"; // prediction and truth, as in vaelib.plots
const SIDE = 512; // pixels of a canvas; one of the slice is a block of them
const OPACITY = 0.6;
const at = (id) => document.getElementById(id);

let data, ort, sessions; // explorer.json, the runtime, the decoders by name
let start, toward; // entries of data.slices; the average slice has neither image nor truth
const sliders = {}; // inputs by name: morph, threshold, opacity, direction0, direction1 ...
const times = []; // milliseconds of the last draws

// --- files ------------------------------------------------------------------------------------------------------

async function get(name) {
  const answer = await fetch(name).catch(() => ({ ok: false }));
  if (!answer.ok) throw new Error(`${name} is missing: write the page anew with "python -m course.explorer".`);
  return answer;
}

async function load() {
  if (location.protocol === "file:") {
    throw new Error("A browser does not let a page that was opened as a file read the files beside it. In the " +
      'page\'s folder, run "python -m http.server" and open http://localhost:8000.');
  }
  data = await (await get("explorer.json")).json();
  try {
    ort = await import("./ort/ort.wasm.bundle.min.mjs");
  } catch {
    throw runtimeMissing();
  }
  ort.env.wasm.numThreads = 1; // more need headers that a plain web server does not send, and gain nothing here
  const files = { image: "decoder.onnx", mask: "mask.onnx" };
  sessions = {};
  for (const [name, file] of Object.entries(files)) {
    const weights = new Uint8Array(await (await get(file)).arrayBuffer());
    sessions[name] = await ort.InferenceSession.create(weights).catch((error) => {
      throw /wasm|backend/i.test(error.message) ? runtimeMissing() : error;
    });
  }
}

function runtimeMissing() {
  return new Error("The runtime is missing: copy ort.wasm.bundle.min.mjs and ort-wasm-simd-threaded.wasm from the " +
    "folder dist of the npm package onnxruntime-web into the folder ort beside this page.");
}

const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

// One bit a pixel, the highest of a byte first, as numpy.packbits has them.
function unpack(base64) {
  const packed = bytes(base64);
  return Uint8Array.from({ length: 8 * packed.length }, (_, i) => (packed[i >> 3] >> (7 - (i & 7))) & 1);
}

// --- numbers ----------------------------------------------------------------------------------------------------

const value = (name) => Number(sliders[name].value);

// start + morph * (toward - start) + the sum of steps times directions
function latentNow() {
  const morph = value("morph");
  const z = start.latent.map((x, i) => x + morph * (toward.latent[i] - x));
  data.directions.forEach((direction, k) => {
    const step = value(`direction${k}`);
    if (step) direction.forEach((x, i) => { z[i] += step * x; });
  });
  return z;
}

// Grey values and probabilities, Float32Arrays of size * size, of a latent: what the tests compare with PyTorch.
async function decode(z) {
  const latent = new ort.Tensor("float32", Float32Array.from(z), [1, ...data.shape]);
  const out = {};
  for (const [name, session] of Object.entries(sessions)) out[name] = (await session.run({ latent })).image.data;
  return out;
}

function dice(mask, truth) {
  let both = 0, sum = 0;
  for (let i = 0; i < mask.length; i++) {
    both += mask[i] & truth[i];
    sum += mask[i] + truth[i];
  }
  return sum ? (2 * both) / sum : 1;
}

// --- pictures ---------------------------------------------------------------------------------------------------

const small = document.createElement("canvas"); // a slice at its own size, before it is enlarged

// Grey values from 0 to 1, an orange fill where `mask` is 1, and the outline of `truth`; either may be missing.
function paint(canvas, grey, mask, truth) {
  const n = data.size, pen = canvas.getContext("2d"), pixels = new ImageData(n, n);
  const opacity = value("opacity");
  for (let i = 0; i < n * n; i++) {
    const share = mask?.[i] ? opacity : 0;
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = 255 * grey[i] * (1 - share) + ORANGE[c] * share;
    pixels.data[4 * i + 3] = 255;
  }
  small.width = small.height = n;
  small.getContext("2d").putImageData(pixels, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
  if (truth) outline(pen, truth, canvas.width / n);
}

// The edges between pixels inside and outside: yellow on black, so that it shows on any grey.
function outline(pen, truth, block) {
  const n = data.size, path = new Path2D();
  const inside = (row, column) => (row < n && column < n ? truth[row * n + column] : 0);
  for (let r = 0; r <= n; r++) {
    for (let c = 0; c <= n; c++) {
      for (const [up, left, down, right] of [[r - 1, c, r, c + 1], [r, c - 1, r + 1, c]]) {
        if ((up < 0 || left < 0 ? 0 : inside(up, left)) === inside(r, c)) continue;
        path.moveTo(c * block, r * block); // along the row above, or the column to the left, of this pixel
        path.lineTo((up < r ? c + 1 : c) * block, (up < r ? r : r + 1) * block);
      }
    }
  }
  pen.lineCap = "square";
  for (const [colour, width] of [["#000", 6], [YELLOW, 3]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.stroke(path);
  }
}

// --- drawing, once a frame at most ------------------------------------------------------------------------------

let wanted = false, drawing = false, spoken;

function request() {
  if (!wanted && !drawing) requestAnimationFrame(draw);
  wanted = true; // what moves while a draw is on its way is drawn next
}

async function draw() {
  wanted = false;
  drawing = true;
  const begin = performance.now(), z = latentNow();
  const { image, mask: probability } = await decode(z);
  const mask = Uint8Array.from(probability, (p) => p >= value("threshold"));
  const whose = value("morph") === 1 ? toward : start; // the truth that is outlined
  paint(at("decoded"), image, mask, whose.truth);
  times.push(performance.now() - begin);
  if (times.length > 101) times.shift();
  report(z, mask, whose);
  drawing = false;
  window.explorer.draws += 1;
  if (wanted) requestAnimationFrame(draw);
}

function report(z, mask, whose) {
  const moved = Math.hypot(...z.map((x, i) => x - whose.latent[i]));
  const pixels = mask.reduce((sum, bit) => sum + bit, 0);
  let score = "no truth to compare with";
  if (whose.truth) {
    score = `Dice ${dice(mask, whose.truth).toFixed(2)} with the truth of ${whose.name}`;
    if (moved > 1e-6) score += `, from which the latent has moved ${moved.toFixed(2)}`;
  }
  const text = `Mask at ${value("threshold").toFixed(2)}: ${pixels} pixels; ${score}.`;
  const median = [...times].sort((a, b) => a - b)[times.length >> 1];
  const speed = times.length < 5 ? "" : ` A draw takes ${median.toFixed(1)} ms (median).`; // the first take longer
  at("readout").textContent = text + speed;
  clearTimeout(spoken); // a screen reader hears where a movement ends, not each step of it
  spoken = setTimeout(() => { at("spoken").textContent = text; }, 500);
}

// --- controls ---------------------------------------------------------------------------------------------------

function addSlider(place, name, label, min, max, step) {
  const row = at("row").content.cloneNode(true);
  const [text, input, output] = row.querySelectorAll("label, input, output");
  Object.assign(input, { id: name, min, max, step });
  text.htmlFor = name;
  text.textContent = label;
  output.htmlFor = name;
  sliders[name] = input;
  input.addEventListener("input", () => { show(name); request(); });
  at(place).append(row);
}

function show(name) {
  const digits = name.startsWith("direction") ? 1 : 2;
  sliders[name].nextElementSibling.value = value(name).toFixed(digits).replace("-", "−");
}

function set(values) {
  for (const [name, x] of Object.entries(values)) {
    sliders[name].value = x;
    show(name);
  }
  request();
}

const steps = (make) => Object.fromEntries(data.directions.map((_, k) => [`direction${k}`, make(k)]));

function begin(index) {
  at("start").value = index;
  start = data.slices[index];
  at("original-title").textContent = start.truth ? "Original" : "No original";
  paint(at("original"), start.image ?? new Float32Array(data.size ** 2), null, start.truth);
  set({ morph: 0, threshold: data.threshold, ...steps(() => 0) });
}

function normal() { // one draw from N(0, 1), by Box and Muller
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

function build() {
  for (const slice of data.slices) {
    slice.truth = unpack(slice.truth);
    slice.image = Float32Array.from(bytes(slice.image), (grey) => grey / 255);
  }
  data.slices.push({ name: "the average slice", latent: data.mean });
  const label = (s) => (s.truth ? `${s.name}, slice ${s.slice}` : s.name);
  for (const id of ["start", "toward"]) at(id).append(...data.slices.map((s, k) => new Option(label(s), k)));
  for (const id of ["decoded", "original"]) at(id).width = at(id).height = Math.max(SIDE, data.size);
  addSlider("look", "morph", "morph", 0, 1, 0.05);
  addSlider("look", "threshold", "threshold", 0.01, 0.99, 0.01);
  addSlider("look", "opacity", "mask's opacity", 0, 1, 0.05);
  data.explained.forEach((share, k) => {
    addSlider("directions", `direction${k}`, `direction ${k + 1} (${(100 * share).toFixed(0)}%)`, -3, 3, 0.1);
  });
  const average = data.slices.length - 1;
  at("toward").value = Math.min(1, average);
  toward = data.slices[at("toward").value];
  at("start").addEventListener("change", () => begin(Number(at("start").value)));
  at("toward").addEventListener("change", () => { toward = data.slices[at("toward").value]; request(); });
  at("reset").addEventListener("click", () => { set({ opacity: OPACITY }); begin(Number(at("start").value)); });
  at("random").addEventListener("click", () => {
    begin(average);
    set(steps(() => Math.max(-3, Math.min(3, normal())).toFixed(1)));
  });
  at("note").textContent = data.note;
  document.querySelector('[data-fill="side"]').textContent = data.size;
  document.querySelector('[data-fill="latent"]').textContent = data.mean.length;
  set({ opacity: OPACITY });
  begin(0);
}

window.explorer = { decode, draws: 0 };
window.explorer.ready = load().then(build).catch((error) => {
  at("readout").textContent = at("spoken").textContent = error.message;
  at("readout").className = "failed";
  at("controls").inert = true;
});
