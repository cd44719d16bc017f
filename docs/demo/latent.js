// Pictures out of two numbers: what a decoder makes of a place on a map of them.

import { predict } from "./vnz.js";

export const EDGE = 28, TILES = 13, FAR = 3;

/** The white of each pixel, 0 to 1, of the picture of two numbers. */
export const picture = (net, z) => predict(net, z).map((x) => 1 / (1 + Math.exp(-x)));

/** The two numbers of a place on the map, 0 to 1 from its left and from its top. */
export const numbersAt = (x, y) => [FAR * (2 * x - 1), FAR * (1 - 2 * y)];

/** The place of two numbers; those beyond the map are at its edge. */
export const placeOf = ([first, second]) =>
  [(first / FAR + 1) / 2, (1 - second / FAR) / 2].map((part) => Math.min(Math.max(part, 0), 1));

/** Draws a picture with its corner at pixel [left, top]. */
export function draw(context, white, left = 0, top = 0) {
  const image = context.createImageData(EDGE, EDGE);
  white.forEach((value, i) => {
    image.data.fill(255 * value, 4 * i, 4 * i + 3);
    image.data[4 * i + 3] = 255;
  });
  context.putImageData(image, left, top);
}

/** Draws the picture of the middle of each tile. */
export function drawMap(context, net) {
  for (let tile = 0; tile < TILES ** 2; tile++) {
    const column = tile % TILES, row = Math.floor(tile / TILES);
    const z = numbersAt((column + 0.5) / TILES, (row + 0.5) / TILES);
    draw(context, picture(net, z), EDGE * column, EDGE * row);
  }
}
