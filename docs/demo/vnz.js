// SPDX-License-Identifier: Apache-2.0
// Reads a .vnz file (version 2 to 4) and predicts from it. No dependency: a browser's or
// Node's ES module. `vnets/compact` is the same in Python, and says what each part is;
// tests/test_demo.py holds both to the same numbers.
//
//   const net = read(new Uint8Array(await (await fetch("net.vnz")).arrayBuffer()));
//   predict(net, pixels);                     logits of the means, [K]
//   predict(net, pixels, normal);             of one draw; normal() draws from N(0, 1)
//   ensemble(net, pixels, 20, normal);        probabilities, averaged over 20 draws

const VERSIONS = [2, 3, 4];
const NUMBERS_PER_BYTE = 4, MOST_STEPS = 1024, DEPTH = 8, LARGEST = 2 ** 28;
const MOST_LEVEL = 127, MOST_DEVIATION = 255, MOST_BIAS = 32767;
const LARGEST_NUMBER = 2 ** 24, MOST_FEATURES = 2 ** 20, MOST_EXTENT = 64;
const ACTIVATIONS = ["relu", "leaky_relu", "tanh", "abs", "softplus", "gelu"];
const NEW_ACTIVATIONS = ["sigmoid", "silu", "gelu_erf"]; // since version 3
const NAME = /^(?=.{1,64}$)[A-Za-z0-9_][\w.-]*(\/[A-Za-z0-9_][\w.-]*)*$/;
const PADDINGS = ["SAME", "VALID"];
// Steps of nets that read tokens, from code 32 on, which Python alone has.
const SEQUENCES = [
  ...["embedding", "positions", "lstm", "gru"],
  ...["attention", "last", "mean_positions"],
];

function refuse(message) {
  throw new Error(`the .vnz file is malformed: ${message}`);
}

function within(number, least, most, what) {
  if (!(number >= least && number <= most)) refuse(`${what} is ${number}`);
  return number;
}

class Bytes {
  constructor(content) {
    this.content = content;
    this.at = 0;
  }

  take(size) {
    if (this.at + size > this.content.length) refuse("it is cut off");
    this.at += size;
    return this.content.subarray(this.at - size, this.at);
  }

  byte() {
    return this.take(1)[0];
  }

  varint() {
    let number = 0;
    for (let place = 0; place < 5; place++) {
      const one = this.byte();
      number += (one & 127) * 2 ** (7 * place);
      if (one < 128) return number;
    }
    return refuse("a whole number is too long");
  }

  text(most = 255) {
    const size = within(this.varint(), 0, most, "the length of a text");
    return new TextDecoder("utf-8", { fatal: true }).decode(this.take(size));
  }

  float32(long) {
    const bytes = new Uint8Array(4);
    bytes.set(this.take(long ? 4 : 2), long ? 0 : 2);
    return new DataView(bytes.buffer).getFloat32(0, true);
  }

  float64() {
    const bytes = this.take(8).slice();
    return new DataView(bytes.buffer).getFloat64(0, true);
  }
}

function crc32(...parts) {
  let crc = -1;
  for (const part of parts) {
    for (const byte of part) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1));
    }
  }
  return ~crc >>> 0;
}

// ---- the description: shape, plan, and what else is said

function readPlan(source, depth, seen, version) {
  if (!depth) refuse("its plan is nested too deep");
  const count = source.varint();
  seen.steps = within((seen.steps ?? 0) + count, 0, MOST_STEPS, "the number of steps");
  return Array.from({ length: count }, () => readStep(source, depth, seen, version));
}

function readStep(source, depth, seen, version) {
  const code = source.byte();
  const label = (kind) => {
    seen[kind] = (seen[kind] ?? 0) + 1;
    const name = source.text() || `${kind}${seen[kind]}`;
    return NAME.test(name) ? name : refuse("a layer has no name");
  };
  const named = (kind) => {
    const name = label(kind);
    return { kind, name, features: within(source.varint(), 1, MOST_FEATURES, "units") };
  };
  const extent = () => within(source.byte(), 1, MOST_EXTENT, "an extent");
  const square = () => {
    const [kernel, stride] = [extent(), extent()];
    return { kernel: [kernel, kernel], strides: [stride, stride] };
  };
  const extents = () => {
    const kernel = [extent(), extent()], strides = [extent(), extent()];
    return { kernel, strides };
  };
  const margins = () => [0, 0].map(() => [0, 0].map(() => within(source.byte(), 0, MOST_EXTENT, "padding")));
  const padding = () => PADDINGS[source.byte()] ?? margins();
  const inside = (step) => {
    const { kernel, padding: around } = step;
    if (Array.isArray(around) && around.flat().some((n) => n >= kernel[0])) refuse("a window");
    return step;
  };
  if (code < 3) return { kind: ["flatten", "max_pool", "mean_pool"][code] };
  if (code < 5) {
    return { kind: "window_max_pool", padding: PADDINGS[code - 3], ...square() };
  }
  if (code === 5) {
    const floats = () =>
      Array.from({ length: within(source.varint(), 1, MOST_FEATURES, "constants") }, () =>
        within(source.float64(), -LARGEST_NUMBER, LARGEST_NUMBER, "a constant"),
      );
    const step = { kind: "standardize", mean: floats(), std: floats() };
    for (const one of step.std) within(one, 2 ** -24, LARGEST_NUMBER, "a divisor");
    return step;
  }
  if (code === 6) {
    const sides = [0, 1].map(() => readPlan(source, depth - 1, seen, version));
    return { kind: "residual", body: sides[0], shortcut: sides[1] };
  }
  if (code === 7) return named("dense");
  if (code < 10) {
    return { ...named("conv"), ...extents(), padding: PADDINGS[code - 8] };
  }
  if (version > 2) {
    if (code === 10) {
      const step = { kind: "layer_norm", name: label("norm"), epsilon: source.float64() };
      if (!(step.epsilon > 0 && step.epsilon <= 1)) refuse("an epsilon");
      return step;
    }
    if (code === 11) {
      return { kind: "depthwise", name: label("depthwise"), ...extents(), padding: padding() };
    }
    if (code === 12) return inside({ kind: "window_mean_pool", ...square(), padding: padding() });
    if (code === 13) return { ...named("conv"), ...extents(), padding: margins() };
    if (code === 14) return inside({ kind: "window_max_pool", ...square(), padding: margins() });
    const other = SEQUENCES[code - 32];
    if (other) refuse(`it has a step that the page does not read: ${other}`);
  }
  if (version > 3 && code === 15) {
    return { kind: "depth_to_space", block: [extent(), extent()] };
  }
  const known = version > 2 ? [...ACTIVATIONS, ...NEW_ACTIVATIONS] : ACTIVATIONS;
  const activation = known[code - 16] ?? refuse(`it has the unknown step ${code}`);
  return { kind: "activation", activation };
}

function readAbout(text) {
  const about = {};
  for (const line of text.split("\n").filter(Boolean)) {
    const [, key, mark, value] = /^([^\t\r]*)([\t\r])(.*)$/u.exec(line) ?? refuse("a line");
    about[key] = mark === "\t" ? value : JSON.parse(value);
  }
  return about;
}

// ---- shapes: what each step makes of [H, W, C] or [I]

const size = (shape) => shape.reduce((a, b) => a * b, 1);

function pads(length, kernel, stride, padding) {
  if (padding === "VALID") return [0, 0];
  const total = Math.max((Math.ceil(length / stride) - 1) * stride + kernel - length, 0);
  return [Math.floor(total / 2), Math.ceil(total / 2)];
}

/** Gives each step its shapes before and after, and appends the layers to `layers`. */
function place(plan, shape, layers) {
  for (const step of plan) {
    step.before = shape;
    shape = shapeAfter(step, shape, layers);
    step.after = shape;
    if (!shape.every((n) => n >= 1) || size(shape) > LARGEST) refuse(`a shape is ${shape}`);
  }
  return shape;
}

function shapeAfter(step, shape, layers) {
  const { kind } = step;
  if (kind === "activation") return shape;
  if (kind === "layer_norm") {
    step.features = shape.at(-1);
    return layer(step, [1, step.features], shape, layers);
  }
  if (kind === "standardize") {
    const fits = (values) => [1, shape.at(-1)].includes(values.length);
    if (!fits(step.mean) || !fits(step.std)) refuse("constants do not fit");
    return shape;
  }
  if (kind === "flatten") return [size(shape)];
  if (kind === "residual") {
    const [body, shortcut] = [step.body, step.shortcut].map((p) => place(p, shape, layers));
    if (String(body) !== String(shortcut)) refuse("a sum of two shapes");
    return body;
  }
  if (kind === "dense") {
    if (shape.length !== 1) refuse("a dense layer of maps");
    return layer(step, [shape[0], step.features], [step.features], layers);
  }
  if (kind === "depth_to_space" && shape.length === 1) {
    step.before = [1, 1, shape[0]];
    return spread(step);
  }
  if (shape.length !== 3) refuse(`${kind} needs maps`);
  if (kind === "depth_to_space") return spread(step);
  if (kind === "mean_pool") return shape.slice(2);
  if (kind === "max_pool") return [shape[0] >> 1, shape[1] >> 1, shape[2]];
  step.pads = [0, 1].map((a) =>
    Array.isArray(step.padding) ? step.padding[a] : pads(shape[a], step.kernel[a], step.strides[a], step.padding),
  );
  const places = [0, 1].map(
    (a) =>
      Math.floor((shape[a] + step.pads[a][0] + step.pads[a][1] - step.kernel[a]) / step.strides[a]) + 1,
  );
  if (kind.startsWith("window")) return [...places, shape[2]];
  if (kind === "depthwise") {
    step.features = shape[2];
    return layer(step, [...step.kernel, 1, shape[2]], [...places, shape[2]], layers);
  }
  const kernel = [...step.kernel, shape[2], step.features];
  return layer(step, kernel, [...places, step.features], layers);
}

function spread({ before, block }) {
  const left = before[2] / (block[0] * block[1]);
  if (!Number.isInteger(left)) refuse("channels that fill no block");
  return [before[0] * block[0], before[1] * block[1], left];
}

function layer(step, kernel, after, layers) {
  if (layers.some((other) => other.name === step.name)) refuse("two layers of a name");
  step.shape = kernel;
  within(size(kernel), 1, LARGEST, "the size of a kernel");
  layers.push(step);
  return after;
}

// ---- streams: tokens by rANS over integer tables, low bits as they are

const TOTAL = 4096, LOW = 65536;

function readTable(source) {
  const [mantissa, count] = source.take(2);
  const halves = source.take((count + 1) >> 1);
  const sizes = Array.from({ length: 2 * halves.length }, (_, i) =>
    i % 2 ? halves[i >> 1] & 15 : halves[i >> 1] >> 4,
  );
  if (sizes.length > count && sizes.pop()) refuse("a table has a token too many");
  if (mantissa > 7 || count < 2 || !sizes.some(Boolean)) refuse("a table has no tokens");
  const there = sizes.filter(Boolean).length;
  const weights = sizes.map((one) => (one ? 2 ** one : 0));
  const sum = weights.reduce((a, b) => a + b);
  const frequencies = weights.map((one) =>
    one ? 1 + Math.floor((one * (TOTAL - there)) / sum) : 0,
  );
  const first = weights.indexOf(Math.max(...weights));
  frequencies[first] += TOTAL - frequencies.reduce((a, b) => a + b);
  const table = { tokens: new Uint8Array(TOTAL), places: new Uint16Array(TOTAL), frequencies };
  let slot = 0;
  frequencies.forEach((frequency, token) => {
    for (let place = 0; place < frequency; place++, slot++) {
      table.tokens[slot] = token;
      table.places[slot] = place;
    }
  });
  table.lengths = sizes.map((_, token) => Math.max((token >> mantissa) - 1, 0));
  table.leading = sizes.map((_, token) => {
    const length = table.lengths[token];
    return token < 2 ** mantissa ? token : (token - length * 2 ** mantissa) * 2 ** length;
  });
  return table;
}

class Streams {
  constructor(source, declared) {
    const kept = {};
    this.heads = declared.filter(([, count]) => count).map(([kind, count]) => {
      const head = source.byte(), which = head >> 5, low = head & 31;
      if (which > 2) refuse("a stream has an unknown kind of table");
      const table = which ? readTable(source) : (kept[kind] ?? refuse("a table is missing"));
      if (which === 1) kept[kind] = table;
      table.frequencies.forEach((frequency, token) => {
        if (frequency && table.lengths[token] >= 31) refuse("a number is too large");
      });
      return { low, table, count };
    });
    const words = source.take(2 * source.varint());
    if (words.length < 4) refuse("words are cut off");
    this.words = Uint16Array.from({ length: words.length / 2 }, (_, i) => words[2 * i] + 256 * words[2 * i + 1]);
    this.state = this.words[0] * LOW + this.words[1];
    if (this.state < LOW) refuse("words begin with no state");
    this.at = 2;
    this.bits = source.take(source.content.length - source.at);
    this.bit = 0;
  }

  /** The numbers of the next stream, each through `level`. */
  next(count, level) {
    if (!count) return [];
    const { low, table } = this.heads.shift();
    const { tokens, places, frequencies, leading, lengths } = table;
    const found = new Array(count), drawn = new Uint8Array(count);
    let { state, at } = this;
    for (let i = 0; i < count; i++) {
      const slot = state % TOTAL, token = tokens[slot];
      drawn[i] = token;
      state = frequencies[token] * Math.floor(state / TOTAL) + places[slot];
      if (state < LOW) {
        if (at >= this.words.length) refuse("words are cut off");
        state = state * LOW + this.words[at++];
      }
    }
    Object.assign(this, { state, at });
    for (let i = 0; i < count; i++) {
      const token = drawn[i];
      // Of a shared table another stream may have larger ones: not all of it.
      const high = leading[token] * 2 ** low;
      if (high >= 2 ** 31) refuse("a number is too large");
      const number = high + this.raw(lengths[token] + low);
      if (number >= 2 ** 31) refuse("a number is too large");
      found[i] = level(number);
    }
    return found;
  }

  raw(length) {
    let number = 0;
    for (let place = 0; place < length; place++, this.bit++) {
      const byte = this.bits[this.bit >> 3] ?? refuse("raw bits are cut off");
      number += ((byte >> (7 - (this.bit & 7))) & 1) * 2 ** place;
    }
    return number;
  }

  finish() {
    if (this.at !== this.words.length || this.state !== LOW) refuse("words are left");
    for (; this.bit < 8 * this.bits.length; this.bit++) {
      if ((this.bits[this.bit >> 3] >> (7 - (this.bit & 7))) & 1) refuse("bits are left");
    }
  }
}

const unzigzag = (n) => (n % 2 ? -(n + 1) / 2 : n / 2);

// ---- layers

function readHead(source, step) {
  const flags = source.byte(), count = source.varint();
  const positive = (value) => {
    if (!(value > 0 && value <= LARGEST_NUMBER)) refuse(`a grid has the step ${value}`);
    return value;
  };
  const stepSize = positive(source.float32(flags & 32));
  const halved = Math.fround(stepSize * 2 ** -(flags & 15));
  const biasStep = positive(flags & 16 ? source.float32(true) : halved);
  let noise = null;
  if (flags & 64) {
    if (step.kind === "layer_norm") refuse("a normalization has noise");
    const noisy = source.varint();
    noise = { count: noisy, step: positive(source.float32(flags & 32)) };
  }
  within(Math.max(count, noise?.count ?? 0), 0, size(step.shape), "a number of weights");
  return { step, count, stepSize, biasStep, noise, turned: flags & 128 };
}

function streamsOf({ step, count, noise }) {
  const gaps = (number) => (number === size(step.shape) ? [] : [["gaps", number]]);
  const noisy = noise ? [...gaps(noise.count), ["deviations", noise.count]] : [];
  return [...gaps(count), ["levels", count], ...noisy, ["biases", step.features]];
}

function readLayer(streams, { step, count, stepSize, biasStep, noise, turned }) {
  const total = size(step.shape), inputs = total / step.features;
  const positions = (number) => {
    const ordered = (at) =>
      turned ? (at % inputs) * step.features + Math.floor(at / inputs) : at;
    if (number === total) return Array.from({ length: number }, (_, i) => ordered(i));
    let last = -1;
    return streams.next(number, (gap) => {
      last = within(last + gap + 1, 0, total - 1, "a position");
      return ordered(last);
    });
  };
  const values = (number, by, most, level) =>
    Float32Array.from(
      streams.next(number, (n) => by * within(level(n), -most, most, "a level")),
    );
  step.means = entries(step, positions(count), () =>
    values(count, stepSize, MOST_LEVEL, (n) => unzigzag(n + 1)),
  );
  step.vars = noise && entries(step, positions(noise.count), () =>
    values(noise.count, noise.step, MOST_DEVIATION, (n) => n + 1).map((std) => std * std),
  );
  step.bias = values(step.features, biasStep, MOST_BIAS, unzigzag);
}

/** The weights that are there: inputs, outputs and values, and taps of a convolution. */
function entries(step, positions, values) {
  const { features } = step;
  return {
    into: Uint32Array.from(positions, (p) => Math.floor(p / features)),
    out: Uint32Array.from(positions, (p) => p % features),
    values: values(),
  };
}

/** The net of a file's bytes; throws an Error that says what is wrong with them. */
export function read(file) {
  const content = new Uint8Array(file); // a copy; what Node reads is no plain array
  const source = new Bytes(content);
  if (String.fromCharCode(...content.subarray(0, 4)) !== "VNZ\x1a") {
    throw new Error("not a .vnz file");
  }
  const version = content[4] + 256 * content[5];
  if (!VERSIONS.includes(version)) {
    throw new Error(`a .vnz file of version ${version}; this page reads ${VERSIONS}`);
  }
  source.take(6);
  const checksum = new DataView(source.take(4).slice().buffer).getUint32(0, true);
  if (crc32(content.subarray(0, 6), content.subarray(10)) !== checksum) {
    throw new Error("the .vnz file is damaged: its checksum does not fit");
  }
  const rank = source.byte();
  if (rank !== 1 && rank !== 3) refuse("inputs are [I] or [H, W, C]");
  const axis = () => within(source.varint(), 1, MOST_FEATURES, "an axis");
  const shape = Array.from({ length: rank }, axis);
  const plan = readPlan(source, DEPTH, {}, version);
  const about = readAbout(source.text(LOW));
  const layers = [];
  const outputs = place(plan, shape, layers);
  if (!layers.length || outputs.length !== 1) refuse("a net ends with units");
  const heads = layers.map((step) => readHead(source, step));
  const numbers = heads.reduce(
    (sum, { step, count, noise }) => sum + count + (noise?.count ?? 0) + step.features,
    0,
  );
  if (numbers > NUMBERS_PER_BYTE * content.length) refuse("it speaks of too many weights");
  const streams = new Streams(source, heads.flatMap(streamsOf));
  for (const head of heads) readLayer(streams, head);
  streams.finish();
  return { shape, plan, layers, about, bytes: content.length };
}

// ---- predictions; maps are [H, W, C], the last axis running fastest

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/** By Abramowitz and Stegun 1964, 7.1.26, as in Python: off by 1.5e-7 at most. */
function erf(x) {
  const factors = [0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429];
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const sum = factors.reduceRight((y, factor) => (y + factor) * t, 0);
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}

const ACTIVATE = {
  relu: (x) => Math.max(x, 0),
  leaky_relu: (x) => (x >= 0 ? x : 0.01 * x),
  tanh: Math.tanh,
  abs: Math.abs,
  softplus: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  gelu: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  sigmoid,
  silu: (x) => x * sigmoid(x),
  gelu_erf: (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
};

/** The product of a layer's entries with its inputs, each through `of`. */
function product(step, { into, out, values }, h, of) {
  const y = new Float64Array(size(step.after));
  if (step.kind === "dense") {
    for (let n = 0; n < values.length; n++) y[out[n]] += values[n] * of(h[into[n]]);
    return y;
  }
  const [height, width, channels] = step.before, [rows, columns, features] = step.after;
  const [down, right] = step.strides, own = step.kind === "depthwise";
  for (let n = 0; n < values.length; n++) {
    const channel = own ? out[n] : into[n] % channels;
    const tap = own ? into[n] : Math.floor(into[n] / channels);
    const top = Math.floor(tap / step.kernel[1]) - step.pads[0][0];
    const left = (tap % step.kernel[1]) - step.pads[1][0];
    for (let i = 0; i < rows; i++) {
      const row = i * down + top;
      if (row < 0 || row >= height) continue;
      for (let j = 0; j < columns; j++) {
        const column = j * right + left;
        if (column < 0 || column >= width) continue;
        const x = h[(row * width + column) * channels + channel];
        y[(i * columns + j) * features + out[n]] += values[n] * of(x);
      }
    }
  }
  return y;
}

function linear(step, h, normal) {
  const y = product(step, step.means, h, (x) => x);
  for (let i = 0; i < y.length; i++) y[i] += step.bias[i % step.features];
  if (normal && step.vars) {
    const vars = product(step, step.vars, h, (x) => x * x);
    for (let i = 0; i < y.length; i++) y[i] += Math.sqrt(vars[i]) * normal();
  }
  return y;
}

/** Windows that may reach over the edges, each as one number. */
function pool(step, h, kernel, strides, margins, start, join) {
  const [height, width, channels] = step.before, [rows, columns] = step.after;
  const y = new Float64Array(size(step.after)).fill(start);
  for (let i = 0; i < rows * kernel[0]; i++) {
    const to = Math.floor(i / kernel[0]);
    const row = to * strides[0] + (i % kernel[0]) - margins[0][0];
    if (row < 0 || row >= height) continue;
    for (let j = 0; j < columns * kernel[1]; j++) {
      const at = Math.floor(j / kernel[1]);
      const column = at * strides[1] + (j % kernel[1]) - margins[1][0];
      if (column < 0 || column >= width) continue;
      for (let c = 0; c < channels; c++) {
        const place = (to * columns + at) * channels + c;
        y[place] = join(y[place], h[(row * width + column) * channels + c]);
      }
    }
  }
  return y;
}

const maxPool = (...given) => pool(...given, -Infinity, Math.max);

function layerNorm({ before, means, bias, epsilon }, h) {
  const channels = before.at(-1), scale = new Float64Array(channels), y = new Float64Array(h.length);
  means.out.forEach((c, n) => (scale[c] = means.values[n]));
  for (let at = 0; at < h.length; at += channels) {
    const units = h.slice(at, at + channels);
    const mean = units.reduce((a, b) => a + b) / channels;
    const square = units.reduce((sum, x) => sum + (x - mean) ** 2, 0) / channels;
    const std = Math.sqrt(square + epsilon);
    units.forEach((x, c) => (y[at + c] = ((x - mean) / std) * scale[c] + bias[c]));
  }
  return y;
}

const RUN = {
  conv: linear,
  dense: linear,
  depthwise: linear,
  layer_norm: layerNorm,
  activation: (step, h) => h.map(ACTIVATE[step.activation]),
  flatten: (step, h) => h,
  max_pool: (step, h) => maxPool(step, h, [2, 2], [2, 2], [[0], [0]]),
  window_max_pool: (step, h) => maxPool(step, h, step.kernel, step.strides, step.pads),
  window_mean_pool: (step, h) => {
    const sums = pool(step, h, step.kernel, step.strides, step.pads, 0, (a, b) => a + b);
    return sums.map((sum) => sum / step.kernel[0] ** 2);
  },
  depth_to_space: ({ before, block, after }, h) => {
    const [down, across] = block, [, columns, channels] = after;
    return h.map((_, i) => {
      const [place, c] = [Math.floor(i / channels), i % channels];
      const [row, column] = [Math.floor(place / columns), place % columns];
      const from = Math.floor(row / down) * before[1] + Math.floor(column / across);
      return h[from * before[2] + ((row % down) * across + (column % across)) * channels + c];
    });
  },
  mean_pool: (step, h) => {
    const [height, width, channels] = step.before, y = new Float64Array(channels);
    h.forEach((x, i) => (y[i % channels] += x / (height * width)));
    return y;
  },
  standardize: ({ mean, std }, h) => {
    const of = (values, i) => values[i % values.length];
    return h.map((x, i) => (x - of(mean, i)) / of(std, i));
  },
  residual: ({ body, shortcut }, h, normal) => {
    const [a, b] = [body, shortcut].map((plan) => run(plan, h, normal));
    return a.map((x, i) => x + b[i]);
  },
};

const run = (plan, h, normal) => plan.reduce((x, step) => RUN[step.kind](step, x, normal), h);

/** Logits [K] of inputs as the net was trained on (pixels divided by 255), by the means
 * alone or, with a function that draws from N(0, 1), by one draw of the noise. */
export function predict(net, inputs, normal = null) {
  if (inputs.length !== size(net.shape)) {
    throw new Error(`${inputs.length} inputs; the net takes ${net.shape.join(" x ")}`);
  }
  return run(net.plan, Float64Array.from(inputs), normal);
}

/** Probabilities [K], averaged over draws; what comes before the noise runs once. */
export function ensemble(net, inputs, samples, normal) {
  const noisy = net.plan.findIndex((step) => step.vars || step.kind === "residual");
  const first = noisy < 0 ? net.plan.length : noisy;
  const h = predict({ ...net, plan: net.plan.slice(0, first) }, inputs);
  let sum = null;
  for (let draw = 0; draw < samples; draw++) {
    const likely = softmax(run(net.plan.slice(first), h, normal));
    sum = sum ? sum.map((p, k) => p + likely[k]) : likely;
  }
  return sum.map((p) => p / samples);
}

/** Probabilities of logits. */
export function softmax(logits) {
  const most = Math.max(...logits);
  const likely = logits.map((logit) => Math.exp(logit - most));
  const sum = likely.reduce((a, b) => a + b);
  return likely.map((p) => p / sum);
}

/** Draws from N(0, 1) by Box and Muller. */
export function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}
