// Predicts with the page's reader: node read_vnz.mjs VNZ.JS FILE.vnz INPUTS [NOISE]
// INPUTS are float32, one example after another; NOISE is what every draw is. Prints
// {"about": ..., "outputs": [[...]]}, or {"error": ...} for a file that is refused.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [, , module, file, inputs, noise] = process.argv;
const { predict, read } = await import(pathToFileURL(module));
let net;
try {
  net = read(readFileSync(file));
} catch (error) {
  console.log(JSON.stringify({ error: error.message }));
  process.exit(0);
}
const bytes = readFileSync(inputs);
const numbers = Float32Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i));
const size = net.shape.reduce((a, b) => a * b);
const normal = noise === undefined ? null : () => Number(noise);
const outputs = [];
for (let at = 0; at < numbers.length; at += size) {
  outputs.push([...predict(net, numbers.subarray(at, at + size), normal)]);
}
console.log(JSON.stringify({ about: net.about, outputs }));
