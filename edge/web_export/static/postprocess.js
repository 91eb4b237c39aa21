// Turns a model's outputs into predictions, as sightline/postprocess.py and sightline/detection_postprocess.py do.

const MAX_IOU = 0.6; // two boxes of one class with a larger overlap are one object
const MAX_CANDIDATES = 300; // best boxes before overlapping ones are removed
const MIN_SCORE = 0.01; // of a detector
const MAX_CLASSES = 3, MAX_OBJECTS = 100; // of an image

// outputs: Float32Arrays, in the model's order. output: the manifest's `output`. placement: see preprocess.js. spec: the
// manifest's `input`.
export function answer(outputs, output, placement, spec, threshold) {
  return output.task === "classify" ? classify(outputs[0], output, threshold) : detect(outputs, output, placement, spec, threshold);
}

function classify(values, output, threshold) {
  const scores = Array.from(values);
  if (output.activation === "softmax") {
    const most = Math.max(...scores);
    let sum = 0;
    scores.forEach((v, i) => sum += scores[i] = Math.exp(v - most));
    scores.forEach((v, i) => scores[i] = v / sum);
  } else if (output.activation === "sigmoid") {
    scores.forEach((v, i) => scores[i] = 1 / (1 + Math.exp(Math.min(-v, 88))));
  }
  const best = [];
  for (let i = 0; i < scores.length; i++) { // equal scores stay in the order of the labels
    let k = best.length;
    while (k && scores[i] > scores[best[k - 1]]) k--;
    if (k < MAX_CLASSES) best.splice(k, 0, i);
    best.length = Math.min(best.length, MAX_CLASSES);
  }
  return best.filter(i => scores[i] >= threshold).map(index => ({kind: "classification", label: output.labels[index], index, score: scores[index]}));
}

// Two outputs per stride: class logits [1, h, w, classes], and distances [1, h, w, 4] from a cell's centre in strides.
function detect(outputs, output, placement, spec, threshold) {
  const p = Math.max(threshold, MIN_SCORE), logit = p < 1 ? Math.log(p / (1 - p)) : Infinity, n = output.labels.length;
  const candidates = [];
  output.strides.forEach((stride, level) => {
    const logits = outputs[2 * level], distances = outputs[2 * level + 1], columns = Math.floor(spec.width / stride);
    for (let i = 0; i < logits.length; i++) {
      if (!(logits[i] >= logit)) continue;
      const cell = Math.floor(i / n), x = (cell % columns + 0.5) * stride, y = (Math.floor(cell / columns) + 0.5) * stride, d = 4 * cell;
      candidates.push({
        index: i % n, logit: logits[i],
        left: x - distances[d] * stride, top: y - distances[d + 1] * stride,
        right: x + distances[d + 2] * stride, bottom: y + distances[d + 3] * stride,
      });
    }
  });
  candidates.sort((a, b) => b.logit - a.logit);
  const boxes = suppress(candidates.slice(0, MAX_CANDIDATES).filter(b => b.right > b.left && b.bottom > b.top));
  return boxes.map(b => toImage(b, output.labels, placement)).filter(b => b.box.width > 0 && b.box.height > 0).slice(0, MAX_OBJECTS);
}

// Non-maximum suppression: removes each box that overlaps a better one of its class. boxes: the best first.
function suppress(boxes) {
  const kept = [];
  for (const b of boxes) if (!kept.some(k => k.index === b.index && overlap(k, b) > MAX_IOU)) kept.push(b);
  return kept;
}

function overlap(a, b) {
  const w = Math.min(a.right, b.right) - Math.max(a.left, b.left), h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  if (w <= 0 || h <= 0) return 0;
  return w * h / ((a.right - a.left) * (a.bottom - a.top) + (b.right - b.left) * (b.bottom - b.top) - w * h);
}

// From the model's input to pixels of the image, cut to its edges.
function toImage(b, labels, {source: [sx, sy, sw, sh], target: [tx, ty, tw, th]}) {
  const cut = (v, low, size) => Math.min(low + size, Math.max(low, v));
  const x = cut(sx + (b.left - tx) * sw / tw, sx, sw), y = cut(sy + (b.top - ty) * sh / th, sy, sh);
  const right = cut(sx + (b.right - tx) * sw / tw, sx, sw), bottom = cut(sy + (b.bottom - ty) * sh / th, sy, sh);
  return {
    kind: "detection", label: labels[b.index], index: b.index, score: 1 / (1 + Math.exp(-b.logit)),
    box: {x, y, width: right - x, height: bottom - y},
  };
}

// Difference of an output from the measured one, and the largest allowed difference, as in the agent's self-test.
export function compare(output, expected, task) {
  let most = 0, squares = 0, low = Infinity, high = -Infinity;
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs(output[i] - expected[i]);
    if (!(error <= most)) most = error; // true for NaN as well
    squares += error * error;
    low = Math.min(low, expected[i]);
    high = Math.max(high, expected[i]);
  }
  const off = task === "classify" ? most : Math.max(Math.sqrt(squares / expected.length), most / 8);
  return {off, allowed: Math.max(1e-3, 0.016 * (high - low))};
}
