// The boards: the latent space, a scan in three planes, a threshold, surfaces. Each takes what Python packed, `content`.

const ORIGINAL = 0.2; // the threshold of the original
// The grey values of logits, from 0 to 255
const shades = Uint8Array.from({ length: 16 * 1024 + 1 }, (_, k) => Math.round(255 * logistic(k / 1024 - 8)));
function bytes(logits) {
  const out = new Uint8Array(logits.length);
  for (let i = 0; i < out.length; i++) out[i] = shades[(1024 * (8 + Math.max(-8, Math.min(8, logits[i]))) + 0.5) | 0];
  return out;
}

const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

function dice(mask, truth) {
  let both = 0, sum = 0;
  for (let i = 0; i < mask.length; i++) {
    both += mask[i] & truth[i];
    sum += mask[i] + truth[i];
  }
  return sum ? (2 * both) / sum : 1;
}

// --- the latent space ---------------------------------------------------------------------------------------------

async function latent(board, c) {
  const space = await Latents.from(c), kinds = Object.keys(space.kinds), grid = c.shape[1];
  const starts = {}; // by the name that the lists show
  const slice = (name, k) => { starts[name] = { name, latent: space.row(k), truth: space.truth(k), row: k }; };
  const nameOf = (k) => (c.patient ? c.patient[k] : `slice ${k}`);
  const originals = c.originals && (await unpack(c.originals));
  c.places.forEach(([name, k], n) => {
    slice(name, k);
    starts[name].image = originals?.subarray(n * space.pixels, (n + 1) * space.pixels);
  });
  if (c.average) starts["the average slice"] = { name: "the average slice", latent: space.mean };
  const left = new Picture(board, "reconstruction"), right = new Picture(board, "mask");
  const whole = originals && new Picture(board, "original"), blank = new Uint8Array(space.pixels);
  const first = space.kinds[kinds[0]];
  const key = (k) => `slider ${k + 1}`;

  board.choice("from", "from", starts, Object.keys(starts)[0], ({ row }) => { if (row >= 0) board.controls.dot.put(row); });
  board.choice("to", "to", starts, Object.keys(starts).at(-1));
  board.slider("morph", "morph", 0, 1, 0, 0.05);
  board.buttons({
    reset: () => board.set({ morph: 0, threshold: ORIGINAL, ...steps(() => 0) }),
    "random draw": () => board.set(steps(() => Math.max(-3, Math.min(3, normal())).toFixed(1))),
  });
  board.group("steps in standard deviations", () => {
    board.choice("sliders move", "sliders move", Object.fromEntries(kinds.map((kind) => [kind, kind])), kinds[0], rename);
    first.forEach(({ name }, k) => board.slider(key(k), name, -3, 3, 0, 0.1));
    if (c.place) ["row", "column"].forEach((side) => board.slider(side, `place: ${side}`, 0, grid - 1, grid >> 1));
  });
  board.slider("threshold", "threshold", 0, 1, ORIGINAL, 0.01);
  board.slider("opacity", "mask's opacity", 0, 1, 0.6, 0.05);

  board.slider("dot", "slice on the map", 0, space.count - 1, starts[Object.keys(starts)[0]].row, 1, (k) => pick(k));
  const map = new Chart(board, space.scores.map((score) => [score[0], score[1] ?? 0]), {
    name: nameOf, pick, title: "map: direction 1 across, direction 2 up",
    thumb: (k) => ({ grey: bytes(forward(space.nets.image, space.row(k))), side: c.size }),
  });
  const owners = c.patient?.map((name) => name.split(",")[0]);
  const family = (k) => (owners && k >= 0 ? [...owners.keys()].filter((n) => owners[n] === owners[k]) : []);
  if (c.place) {
    left.canvas.addEventListener("click", (event) => {
      const [column, row] = left.under(event).map((x) => Math.floor((x * grid) / c.size));
      board.set({ "sliders move": c.place, row, column });
    });
  }

  // Start from a slice of the map: also one that the lists do not have yet.
  function pick(k) {
    const known = Object.values(starts).find(({ row }) => row === k);
    if (!known) {
      slice(nameOf(k), k);
      for (const end of ["from", "to"]) board.controls[end].fill();
    }
    board.set({ from: (known ?? starts[nameOf(k)]).name, morph: 0, ...steps(() => 0) });
  }

  function steps(make) { return Object.fromEntries(first.map((_, k) => [key(k), make(k)])); }

  function rename(kind) {
    first.forEach((_, k) => {
      const step = space.kinds[kind][k];
      board.controls[key(k)].row.hidden = !step;
      if (step) board.controls[key(k)].text.textContent = step.name;
    });
    const whole = kind === "raw units" ? "steps in units" : "steps in standard deviations";
    board.form.querySelector("legend").textContent = whole;
    for (const side of c.place ? ["row", "column"] : []) board.controls[side].input.disabled = kind !== c.place;
  }

  // from + morph * (to - from) + the sum of steps times directions; these may be those of one place of the grid
  function here() {
    const a = board.value("from").latent, b = board.value("to").latent, morph = board.value("morph");
    const z = a.map((x, i) => x + morph * (b[i] - x)), kind = board.value("sliders move");
    const local = kind === c.place, at = local ? board.value("row") * grid + board.value("column") : 0;
    space.kinds[kind].forEach(({ vector }, k) => {
      const step = board.value(key(k));
      if (step) vector.forEach((x, i) => { z[local ? i * grid * grid + at : i] += step * x; });
    });
    return z;
  }

  function draw() {
    const z = here(), { light, odds } = space.decode(z), threshold = board.value("threshold");
    const ends = [board.value("from"), board.value("to")], morph = board.value("morph");
    const near = ends[morph >= 0.5 ? 1 : 0], resting = morph === 0 || morph === 1;
    const cut = Math.log(threshold / (1 - threshold)), found = new Uint8Array(space.pixels);
    let count = 0;
    for (let i = 0; i < found.length; i++) if (odds[i] >= cut) count += found[i] = 1;
    const scored = (resting ? [near] : ends).filter((end) => end.truth);
    const view = { width: c.size, height: c.size, grey: bytes(light), letters: "RLAP" };
    const local = board.value("sliders move") === c.place, side = c.size / grid;
    const box = local && [board.value("column") * side, board.value("row") * side, side, side];
    const colours = [null, [...rgb(c.colours.prediction), board.value("opacity")]];
    const outlines = near.truth && scored.length ? [{ mask: near.truth, colour: c.colours.truth }] : [];
    map.draw(space.score(z).slice(0, 2), family(near.row));
    left.draw({ ...view, box });
    whole?.draw({ ...view, grey: near.image ?? blank, outlines });
    if (whole) whole.title.textContent = near.image ? `original: ${near.name}` : "no original";
    right.draw({ ...view, fill: found, colours, outlines });
    right.title.textContent = `mask at ${threshold.toFixed(2)}${outlines.length ? `, outline: ${near.name}` : ""}`;
    return report(z, found, count, near, scored);
  }

  function report(z, found, pixels, near, scored) {
    const words = scored.map((end) => `Dice ${dice(found, end.truth).toFixed(2)} against ${end.name}`);
    const away = Math.hypot(...z.map((x, i) => x - near.latent[i]));
    const between = scored.length > 1 ? " Between the two nothing was scanned: neither mask is true here." : "";
    const far = space.farther(z).toFixed(0);
    return `Mask of ${[`${pixels} pixels`, ...words].join(", ")}. Latent ${away.toFixed(2)} away from ${near.name}.` +
      `${between} Farther from the middle than ${far}% of the slices.`;
  }

  const keys = { "decoded mask": c.colours.prediction, ...(c.truth && { "true mask": c.colours.truth }) };
  if (c.nets.encoder) await bring(board, c, space, starts);
  if (c.address) keepInAddress(board, (name) => {
    const k = c.patient?.indexOf(name) ?? -1;
    if (!(name in starts) && k >= 0) pick(k);
  });
  Object.assign(board, { space, starts, here });
  board.begin(draw, keys);
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

// --- a scan -------------------------------------------------------------------------------------------------------

// Rows and columns of each plane, the axis that it cuts, and letters, as `panels.PLANES` has them. What is superior is up.
const PLANES = {
  axial: { axis: 0, down: 1, across: 2, letters: "RLAP" },
  coronal: { axis: 1, down: 0, across: 2, letters: "RLSI" },
  sagittal: { axis: 2, down: 0, across: 1, letters: "APSI" },
};
const AXES = ["slice", "row", "column"];
const OWN = "as set below", LOOKS = { outline: "outline", fill: "fill", hidden: "hidden" };

// A cut through a volume (S, H, W)
function cut(volume, shape, plane, k) {
  const { axis, down, across } = PLANES[plane], strides = [shape[1] * shape[2], shape[2], 1];
  const [h, w] = [shape[down], shape[across]], out = new volume.constructor(h * w), step = strides[across];
  for (let r = 0, i = 0; r < h; r++) {
    let at = k * strides[axis] + (down === 0 ? h - 1 - r : r) * strides[down];
    for (let c = 0; c < w; c++, i++, at += step) out[i] = volume[at];
  }
  return out;
}

async function slices(board, c) {
  const scan = await unpack(c.scan), { shape, spacing } = c, layers = {};
  for (const [name, packed] of Object.entries(c.layers)) layers[name] = await unpack(packed);
  const table = new Uint8Array(65536), seen = {}; // the grey of each HU, and the window that it was made for
  const pictures = Object.fromEntries(Object.keys(PLANES).map((plane) => [plane, new Picture(board, plane)]));
  const pointer = make("p", { className: "pointer" });
  board.shown.append(pointer);

  board.choice("plane", "large plane", Object.fromEntries(Object.keys(PLANES).map((plane) => [plane, plane])), "axial");
  AXES.forEach((name, axis) => board.slider(name, name, 0, shape[axis] - 1, shape[axis] >> 1));
  board.group("window in HU", () => {
    const preset = board.choice("window", "window", { ...c.windows, [OWN]: null }, undefined, (range) => {
      if (!range) return;
      board.controls.width.put(range[1] - range[0]);
      board.controls.level.put((range[0] + range[1]) / 2);
    });
    const own = () => {
      const half = board.value("width") / 2, level = board.value("level");
      preset.put([level - half, level + half]);
      preset.input.value ||= OWN;
    };
    board.slider("width", "width", 10, 4000, 400, 10, own);
    board.slider("level", "level", -1000, 2000, 40, 10, own);
  });
  const key = {};
  for (const name of Object.keys(layers)) {
    board.choice(name, name, LOOKS, name === "mask" ? "outline" : "fill");
    key[name === "mask" ? "truth" : name] = c.colours[name === "mask" ? "truth" : name];
  }
  if (Object.keys(layers).length) board.slider("opacity", "overlay opacity", 0, 1, 0.6, 0.05);

  // A cut as it was is not made again: a slider of one plane moves only the lines of the two others.
  const views = {}, cuts = {};
  const kept = (name, volume, plane, k) => (cuts[name + plane]?.k === k ? cuts[name + plane] :
    (cuts[name + plane] = { k, values: cut(volume, shape, plane, k) })).values;
  function view(plane) {
    const { axis, down, across } = PLANES[plane], looks = [...Object.keys(layers), "opacity"], row = board.value(AXES[down]);
    const key = [board.value(AXES[axis]), seen.low, seen.width, ...looks.map((name) => board.controls[name]?.get())].join();
    if (views[plane]?.made.key !== key) views[plane] = viewed(plane, key);
    views[plane].made.lines = [board.value(AXES[across]), down === 0 ? shape[0] - 1 - row : row];
    return views[plane];
  }

  function viewed(plane, key) {
    const { axis, down, across, letters } = PLANES[plane], k = board.value(AXES[axis]), outlines = [], counts = [];
    const made = { key, width: shape[across], height: shape[down], aspect: spacing[down] / spacing[across], letters, outlines };
    const values = kept("scan", scan, plane, k);
    made.grey = new Uint8Array(values.length);
    for (let i = 0; i < values.length; i++) made.grey[i] = table[values[i] & 0xffff];
    for (const [name, layer] of Object.entries(layers)) { // a mask is 0 or 100, a prediction a probability in hundredths
      const look = board.value(name), colour = name === "mask" ? c.colours.truth : c.colours.prediction;
      if (look === "hidden") continue;
      const values = kept(name, layer, plane, k), inside = new Uint8Array(values.length);
      let count = 0;
      for (let i = 0; i < values.length; i++) if (values[i] >= 50) count += inside[i] = 1;
      counts.push(`${name}: ${count} pixels`);
      if (look === "outline") outlines.push({ mask: inside, colour, opacity: board.value("opacity") });
      else over(made, values, colour);
    }
    return { made, text: `${plane}, ${AXES[axis]} ${k} of 0 to ${shape[axis] - 1}${counts.map((s) => `; ${s}`).join("")}` };
  }

  // Two fills on one picture: the later one where it is stronger.
  function over(made, values, colour) {
    made.fill ??= new Uint8Array(values.length);
    made.colours ??= [null];
    const first = made.colours.length, opacity = board.value("opacity");
    for (let v = 1; v <= 100; v++) made.colours.push([...rgb(colour), (opacity * v) / 100]);
    for (let i = 0; i < values.length; i++) if (values[i]) made.fill[i] = first + values[i] - 1;
  }

  function draw() {
    const width = board.value("width"), low = board.value("level") - width / 2, main = board.value("plane");
    if (low !== seen.low || width !== seen.width) {
      for (let i = 0; i < 65536; i++) table[i] = Math.max(0, Math.min(255, Math.round((255 * ((i << 16 >> 16) - low)) / width)));
      Object.assign(seen, { low, width });
    }
    let text = "";
    if (main !== seen.main) {
      for (const [plane, picture] of Object.entries(pictures)) { // all have their size before one is drawn
        picture.figure.classList.toggle("main", plane === main);
        picture.figure.style.order = plane === main ? -1 : 0;
        picture.room = 0;
      }
      seen.main = main;
    }
    for (const [plane, picture] of Object.entries(pictures)) {
      const { made, text: words } = view(plane);
      picture.draw(made);
      picture.title.textContent = words.split(";")[0];
      if (plane === main) text = words;
    }
    return `${text}. Window: ${shown(low, 0)} to ${shown(low + width, 0)} HU.`;
  }

  for (const [plane, picture] of Object.entries(pictures)) {
    const { axis, down, across } = PLANES[plane];
    const place = (event) => {
      const [x, y] = picture.under(event), at = [];
      at[axis] = board.value(AXES[axis]);
      at[across] = x;
      at[down] = down === 0 ? shape[0] - 1 - y : y;
      return at;
    };
    const say = (at) => {
      const hu = scan[(at[0] * shape[1] + at[1]) * shape[2] + at[2]], [z, y, x] = at.map((k, i) => shown(k * spacing[i], 1));
      pointer.textContent = `${shown(hu, 0)} HU at ${AXES.map((name, i) => `${name} ${at[i]}`).join(", ")}: ` +
        `${x} mm to the left, ${y} mm back, ${z} mm up from the first voxel`;
    };
    let from = null; // where a drag of the window began
    picture.canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    picture.canvas.addEventListener("pointerdown", (event) => {
      picture.canvas.setPointerCapture(event.pointerId);
      const windowed = event.button === 2 || event.shiftKey;
      from = windowed && { x: event.clientX, y: event.clientY, width: board.value("width"), level: board.value("level") };
      picture.active = true;
      if (!windowed) board.set(Object.fromEntries(place(event).map((k, i) => [AXES[i], k])));
    });
    picture.canvas.addEventListener("pointermove", (event) => {
      say(place(event));
      if (!event.buttons) return;
      if (from) board.set({ width: from.width + 2 * (event.clientX - from.x), level: from.level + event.clientY - from.y });
      else board.set(Object.fromEntries(place(event).map((k, i) => [AXES[i], k])));
    });
    picture.canvas.addEventListener("pointerleave", () => { picture.active = false; });
    picture.canvas.addEventListener("wheel", (event) => { // only once it was clicked: else the page scrolls
      if (!picture.active) return;
      event.preventDefault();
      board.set({ [AXES[axis]]: board.value(AXES[axis]) + Math.sign(event.deltaY) });
    }, { passive: false });
  }
  board.begin(draw, key);
}

// --- the threshold ------------------------------------------------------------------------------------------------

// Probabilities are in hundredths, rounded down: all that a slider of hundredths can ask.
async function threshold(board, c) {
  const [image, probability, truths] = [await unpack(c.image), await unpack(c.probability), await unpack(c.truth)];
  const [count, height, width] = c.shape, pixels = height * width, names = Object.entries(c.colours.verdicts);
  const found = new Float64Array(102), hits = new Float64Array(102); // of all slices, at or above each hundredth
  probability.forEach((p, i) => { found[p] += 1; hits[p] += truths[i]; });
  for (let p = 100; p >= 0; p--) { found[p] += found[p + 1]; hits[p] += hits[p + 1]; }
  const left = new Picture(board, "probability, truth outlined"), right = new Picture(board, "cut");
  const truthOf = Array.from({ length: count }, (_, k) => truths.subarray(k * pixels, (k + 1) * pixels));
  const fills = Array.from({ length: 101 }, (_, p) => [...rgb(c.colours.prediction), 0.006 * p]);
  const verdicts = [null, ...names.map(([, colour]) => [...rgb(colour), 0.85])];

  board.slider("threshold", "threshold", 0, 1, ORIGINAL, 0.01);
  if (count > 1) board.slider("slice", "slice", 0, count - 1, 0);

  function draw() {
    const cutoff = Math.round(100 * board.value("threshold")), k = count > 1 ? board.value("slice") : 0;
    const part = (all) => all.subarray(k * pixels, (k + 1) * pixels);
    const grey = part(image), map = part(probability), truth = truthOf[k], counts = [0, 0, 0, 0];
    const fill = map.map((p, i) => {
      const verdict = p >= cutoff ? (truth[i] ? 1 : 2) : 3 * truth[i];
      counts[verdict] += 1;
      return verdict;
    });
    const one = { width, height, grey, letters: "RLAP" }, sum = 2 * counts[1] + counts[2] + counts[3];
    const score = (sum ? (2 * counts[1]) / sum : 1).toFixed(2), all = found[cutoff] + hits[0];
    left.draw({ ...one, fill: map, colours: fills, outlines: [{ mask: truth, colour: c.colours.truth }] });
    right.draw({ ...one, fill, colours: verdicts, outlines: [{ mask: truth, colour: c.colours.truth }] });
    right.title.textContent = `cut at ${board.value("threshold").toFixed(2)}, Dice ${score}`;
    const whole = count > 1 ? ` Dice of all slices ${(all ? (2 * hits[cutoff]) / all : 1).toFixed(2)}.` : "";
    const said = names.map(([name], n) => `${counts[n + 1]} ${name}`).join(", ");
    return `Dice of this slice ${score}: ${said}.${whole}`;
  }
  board.begin(draw, c.colours.verdicts);
}

// --- surfaces -----------------------------------------------------------------------------------------------------

function inWords(azimuth, elevation) {
  if (Math.abs(elevation) > 60) return elevation > 0 ? "seen from above" : "seen from below, as a slice is";
  const around = `seen from ${["the left", "the back", "the right", "the front"][((Math.round(azimuth / 90) % 4) + 4) % 4]}`;
  return Math.abs(elevation) < 20 ? around : `${around} and ${elevation > 0 ? "above" : "below"}`;
}

async function turntable(board, c) {
  const solids = await Promise.all(Object.entries(c.meshes).map(async ([name, { vertices, faces, colour }]) =>
    new Solid(new Picture(board, name), await unpack(vertices), await unpack(faces), colour, c.limits)));
  board.slider("azimuth", "azimuth", -180, 180, -90, 5);
  board.slider("elevation", "elevation", -90, 90, 15, 5);
  board.begin(() => {
    const at = [board.value("azimuth"), board.value("elevation")];
    solids.forEach((solid) => solid.turn(...at, c.bar));
    return `${Object.keys(c.meshes).join(", ")}, ${inWords(...at)}`;
  });
}

// --- the module ---------------------------------------------------------------------------------------------------

const BOARDS = { latent, slices, threshold, turntable };

// Draw a board into an element; what goes wrong is said there in one sentence, and the rest of the page goes on.
async function show(el, content, at = {}) {
  try {
    const board = new Board(el, content.alt);
    board.root.classList.add(content.kind);
    await BOARDS[content.kind](board, content);
    board.set({ ...at, ...board.asked });
    return board;
  } catch (error) {
    el.replaceChildren(make("div", { className: "vaelib-live" },
      make("p", { className: "failed", role: "alert" }, `The sliders cannot be shown: ${error.message}`)));
    return null;
  }
}

// What a notebook calls. Nothing is ever sent to the kernel: a board goes on where there is none.
async function render({ model, el }) {
  const board = await show(el, model.get("content"), model.get("at"));
  model.on("change:at", () => board?.set(model.get("at")));
}

export default { render, show };
