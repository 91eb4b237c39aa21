// Turns an image into a model's input as sightline/preprocess.py does, within one grey level of OpenCV's result.

// Rounds a half to the even neighbour, as Python does.
const round = x => {
  const r = Math.round(x);
  return r - x === 0.5 && r % 2 !== 0 ? r - 1 : r;
};

// The rectangle of the image, and the rectangle of the input that it fills: [x, y, width, height] each.
export function place(width, height, spec) {
  const whole = [0, 0, spec.width, spec.height];
  if (spec.resize === "stretch") return {source: [0, 0, width, height], target: whole};
  if (spec.resize === "center_crop") {
    const scale = Math.max(spec.width / width, spec.height / height);
    const w = Math.min(width, Math.max(1, round(spec.width / scale)));
    const h = Math.min(height, Math.max(1, round(spec.height / scale)));
    return {source: [Math.floor((width - w) / 2), Math.floor((height - h) / 2), w, h], target: whole};
  }
  const scale = Math.min(spec.width / width, spec.height / height);
  const w = Math.min(spec.width, Math.max(1, round(width * scale)));
  const h = Math.min(spec.height, Math.max(1, round(height * scale)));
  const target = [Math.floor((spec.width - w) / 2), Math.floor((spec.height - h) / 2), w, h];
  return {source: [0, 0, width, height], target};
}

// Halves an image with even sides: the mean of 2x2 pixels. Computes a pixel's four bytes at once, two in each of two sums.
function halve(pixels, width, height, out) {
  const w = width >> 1, h = height >> 1, even = 0x00ff00ff, half = 0x00020002;
  for (let y = 0, o = 0; y < h; y++) {
    let i = 2 * y * width, j = i + width;
    for (let x = 0; x < w; x++, i += 2, j += 2, o++) {
      const a = pixels[i] | 0, b = pixels[i + 1] | 0, c = pixels[j] | 0, d = pixels[j + 1] | 0;
      const low = ((a & even) + (b & even) | 0) + ((c & even) + (d & even) | 0) + half >>> 2 & even;
      const high = ((a >>> 8 & even) + (b >>> 8 & even) | 0) + ((c >>> 8 & even) + (d >>> 8 & even) | 0) + half >>> 2 & even;
      out[o] = low | high << 8;
    }
  }
}

// Means over areas of fractional pixels; first along the lines and in single precision, as OpenCV does it.
function average(bytes, width, height, out, w, h) {
  const columns = shares(width, w), rows = shares(height, h), line = new Float32Array(4 * w), sum = new Float32Array(4 * w);
  for (let y = 0; y < h; y++) {
    sum.fill(0);
    for (const [sy, wy] of rows[y]) {
      line.fill(0);
      for (let x = 0; x < w; x++) {
        for (const [sx, wx] of columns[x]) {
          for (let c = 0; c < 3; c++) line[4 * x + c] += Math.fround(bytes[4 * (sy * width + sx) + c] * wx);
        }
      }
      for (let i = 0; i < line.length; i++) sum[i] += Math.fround(line[i] * wy);
    }
    out.set(sum, 4 * w * y); // the array type rounds
  }
}

// For each pixel of a line of `to` pixels: the pixels of a line of `from` in it, [index, share] each.
function shares(from, to) {
  const scale = from / to;
  return Array.from({length: to}, (_, i) => {
    const begin = i * scale, end = Math.min(from, begin + scale), weights = [];
    for (let s = Math.floor(begin); s < end - 1e-6; s++) weights.push([s, Math.fround((Math.min(end, s + 1) - Math.max(begin, s)) / (end - begin))]);
    return weights;
  });
}

// For each pixel of a line of `to` pixels: its two neighbours in a line of `from`, and the second one's share. areas: as
// OpenCV interpolates where it cannot average because one side grows: only a pixel on an edge between two is mixed.
function between(from, to, areas) {
  const first = new Int32Array(to), second = new Int32Array(to), share = new Float32Array(to);
  for (let i = 0; i < to; i++) {
    const at = Math.min(from - 1, Math.max(0, areas ? Math.floor(i * from / to) : (i + 0.5) * from / to - 0.5));
    first[i] = Math.floor(at);
    second[i] = Math.min(from - 1, first[i] + 1);
    const beyond = i + 1 - (first[i] + 1) * to / from;
    share[i] = !areas ? at - first[i] : beyond <= 0 ? 0 : beyond - Math.floor(beyond);
  }
  return {first, second, share};
}

// The normalized value of each byte, for red, green and blue: three Float32Arrays [256].
export const values = spec => spec.mean.map((mean, c) => Float32Array.from({length: 256}, (_, byte) => Math.fround(Math.fround(byte - mean) / spec.std[c])));

// Reuses its buffers. spec: the manifest's `input`.
export class Preprocessor {
  constructor(spec) {
    this.spec = spec;
    this.values = values(spec);
    this.out = new Float32Array(spec.width * spec.height * 3);
  }

  // Prepares for images of this size. Returns the placement; `run` needs the pixels of its `source`.
  prepare(width, height) {
    if (this.width === width && this.height === height) return this.placement;
    [this.width, this.height] = [width, height];
    this.placement = place(width, height, this.spec);
    let [, , w, h] = this.placement.source;
    const [, , tw, th] = this.placement.target;
    this.halves = [];
    while (this.spec.filter === "pyramid" && w >= 2 * tw && h >= 2 * th) {
      const whole = w % 2 === 0 && h % 2 === 0;
      [w, h] = [w >> 1, h >> 1];
      this.halves.push({w, h, whole, bytes: new Uint8ClampedArray(4 * w * h)});
    }
    const averages = this.spec.filter === "area" && w >= tw && h >= th;
    if (averages) this.halves.push({w: tw, h: th, whole: w === 2 * tw && h === 2 * th, bytes: new Uint8ClampedArray(4 * tw * th)});
    if (averages) [w, h] = [tw, th];
    this.columns = between(w, tw, this.spec.filter === "area");
    this.rows = between(h, th, this.spec.filter === "area");
    for (let i = 0; i < this.out.length; i++) this.out[i] = this.values[i % 3][this.spec.pad];
    return this.placement;
  }

  // bytes: RGBA of the placement's `source`. Returns float32 [height, width, 3], the same array each time.
  run(bytes) {
    let [, , w, h] = this.placement.source;
    for (const half of this.halves) {
      if (half.whole) halve(new Int32Array(bytes.buffer, bytes.byteOffset, w * h), w, h, new Int32Array(half.bytes.buffer));
      else average(bytes, w, h, half.bytes, half.w, half.h);
      [bytes, w, h] = [half.bytes, half.w, half.h];
    }
    const [tx, ty, tw, th] = this.placement.target;
    const [red, green, blue] = this.values, {first, second, share} = this.columns, rows = this.rows, out = this.out;
    for (let y = 0; y < th; y++) {
      const above = rows.first[y] * w, below = rows.second[y] * w, v = rows.share[y];
      let o = 3 * ((ty + y) * this.spec.width + tx);
      for (let x = 0; x < tw; x++, o += 3) {
        const u = share[x], d = u * v, b = u - d, c = v - d, a = 1 - u - c;
        const i = 4 * (above + first[x]), j = 4 * (above + second[x]), k = 4 * (below + first[x]), m = 4 * (below + second[x]);
        out[o] = red[bytes[i] * a + bytes[j] * b + bytes[k] * c + bytes[m] * d + 0.5 | 0];
        out[o + 1] = green[bytes[i + 1] * a + bytes[j + 1] * b + bytes[k + 1] * c + bytes[m + 1] * d + 0.5 | 0];
        out[o + 2] = blue[bytes[i + 2] * a + bytes[j + 2] * b + bytes[k + 2] * c + bytes[m + 2] * d + 0.5 | 0];
      }
    }
    return out;
  }
}
