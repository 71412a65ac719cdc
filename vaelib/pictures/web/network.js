// The numbers: what Python packed is unpacked, and a network that it described layer by layer is computed in plain
// JavaScript on typed arrays. Feature maps are (channels, height, width) in one Float32Array, as in PyTorch.
// This file, paint.js and boards.js are one ES module: they are joined in this order.

const TYPES = { f4: Float32Array, i4: Int32Array, i2: Int16Array, u1: Uint8Array };

// Base64 of gzip, as `network.packed` writes it: a typed array.
async function unpack({ type, data }) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser cannot unpack what is shown here: any browser of 2023 or newer can.");
  }
  const text = atob(data), zipped = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) zipped[i] = text.charCodeAt(i);
  const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new TYPES[type](await new Response(stream).arrayBuffer());
}

// Bits, the highest of a byte first, as numpy.packbits has them.
const bit = (packed, i) => (packed[i >> 3] >> (7 - (i & 7))) & 1;

// (channels, n, n) with `by` rows and columns of zeros around each channel
function padded(x, channels, n, by) {
  const wide = n + 2 * by, out = new Float32Array(channels * wide * wide);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < n; y++) {
      out.set(x.subarray((c * n + y) * n, (c * n + y + 1) * n), (c * wide + y + by) * wide + by);
    }
  }
  return out;
}

function linear(x, { weight, bias }) {
  const out = new Float32Array(bias.length), wide = x.length;
  for (let o = 0, w = 0; o < out.length; o++) {
    let sum = bias[o];
    for (let i = 0; i < wide; i++, w++) sum += weight[w] * x[i];
    out[o] = sum;
  }
  return out;
}

// A transposed convolution with kernel 4, stride 2 and padding 1, which doubles each side. Of every 2 x 2 pixels that
// come out, each has its own four of the 16 weights: it is computed as a plain convolution with these, two channels
// at a time.
function up(x, { weight, bias, into, from }) {
  const n = Math.sqrt(x.length / from), m = n + 2, side = 2 * n, map = m * m;
  const p = padded(x, from + (from & 1), n, 1), out = new Float32Array(into * side * side);
  const sum = new Float32Array(n * n), step = 16 * into;
  for (let o = 0; o < into; o++) {
    for (let phase = 0; phase < 4; phase++) {
      const down = phase >> 1, right = phase & 1;
      const k0 = 16 * o + (down ? 8 : 12), k1 = 16 * o + (down ? 0 : 4), l0 = right ? 2 : 3, l1 = right ? 0 : 1;
      sum.fill(bias[o]);
      for (let i = 0; i < from; i += 2) {
        const w = i * step, v = i + 1 < from ? w + step : w, on = i + 1 < from ? 1 : 0; // an odd last one stands alone
        const a = weight[w + k0 + l0], b = weight[w + k0 + l1], c = weight[w + k1 + l0], d = weight[w + k1 + l1];
        const e = on * weight[v + k0 + l0], f = on * weight[v + k0 + l1];
        const g = on * weight[v + k1 + l0], h = on * weight[v + k1 + l1];
        for (let y = 0; y < n; y++) {
          let q = i * map + (y + down) * m + right;
          let p0 = p[q], p1 = p[q + m], p2 = p[q + map], p3 = p[q + map + m];
          for (let r = y * n, end = r + n; r < end; r++) {
            q++;
            const q0 = p[q], q1 = p[q + m], q2 = p[q + map], q3 = p[q + map + m];
            sum[r] += a * p0 + b * q0 + c * p1 + d * q1 + e * p2 + f * q2 + g * p3 + h * q3;
            p0 = q0; p1 = q1; p2 = q2; p3 = q3;
          }
        }
      }
      for (let y = 0, r = 0; y < n; y++) {
        let t = (o * side + 2 * y + down) * side + right;
        for (let end = r + n; r < end; r++, t += 2) out[t] = sum[r];
      }
    }
  }
  return out;
}

function conv(x, { weight, bias, into, from, kernel, stride, padding }) {
  const n = Math.sqrt(x.length / from), m = n + 2 * padding, side = Math.floor((m - kernel) / stride) + 1;
  const p = padded(x, from, n, padding), out = new Float32Array(into * side * side);
  for (let o = 0; o < into; o++) {
    const sum = out.subarray(o * side * side, (o + 1) * side * side).fill(bias[o]);
    for (let i = 0; i < from; i++) {
      for (let k = 0; k < kernel; k++) {
        const w = ((o * from + i) * kernel + k) * kernel;
        if (kernel === 3 && stride === 1) { // the common one: three weights at a time
          const a = weight[w], b = weight[w + 1], c = weight[w + 2];
          for (let y = 0, r = 0; y < side; y++) {
            let q = i * m * m + (y + k) * m, p0 = p[q], p1 = p[q + 1];
            for (const end = r + side; r < end; r++, q++) {
              const p2 = p[q + 2];
              sum[r] += a * p0 + b * p1 + c * p2;
              p0 = p1; p1 = p2;
            }
          }
          continue;
        }
        for (let l = 0; l < kernel; l++) {
          const a = weight[w + l];
          for (let y = 0, r = 0; y < side; y++) {
            let q = i * m * m + (y * stride + k) * m + l;
            for (const end = r + side; r < end; r++, q += stride) sum[r] += a * p[q];
          }
        }
      }
    }
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

const OPS = {
  linear, up, conv, norm,
  elu: (x) => x.map((v) => (v > 0 ? v : Math.exp(v) - 1)),
  relu: (x) => x.map((v) => (v > 0 ? v : 0)),
  silu: (x) => x.map((v) => v / (1 + Math.exp(-v))),
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

const sigmoid = (x) => x.map((v) => 1 / (1 + Math.exp(-v)));

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);

function dice(mask, truth) {
  let both = 0, sum = 0;
  for (let i = 0; i < mask.length; i++) {
    both += mask[i] & truth[i];
    sum += mask[i] + truth[i];
  }
  return sum ? (2 * both) / sum : 1;
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

  // Grey values and probabilities of a latent; kept until another is asked for.
  decode(z) {
    if (!this.last || this.last.z.some((x, i) => x !== z[i])) {
      this.last = { z, image: sigmoid(forward(this.nets.image, z)), mask: sigmoid(forward(this.nets.mask, z)) };
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
      starts[name] = { name, latent: z, image: bytes(image) };
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

// The controls in the address of the page: whoever opens it there sees the same.
function keepInAddress(board, prepare) {
  const at = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  for (const end of ["from", "to"]) if (at[end]) prepare(at[end]);
  delete at.dot; // follows from "from"
  board.asked = at;
  board.after = () => {
    clearTimeout(board.noted);
    board.noted = setTimeout(() => {
      const now = Object.entries(board.controls).map(([name, { input }]) => [name, input.value]);
      history.replaceState(null, "", `#${new URLSearchParams(now)}`);
    }, 300);
  };
}
