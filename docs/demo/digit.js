// A drawing as MNIST's digits are: in a box of 20 x 20, centred by its mass in 28 x 28.

const SIDE = 28, BOX = 20, INK = 1 / 255;

/** Grey levels 0 to 1 of a drawing, [height x width], as 28 x 28 of them; null if empty. */
export function asMnist(ink, width, height) {
  let mass = 0, x = 0, y = 0, left = width, right = 0, top = height, bottom = 0;
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const value = ink[row * width + column];
      if (value < INK) continue;
      mass += value;
      x += value * (column + 0.5);
      y += value * (row + 0.5);
      [left, right] = [Math.min(left, column), Math.max(right, column + 1)];
      [top, bottom] = [Math.min(top, row), Math.max(bottom, row + 1)];
    }
  }
  if (!mass) return null;
  const pixel = Math.max(right - left, bottom - top) / BOX; // of the drawing, for one here
  const found = new Float32Array(SIDE * SIDE);
  for (let i = 0; i < SIDE * SIDE; i++) {
    const fromX = x / mass + ((i % SIDE) - SIDE / 2) * pixel;
    const fromY = y / mass + (Math.floor(i / SIDE) - SIDE / 2) * pixel;
    found[i] = mean(ink, width, height, fromX, fromY, pixel);
  }
  return found;
}

/** The mean of a square whose corner and side are no whole pixels; outside is empty. */
function mean(ink, width, height, fromX, fromY, side) {
  let sum = 0;
  const overlap = (place, from) => Math.min(place + 1, from + side) - Math.max(place, from);
  for (let row = Math.max(0, Math.floor(fromY)); row < Math.min(height, fromY + side); row++) {
    for (let column = Math.max(0, Math.floor(fromX)); column < Math.min(width, fromX + side); column++) {
      const value = ink[row * width + column];
      if (value) sum += value * overlap(row, fromY) * overlap(column, fromX);
    }
  }
  return sum / side ** 2;
}
