// The numbers: what Python packed is unpacked, and a network that it described is computed layer by layer, on typed
// arrays, its convolutions as WebAssembly where there is one. Feature maps are (channels, height, width) in one Float32Array, as in PyTorch.
// This file, paint.js and boards.js are one ES module: they are joined in this order.

const TYPES = { f4: Float32Array, i4: Int32Array, i2: Int16Array, u1: Uint8Array };

// Base64 of gzip of the first bytes of all numbers, then all second bytes and so on, as `network.packed` writes it.
async function unpack({ type, data }) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser cannot unpack what is shown here: any browser of 2023 or newer can.");
  }
  const zipped = Uint8Array.fromBase64?.(data) ?? Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer()), wide = TYPES[type].BYTES_PER_ELEMENT;
  if (wide === 1) return planes;
  const bytes = new Uint8Array(planes.length);
  for (let k = 0, at = 0; k < wide; k++) for (let i = k; i < bytes.length; i += wide) bytes[i] = planes[at++];
  return new TYPES[type](bytes.buffer);
}

// Bits, the highest of a byte first, as numpy.packbits has them.
const bit = (packed, i) => (packed[i >> 3] >> (7 - (i & 7))) & 1;

// A convolution is, for each pixel, a sum over taps: weights, each with the place of its pixel in the image. That takes
// nearly all of the time, so it runs as WebAssembly, assembled here: 4 x 4 pixels at once, which stay in registers. Its
// arguments are addresses and lengths in bytes, and the bias.
function assembled(memory) {
  const [image, row, weight, tap, taps, out, line, bias, x, y, t, p, w, sum] = Array(14).keys(); // and 3 sums more
  const get = (k) => [0x20, k], set = (k) => [0x21, k], number = (n) => [0x41, n], four = [0, 1, 2, 3];
  const plus = (...what) => [what, 0x6a], less = (k, n) => [get(k), number(n), 0x6b, 0x22, k];
  const loop = (...inside) => [0x03, 0x40, inside, 0x0d, 0, 0x0b]; // until what it counts down is 0
  const load = [0xfd, 0, 2, 0], store = [0xfd, 11, 2, 0], spread = [0xfd, 19], add = [0xfd, 0xe4, 1], times = [0xfd, 0xe6, 1];
  const code = [
    get(line), set(y),
    loop(
      get(line), set(x),
      loop(
        four.map((k) => [get(bias), spread, set(sum + k)]), get(taps), set(t),
        loop(
          less(t, 4), plus(get(tap)), 0x28, 2, 0, plus(get(image)), set(p), get(t), plus(get(weight)), 0xfd, 9, 2, 0, set(w),
          four.map((k) => [get(sum + k), get(w), get(p), load, times, add, set(sum + k), get(p), plus(get(row)), set(p)]),
          get(t),
        ),
        get(out), set(p), four.map((k) => [get(p), get(sum + k), store, get(p), plus(get(line)), set(p)]),
        get(image), plus(number(16)), set(image), get(out), plus(number(16)), set(out), less(x, 16),
      ),
      get(image), plus(get(row), number(2), 0x74), get(line), 0x6b, set(image), // 4 rows on
      get(out), plus(get(line), number(3), 0x6c), set(out), less(y, 16),
    ), 0x0b,
  ];
  const sized = (...inside) => {
    const all = inside.flat(Infinity), n = all.length;
    return [...(n < 128 ? [n] : [(n & 127) | 128, n >> 7]), ...all];
  };
  const module = [0, 97, 115, 109, 1, 0, 0, 0, 1, sized(1, 0x60, 8, Array(7).fill(0x7f), 0x7d, 0), // (7 i32, f32) -> ()
    2, sized(1, 1, 109, 1, 109, 2, 0, 1), 3, sized(1, 0), 7, sized(1, 1, 102, 0, 0), // takes memory m.m, gives f
    10, sized(1, sized(2, 4, 0x7f, 5, 0x7b, code))];
  const made = new WebAssembly.Module(Uint8Array.from(module.flat(Infinity)));
  return new WebAssembly.Instance(made, { m: { m: memory } }).exports.f;
}

// The same in plain JavaScript, for a browser, or a page, that has no WebAssembly.
function summed(heap, image, row, weight, tap, taps, out, line, bias) {
  const n = line / 4, places = new Int32Array(heap.buffer, tap, taps / 4), m = row / 4;
  const sums = heap.subarray(out / 4, out / 4 + n * n).fill(bias);
  places.forEach((place, t) => {
    const w = heap[weight / 4 + t];
    for (let y = 0, r = 0; y < n; y++) {
      for (let q = (image + place) / 4 + y * m, end = r + n; r < end; r++, q++) sums[r] += w * heap[q];
    }
  });
}

const engine = { heap: new Float32Array(0) };
try {
  const memory = new WebAssembly.Memory({ initial: 64 });
  Object.assign(engine, { sum: assembled(memory), memory, heap: new Float32Array(memory.buffer) });
} catch { /* plain JavaScript it is */ }

function heapOf(length) {
  const { memory } = engine, pages = Math.ceil((length - engine.heap.length) / 16384);
  if (pages > 0) memory?.grow(pages);
  if (pages > 0) engine.heap = memory ? new Float32Array(memory.buffer) : new Float32Array(length);
  return engine.heap;
}

// Of x, (channels, n, n) with `by` zeros around, for each bias and each shift, in pixels, a map (n, n): the bias, and
// kernel x kernel weights times each channel.
function maps(x, n, by, kernel, weight, biases, shifts = [0]) {
  const channels = x.length / (n * n), m = n + 2 * by, many = channels * kernel * kernel, count = biases.length * shifts.length;
  const end = channels * m * m, at = end + many, out = at + weight.length, heap = heapOf(out + count * n * n);
  const places = new Int32Array(heap.buffer, 4 * end, many), fast = engine.sum && n % 4 === 0;
  heap.fill(0, 0, end);
  for (let c = 0, t = 0; c < channels; c++) {
    for (let y = 0; y < n; y++) heap.set(x.subarray((c * n + y) * n, (c * n + y + 1) * n), (c * m + y + by) * m + by);
    for (let k = 0; k < kernel; k++) for (let l = 0; l < kernel; l++) places[t++] = 4 * ((c * m + k) * m + l);
  }
  heap.set(weight, at);
  const sum = fast ? engine.sum : summed.bind(null, heap);
  for (let o = 0; o < count; o++) {
    const shift = o % shifts.length, bias = biases[(o - shift) / shifts.length];
    sum(4 * shifts[shift], 4 * m, 4 * (at + o * many), 4 * end, 4 * many, 4 * (out + o * n * n), 4 * n, bias);
  }
  return heap.subarray(out, out + count * n * n);
}

function linear(x, { weight, bias }) {
  return bias.map((sum, o) => {
    for (let i = 0, w = o * x.length; i < x.length; i++, w++) sum += weight[w] * x[i];
    return sum;
  });
}

// A transposed convolution with kernel 4, stride 2 and padding 1, which doubles each side. Of every 2 x 2 pixels that
// come out, each has its own four of the 16 weights: each is a map of its own, and the four are woven into one.
function up(x, layer) {
  const { weight, bias, into, from } = layer, n = Math.sqrt(x.length / from), m = n + 2, side = 2 * n;
  layer.phases ??= Float32Array.from({ length: weight.length }, (_, k) => {
    const t = k % (4 * from), map = (k - t) / (4 * from), [o, down, right] = [map >> 2, (map >> 1) & 1, map & 1];
    return weight[16 * ((t >> 2) * into + o) + 4 * (3 - down - (t & 2)) + 3 - right - 2 * (t & 1)];
  });
  const four = maps(x, n, 1, 2, layer.phases, bias, [0, 1, m, m + 1]), out = new Float32Array(four.length);
  for (let map = 0, r = 0; map < 4 * into; map++) {
    for (let y = 0; y < n; y++) {
      let t = ((map >> 2) * side + 2 * y + ((map >> 1) & 1)) * side + (map & 1);
      for (const end = r + n; r < end; r++, t += 2) out[t] = four[r];
    }
  }
  return out;
}

function conv(x, { weight, bias, from, kernel, stride, padding }) {
  const n = Math.sqrt(x.length / from), side = Math.floor((n + 2 * padding - kernel) / stride) + 1;
  const all = maps(x, n, padding, kernel, weight, bias), out = new Float32Array(bias.length * side * side);
  for (let r = 0; r < out.length; r++) { // every pixel of a map, or every second one
    const c = r % side, y = ((r - c) / side) % side, o = (r - c - y * side) / (side * side);
    out[r] = all[(o * n + y * stride) * n + c * stride];
  }
  return out;
}

// Group normalization
function norm(x, { weight, bias, groups, epsilon }) {
  const out = new Float32Array(x.length), each = x.length / groups, pixels = x.length / weight.length;
  for (let g = 0; g < groups; g++) {
    let mean = 0, variance = 0;
    for (let i = g * each; i < (g + 1) * each; i++) mean += x[i];
    mean /= each;
    for (let i = g * each; i < (g + 1) * each; i++) variance += (x[i] - mean) ** 2;
    const scale = 1 / Math.sqrt(variance / each + epsilon);
    for (let i = g * each; i < (g + 1) * each; i++) {
      const c = Math.floor(i / pixels);
      out[i] = (x[i] - mean) * scale * weight[c] + bias[c];
    }
  }
  return out;
}

// What a function of one number makes of each: looked up between -16 and 16, 512 steps to one, and right to 1e-6. Where
// what is positive stays, it is not looked up.
function curve(f, stays = Infinity) {
  const table = Float64Array.from({ length: 32 * 512 + 2 }, (_, k) => f(k / 512 - 16));
  return (x) => {
    const out = new Float32Array(x.length);
    for (let i = 0; i < out.length; i++) {
      const v = x[i];
      if (v > stays) { out[i] = v; continue; }
      const at = 512 * (16 + Math.max(-16, Math.min(16, v))), k = at | 0;
      out[i] = table[k] + (at - k) * (table[k + 1] - table[k]);
    }
    return out;
  };
}

const logistic = (v) => 1 / (1 + Math.exp(-v)), sigmoid = curve(logistic);

const OPS = {
  linear, up, conv, norm,
  elu: curve(Math.expm1, 0),
  relu: (x) => x.map((v) => (v > 0 ? v : 0)),
  silu: (x) => sigmoid(x).map((s, i) => s * x[i]),
  half: (x) => x.slice(0, x.length / 2), // mu of an encoder that gives mu and logvar in one
};

// Layers with their weights: `network.described` names of each its kind and its sizes, and packs all weights as one.
async function network({ layers, weights }) {
  const all = await unpack(weights);
  let at = 0;
  const next = (count) => all.subarray(at, (at += count));
  return layers.map(({ sizes, ...layer }) => (sizes ? { ...layer, weight: next(sizes[0]), bias: next(sizes[1]) } : layer));
}

// What a network makes of a Float32Array: logits, or a latent. "keep" and "add" are the two ends of a residual block.
function forward(layers, x) {
  const kept = [];
  for (const layer of layers) {
    if (layer.op === "keep") kept.push(x);
    else if (layer.op === "add") {
      const before = kept.pop();
      x = x.map((v, i) => v + before[i]);
    } else x = OPS[layer.op](x, layer);
  }
  return x;
}

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);

// The edges between pixels inside and outside of a mask, in pixels: found once for each mask.
const known = new WeakMap();
function edges(mask, w) {
  if (known.has(mask)) return known.get(mask);
  const path = new Path2D(), line = (x, y, X, Y) => { path.moveTo(x, y); path.lineTo(X, Y); };
  known.set(mask, path);
  for (let i = mask.indexOf(1), end = mask.lastIndexOf(1); i >= 0 && i <= end; i++) {
    if (!mask[i]) continue;
    const c = i % w, r = (i - c) / w;
    if (!mask[i - w]) line(c, r, c + 1, r);
    if (!mask[i + w]) line(c, r + 1, c + 1, r + 1);
    if (!c || !mask[i - 1]) line(c, r, c, r + 1);
    if (c === w - 1 || !mask[i + 1]) line(c + 1, r, c + 1, r + 1);
  }
  return path;
}

// The numbers behind the sliders: the set that was encoded, and what a step of a slider is.
class Latents {
  static async from(c) {
    const made = new Latents();
    made.long = c.shape.reduce((a, b) => a * b);
    made.z = await unpack(c.z);
    made.count = made.z.length / made.long;
    made.truths = c.truth && (await unpack(c.truth));
    made.pixels = c.size ** 2;
    made.nets = { image: await network(c.nets.image), mask: await network(c.nets.mask) };
    made.kinds = {};
    for (const [kind, { names, vectors }] of Object.entries(c.steps)) {
      const all = await unpack(vectors), wide = all.length / names.length;
      made.kinds[kind] = names.map((name, k) => ({ name, vector: all.subarray(k * wide, (k + 1) * wide) }));
    }
    made.measure(made.kinds["principal directions"].map((step) => step.vector));
    return made;
  }

  row(k) { return this.z.subarray(k * this.long, (k + 1) * this.long); }

  truth(k) { return this.truths && Uint8Array.from({ length: this.pixels }, (_, i) => bit(this.truths, k * this.pixels + i)); }

  // Where each slice lies along the directions, in standard deviations, and how far from the middle.
  measure(directions) {
    this.mean = new Float32Array(this.long);
    for (let k = 0; k < this.count; k++) this.row(k).forEach((x, i) => { this.mean[i] += x / this.count; });
    this.directions = directions.map((v) => ({ v, square: dot(v, v), at: dot(this.mean, v) }));
    this.scores = Array.from({ length: this.count }, (_, k) => this.score(this.row(k)));
    this.lengths = this.scores.map((s) => Math.hypot(...s)).sort((a, b) => a - b);
  }

  score(z) { return this.directions.map(({ v, square, at }) => (square ? (dot(z, v) - at) / square : 0)); }

  // The share of slices that lie nearer to the middle, in percent.
  farther(z) {
    const far = Math.hypot(...this.score(z));
    return (100 * this.lengths.filter((length) => length < far - 1e-4).length) / this.count;
  }

  // The logits of a latent, its grey values and its probabilities; kept until another is asked for.
  decode(z) {
    if (!this.last || this.last.z.some((x, i) => x !== z[i])) {
      const [light, odds] = ["image", "mask"].map((name) => forward(this.nets[name], z));
      this.last = { z, light, odds, get image() { return sigmoid(light); }, get mask() { return sigmoid(odds); } };
    }
    return this.last;
  }
}

// --- a slice that a reader brings -------------------------------------------------------------------------------

// Grey values from 0 to 1, size x size, of a PNG or an uncompressed DICOM slice of CT, which is windowed.
async function readSlice(file, size, window) {
  const bytes = new Uint8Array(await file.arrayBuffer()), text = (at, n) => String.fromCharCode(...bytes.subarray(at, at + n));
  if (text(128, 4) === "DICM") {
    const { values, height, width } = dicom(bytes, file.name), [low, high] = window;
    return shrunk(values.map((hu) => Math.max(0, Math.min(1, (hu - low) / (high - low)))), height, width, size);
  }
  const picture = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name} is no picture that this browser can read, and no DICOM file.`);
  });
  const { width, height } = picture, canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0);
  const { data } = pen.getImageData(0, 0, width, height);
  const grey = Float32Array.from({ length: width * height }, (_, i) => (data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 765);
  return shrunk(grey, height, width, size);
}

// The HU of one slice. Only what is needed is understood; the rest is refused in one sentence.
function dicom(bytes, name) {
  const view = new DataView(bytes.buffer), found = {};
  const text = (at, n) => String.fromCharCode(...bytes.subarray(at, at + n)).replace(/[\0 ]+$/, "");
  const long = new Set("OB OW OF OD OL OV SQ UC UN UR UT SV UV".split(" "));
  let at = 132, explicit = true;
  const element = () => {
    const group = view.getUint16(at, true), tag = (group << 16 >>> 0) + view.getUint16(at + 2, true);
    const told = group === 2 || explicit, marks = group === 0xfffe; // items of a sequence have no kind
    const kind = told && !marks ? text(at + 4, 2) : "";
    const wide = kind && !long.has(kind), head = kind && !wide ? 12 : 8;
    const length = wide ? view.getUint16(at + 6, true) : view.getUint32(at + head - 4, true);
    at += head;
    return { tag, length };
  };
  const skip = () => { // a sequence or an item without a length: to its end
    for (;;) {
      const { tag, length } = element();
      if (tag === 0xfffee0dd || tag === 0xfffee00d) return;
      if (length === 0xffffffff) skip();
      else at += length;
    }
  };
  while (at + 8 <= bytes.length) {
    if (explicit && view.getUint16(at, true) !== 2 && found[0x20010]) {
      const syntax = text(...found[0x20010]);
      if (!["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"].includes(syntax)) {
        throw new Error(`${name} is compressed (transfer syntax ${syntax}); save it uncompressed first.`);
      }
      explicit = syntax.endsWith(".1");
    }
    const { tag, length } = element();
    if (length === 0xffffffff && tag !== 0x7fe00010) skip();
    else {
      found[tag] = [at, length];
      at += length;
    }
  }
  const number = (tag) => found[tag] && view.getUint16(found[tag][0], true);
  const decimals = (tag) => found[tag] && text(...found[tag]).split("\\").map(Number);
  const [height, width, slope, intercept] = [number(0x280010), number(0x280011), decimals(0x281053), decimals(0x281052)];
  if (!found[0x7fe00010] || !height || !width) throw new Error(`${name} holds no pixels.`);
  if (text(...(found[0x80060] ?? [0, 0])) !== "CT" || !slope || !intercept || number(0x280100) !== 16) {
    throw new Error(`${name} has no HU: give a slice of CT, 16 bits a pixel, with its rescale slope and intercept.`);
  }
  const turned = decimals(0x200037);
  if (turned && Math.max(...[1, 0, 0, 0, 1, 0].map((x, i) => Math.abs(x - turned[i]))) > 0.1) {
    throw new Error(`${name} is not an axial slice that shows the patient's right at the left and the front at the top.`);
  }
  const read = number(0x280103) ? "getInt16" : "getUint16", [start, length] = found[0x7fe00010];
  if (length < 2 * height * width) throw new Error(`${name} is cut off: it holds fewer pixels than it says.`);
  const values = Float32Array.from({ length: height * width }, (_, i) => slope[0] * view[read](start + 2 * i, true) + intercept[0]);
  return { values, height, width };
}

// Area averages of an image in a black square, size x size
function shrunk(values, height, width, size) {
  const n = Math.max(height, width), square = new Float32Array(n * n), down = (n - height) >> 1, right = (n - width) >> 1;
  for (let y = 0; y < height; y++) square.set(values.subarray(y * width, (y + 1) * width), (y + down) * n + right);
  const along = (rows) => { // averages each column, and turns the image over its diagonal: twice is both ways
    const many = rows.length / n, out = new Float32Array(many * size);
    for (let k = 0; k < size; k++) {
      const low = (k * n) / size, high = ((k + 1) * n) / size;
      for (let y = Math.floor(low); y < Math.ceil(high); y++) {
        const share = (Math.min(high, y + 1) - Math.max(low, y)) / (high - low);
        for (let c = 0; c < many; c++) out[c * size + k] += share * rows[y * many + c];
      }
    }
    return out;
  };
  return along(along(square));
}

// A slice of the reader's own: read, encoded and compared with the training slices, all in this page.
async function bring(board, c, space, starts) {
  const encoder = await network(c.nets.encoder), errors = await unpack(c.errors), said = make("p", { role: "status" });
  const input = make("input", { type: "file", accept: ".png,.dcm,image/png,application/dicom" });
  const take = async (file) => {
    try {
      const image = await readSlice(file, c.size, c.window), z = forward(encoder, image), name = "your slice";
      const error = Math.sqrt(space.decode(z).image.reduce((sum, v, i) => sum + (v - image[i]) ** 2, 0) / image.length);
      const worse = errors.filter((e) => e < error).length / errors.length, far = space.farther(z) / 100;
      starts[name] = { name, latent: z, image: Uint8Array.from(image, (v) => Math.round(255 * v)) };
      for (const end of ["from", "to"]) board.controls[end].fill();
      board.set({ from: name, to: name, morph: 0 });
      const words = Math.max(worse, far) > 0.98 ? "It is unlike the training slices: trust neither picture nor mask." :
        "It is like the training slices.";
      const percent = (share) => `${(100 * share).toFixed(0)}%`;
      said.textContent = `${file.name}: drawn worse than ${percent(worse)} of the training slices, and farther from the ` +
        `middle than ${percent(far)}. ${words}`;
    } catch (error) {
      said.textContent = error.message;
    }
  };
  board.group("your slice: it stays on this computer", () => board.row("PNG or DICOM", input));
  board.form.lastElementChild.append(said);
  input.addEventListener("change", () => { if (input.files[0]) take(input.files[0]); });
  board.root.addEventListener("dragover", (event) => event.preventDefault());
  board.root.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}
