// What the page shows: a digit and what the net says of it, digits out of two numbers, and
// two recorded trainings.

import { asMnist } from "./digit.js";
import { draw, drawMap, numbersAt, picture, placeOf } from "./latent.js";
import { ensemble, normal, predict, read, softmax } from "./vnz.js";

const $ = (id) => document.getElementById(id);
const percent = (x, digits = 1) => `${(100 * x).toFixed(digits)} %`;
const DRAWS = [1, 2, 5, 10, 20, 50, 100, 200, 500]; // of the slider
const PEN = 24;
// Strokes as points of a unit square.
const EXAMPLES = {
  2: [[[0.28, 0.3], [0.38, 0.17], [0.58, 0.15], [0.7, 0.28], [0.66, 0.45], [0.45, 0.66], [0.27, 0.85], [0.75, 0.85]]],
  4: [[[0.42, 0.15], [0.28, 0.55], [0.75, 0.55]], [[0.66, 0.2], [0.62, 0.88]]],
  7: [[[0.25, 0.2], [0.75, 0.2], [0.45, 0.88]]],
  8: [[[0.66, 0.24], [0.5, 0.14], [0.36, 0.25], [0.44, 0.42], [0.62, 0.56], [0.68, 0.74], [0.5, 0.87], [0.34, 0.74], [0.42, 0.56], [0.6, 0.42], [0.66, 0.24]]],
};

// ---- the drawing

const pad = $("pad");
const pen = pad.getContext("2d", { willReadFrequently: true });
let pixels = null;
let shownByUs = false; // an example, which the reader's first stroke takes away

function clear() {
  shownByUs = false;
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, pad.width, pad.height);
  pen.strokeStyle = "#111";
  pen.lineWidth = PEN;
  pen.lineCap = pen.lineJoin = "round";
}

function line(from, to) {
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
}

function example(digit) {
  clear();
  for (const stroke of EXAMPLES[digit]) {
    const points = stroke.map((point) => point.map((part) => part * pad.width));
    points.slice(1).forEach((to, i) => line(points[i], to));
  }
  shownByUs = true;
  look();
}

function look() {
  const { width, height } = pad;
  const image = pen.getImageData(0, 0, width, height).data;
  const ink = Float32Array.from({ length: width * height }, (_, i) => 1 - image[4 * i] / 255);
  pixels = asMnist(ink, width, height);
  const seen = $("seen").getContext("2d");
  const shown = seen.createImageData(28, 28);
  for (let i = 0; i < 784; i++) {
    shown.data.fill(255 * (pixels?.[i] ?? 0), 4 * i, 4 * i + 3);
    shown.data[4 * i + 3] = 255;
  }
  seen.putImageData(shown, 0, 0);
  answer();
}

function listen() {
  let last = null;
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [
      ((event.clientX - box.left) * pad.width) / box.width,
      ((event.clientY - box.top) * pad.height) / box.height,
    ];
  };
  const move = (event) => {
    if (!last) return;
    for (const one of event.getCoalescedEvents?.() ?? [event]) {
      const to = at(one);
      line(last, to);
      last = to;
    }
    schedule();
  };
  let waiting = false;
  const schedule = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      look();
    });
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    if (shownByUs) clear();
    last = at(event);
    line(last, last);
    schedule();
  });
  pad.addEventListener("pointermove", move);
  for (const end of ["pointerup", "pointercancel"]) {
    pad.addEventListener(end, () => {
      last = null;
      say();
    });
  }
  $("clear").addEventListener("click", () => {
    clear();
    look();
  });
  for (const digit of Object.keys(EXAMPLES)) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: digit });
    button.setAttribute("aria-label", `Draw a ${digit} for me`);
    button.addEventListener("click", () => {
      example(digit);
      say();
    });
    document.querySelector(".examples").append(button);
  }
  $("again").addEventListener("click", oneDraw);
  $("draws").addEventListener("input", manyDraws);
  $("keep").checked = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  setInterval(() => $("keep").checked && !document.hidden && oneDraw(), 1000);
}

// ---- the answers

let net = null;
const said = {};

function bars(id, name, likely) {
  const place = $(id);
  if (!place.children.length) {
    for (let digit = 0; digit < 10; digit++) {
      const bar = document.createElement("div");
      bar.append(document.createElement("i"), Object.assign(document.createElement("b"), { textContent: digit }));
      place.append(bar);
    }
  }
  const most = likely ? likely.indexOf(Math.max(...likely)) : -1;
  [...place.children].forEach((bar, digit) => {
    bar.classList.toggle("most", digit === most);
    bar.firstChild.style.height = likely ? `${100 * likely[digit]}%` : "0";
  });
  said[id] = likely ? `${name}: ${most} with ${percent(likely[most], 0)}` : `${name}: nothing drawn`;
  place.setAttribute("aria-label", said[id]);
}

const oneDraw = () => bars("one", "One draw", pixels && softmax(predict(net, pixels, normal)));

function manyDraws() {
  const count = DRAWS[$("draws").value];
  $("count").textContent = count;
  $("draws").setAttribute("aria-valuetext", `${count} draws`);
  bars("many", `Average of ${count} draws`, pixels && ensemble(net, pixels, count, normal));
}

function answer() {
  bars("off", "Noise off", pixels && softmax(predict(net, pixels)));
  oneDraw();
  manyDraws();
}

const say = () => ($("said").textContent = Object.values(said).join(". "));

// ---- digits out of two numbers

function decoding(decoder, data) {
  const map = $("map"), sliders = [$("first"), $("second")];
  const drawn = document.createElement("canvas"); // the map without its mark
  Object.assign(drawn, { width: map.width, height: map.height });
  drawMap(drawn.getContext("2d"), decoder);
  const show = () => {
    const z = sliders.map((one) => Number(one.value)), on = map.getContext("2d");
    draw($("made").getContext("2d"), picture(decoder, z));
    on.drawImage(drawn, 0, 0);
    const [x, y] = placeOf(z).map((part) => part * map.width);
    on.lineWidth = 3;
    on.strokeStyle = "#e0752a";
    on.beginPath();
    on.arc(x, y, 9, 0, 2 * Math.PI);
    on.stroke();
    const said = z.map((one) => one.toFixed(2)).join(" and ");
    $("made-said").textContent = `the picture of ${said}`;
    $("made").setAttribute("aria-label", `The picture that the decoder makes of ${said}`);
  };
  const point = (event) => {
    const box = map.getBoundingClientRect();
    const place = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    numbersAt(...place).forEach((one, i) => (sliders[i].value = one));
    show();
  };
  map.addEventListener("pointerdown", (event) => {
    map.setPointerCapture(event.pointerId);
    point(event);
  });
  map.addEventListener("pointermove", (event) => event.buttons && point(event));
  for (const one of sliders) one.addEventListener("input", show);
  const { decoder: net, decoder_file: file } = data;
  $("latent-source").textContent =
    `The decoder is a file of ${file.bytes.toLocaleString("en")} bytes, ${file.bits} bits a weight; ` +
    `${net.nonzero.toLocaleString("en")} of its weights are left, ${percent(net.sparsity)} are gone. Its bound on ` +
    `a test digit is ${file.elbo.toFixed(1)} nats, before it was made a file ${net.elbo.toFixed(1)}. ` +
    `From the record ${net.record}, of commit ${net.commit.slice(0, 10)}.`;
  show();
}

// ---- recorded trainings

const NS = "http://www.w3.org/2000/svg";
const LINES = [
  ["det", "noise off", "--c0"],
  ["stoch", "one draw", "--c1"],
  ["ens", "ensemble", "--c2"],
  ["zero_mean_ens", "means dropped, ensemble", "--c3"],
];

function svg(tag, attributes, text = "") {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

/** A panel of lines over the epochs; returns what moves its mark to one of them. */
function panel(place, title, epochs, lines, [low, high], marks) {
  const width = place.clientWidth || 640; // of its own, that its letters keep their size
  const height = 180, left = 44, right = 12, top = 26, bottom = 26;
  const x = (epoch) => left + ((width - left - right) * (epoch - 1)) / (epochs - 1);
  const y = (value) => height - bottom - ((height - top - bottom) * (value - low)) / (high - low);
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  chart.append(svg("text", { x: 0, y: 14 }, title));
  for (const mark of marks) {
    chart.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: y(mark), y2: y(mark) }));
    chart.append(svg("text", { x: left - 8, y: y(mark) + 4, "text-anchor": "end" }, mark));
  }
  for (let epoch = 1; epoch <= epochs; epoch++) {
    chart.append(svg("text", { x: x(epoch), y: height - 6, "text-anchor": "middle" }, epoch));
  }
  for (const [values, colour] of lines) {
    const d = values.map((value, i) => `${i ? "L" : "M"}${x(i + 1)} ${y(value)}`).join("");
    chart.append(svg("path", { d, style: `stroke: var(${colour})` }));
  }
  const now = svg("line", { class: "now", y1: top, y2: height - bottom });
  chart.append(now);
  place.append(chart);
  return (epoch) => ["x1", "x2"].forEach((end) => now.setAttribute(end, x(epoch)));
}

function slider(id, epochs, start, show) {
  const input = $(id);
  Object.assign(input, { max: epochs, value: start });
  const moved = () => {
    input.setAttribute("aria-valuetext", `epoch ${input.value}`);
    show(Number(input.value));
  };
  input.addEventListener("input", moved);
  moved();
}

function transition(data) {
  const place = $("transition"), { epochs } = data;
  const lines = LINES.map(([column, , colour]) => [data[column].map((a) => 100 * a), colour]);
  const moves = [
    panel(place, "log alpha of the layer", epochs, [[data.log_alpha, "--c0"]], [0, 14], [0, 5, 10]),
    panel(place, "test accuracy (%)", epochs, lines, [0, 100], [0, 50, 100]),
  ];
  const legend = Object.assign(document.createElement("div"), { className: "legend" });
  for (const [, name, colour] of LINES) {
    const key = Object.assign(document.createElement("span"), { textContent: name });
    key.style.setProperty("--of", `var(${colour})`);
    legend.append(key);
  }
  place.append(legend);
  slider("epoch", epochs, 3, (epoch) => {
    moves.forEach((move) => move(epoch));
    const parts = LINES.map(([column, name]) => `${name} ${percent(data[column][epoch - 1])}`);
    $("transition-said").textContent =
      `Epoch ${epoch}: log alpha ${data.log_alpha[epoch - 1].toFixed(1)}; ${parts.join(", ")}.`;
  });
  source("transition-source", data);
}

function dying(data) {
  const place = $("left"), whole = Math.max(...Object.values(data.weights));
  const share = (count) => `${(100 * Math.log10(Math.max(count, 1))) / Math.log10(whole)}%`;
  const rows = Object.entries(data.weights).map(([layer, all]) => {
    const [name, track, count] = [1, 2, 3].map(() => document.createElement("span"));
    const bar = document.createElement("i");
    name.textContent = layer;
    track.className = "all";
    track.style.width = share(all);
    track.append(bar);
    place.append(name, track, count);
    return (epoch) => {
      const left = data.left[layer][epoch - 1];
      bar.style.width = `${(100 * Math.log10(Math.max(left, 1))) / Math.log10(all)}%`;
      count.textContent = `${left.toLocaleString("en")} of ${all.toLocaleString("en")}`;
    };
  });
  const sum = (values) => values.reduce((a, b) => a + b);
  const total = sum(Object.values(data.weights));
  slider("age", data.epochs, data.epochs, (epoch) => {
    rows.forEach((row) => row(epoch));
    const left = sum(Object.values(data.left).map((counts) => counts[epoch - 1]));
    $("left-said").textContent =
      `Epoch ${epoch}: ${left.toLocaleString("en")} of ${total.toLocaleString("en")} weights left ` +
      `(1 in ${Math.round(total / left)}), test accuracy ${percent(data.pruned[epoch - 1])}.`;
  });
  source("left-source", data);
}

function source(id, { record, commit }) {
  $(id).textContent = `From the record ${record}, of commit ${commit.slice(0, 10)}.`;
}

// ---- all of it

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return answer;
}

async function start() {
  const [file, decoder, data] = await Promise.all([
    fetched("net.vnz").then((answer) => answer.arrayBuffer()),
    fetched("decoder.vnz").then((answer) => answer.arrayBuffer()),
    fetched("data.json").then((answer) => answer.json()),
  ]);
  net = read(new Uint8Array(file));
  for (const note of document.querySelectorAll("[data-accuracy]")) {
    const { accuracy, samples } = data.file;
    const of = note.dataset.accuracy === "ens" ? ` with ${samples} draws` : "";
    note.textContent = `right on ${percent(accuracy[note.dataset.accuracy])} of MNIST's test digits${of}`;
  }
  $("net-source").textContent =
    `The net is a file of ${data.file.bytes.toLocaleString("en")} bytes, weights and scales of ` +
    `${data.file.bits} bits. Its accuracies are those of this file on ` +
    `${data.file.examples.toLocaleString("en")} test digits. Trained by ${data.net.run} at commit ` +
    `${data.net.commit.slice(0, 10)}.`;
  listen();
  example(4);
  decoding(read(new Uint8Array(decoder)), data);
  transition(data.transition);
  dying(data.dying);
  document.body.dataset.ready = "yes";
}

clear();
start().catch((error) => {
  $("notice").hidden = false;
  $("notice").textContent = `This page could not load its net: ${error.message}`;
});
