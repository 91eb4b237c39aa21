// Gives each object a number that stays the same, as edge/results/tracker.py does: certain boxes first, then uncertain ones.

export const LOW_SCORE = 0.1; // minimum score of an uncertain box
const DUPLICATE_IOU = 0.6; // an uncertain box that overlaps a better one more is a duplicate
const CONFIRM_FRAMES = 2; // with a match, before a track gets its number
const KEEP_S = 2; // without a match, before a track is deleted
const GROW = 0.3; // share of its size by which a box grows on every side before it is matched
const MIN_IOU = 0.15, MIN_IOU_UNCERTAIN = 0.4; // overlap of a box and its track
const MAX_TRACKS = 200;
const MEASUREMENT_NOISE = 0.05, ACCELERATION = 3; // standard deviations, in box sizes and box sizes / s^2

export class Tracker {
  constructor() {
    this.next = 1;
    this.tracks = [];
    this.at = null;
  }

  // detections: also those below `minScore`, down to LOW_SCORE. at: seconds. Returns the detections at or above it, and those
  // with a number.
  run(detections, at, minScore) {
    this.move(this.at === null ? 0 : at - this.at);
    this.at = at;
    const boxes = detections.map(d => [d.box.x + d.box.width / 2, d.box.y + d.box.height / 2, d.box.width, d.box.height]);
    const track = detections.map(() => null);
    const isCertain = detections.map(d => d.score >= minScore);
    const isUncertain = detections.map((d, i) => !isCertain[i] && !detections.some((e, k) => e.score > d.score && overlaps(boxes[i], boxes[k], 0) >= DUPLICATE_IOU));
    for (const [some, meet] of [[isCertain, MIN_IOU], [isUncertain, MIN_IOU_UNCERTAIN]]) {
      const rows = detections.map((_, i) => i).filter(i => some[i]);
      const free = this.tracks.filter(t => !track.includes(t));
      for (const [i, t] of pairs(rows, free, boxes, detections, meet)) track[i] = t;
    }
    track.forEach((t, i) => t && this.correct(t, boxes[i]));
    const ids = track.map(t => t && t.confirmed ? t.id : null);
    this.tracks = this.tracks.filter(t => t.unmatchedS === 0 || (t.confirmed && t.unmatchedS <= KEEP_S));
    detections.forEach((d, i) => {
      if (!track[i] && isCertain[i] && this.tracks.length < MAX_TRACKS) this.begin(d.index, boxes[i]);
    });
    return detections.filter((d, i) => isCertain[i] || ids[i] !== null).map(d => {
      const id = ids[detections.indexOf(d)];
      return id === null ? d : {...d, track: id};
    });
  }

  move(s) {
    for (const t of this.tracks) {
      t.unmatchedS += s;
      for (let k = 0; k < 4; k++) t.state[k] += t.speed[k] * s;
      t.state[2] = Math.max(t.state[2], 1);
      t.state[3] = Math.max(t.state[3], 1);
      for (let k = 0; k < 4; k++) {
        const c = t.covariance[k], variance = (ACCELERATION * t.state[2 + k % 2]) ** 2 * (k < 2 ? 1 : 0.05);
        c[0] += 2 * s * c[1] + s ** 2 * c[2] + s ** 4 / 4 * variance;
        c[1] += s * c[2] + s ** 3 / 2 * variance;
        c[2] += s ** 2 * variance;
      }
    }
  }

  correct(t, box) {
    const noise = [0, 1, 2, 3].map(k => (MEASUREMENT_NOISE * t.state[2 + k % 2]) ** 2);
    for (let k = 0; k < 4; k++) {
      const c = t.covariance[k], error = box[k] - t.state[k];
      const gain = c[0] / (c[0] + noise[k]), gainSpeed = c[1] / (c[0] + noise[k]);
      t.state[k] += gain * error;
      t.speed[k] += gainSpeed * error;
      t.covariance[k] = [(1 - gain) * c[0], (1 - gain) * c[1], c[2] - gainSpeed * c[1]];
    }
    t.unmatchedS = 0;
    t.matches += 1;
    t.confirmed ||= t.matches >= CONFIRM_FRAMES;
  }

  begin(index, box) {
    const covariance = [0, 1, 2, 3].map(k => [(MEASUREMENT_NOISE * box[2 + k % 2]) ** 2, 0, (2 * box[2 + k % 2]) ** 2]);
    this.tracks.push({id: this.next++, index, matches: 1, confirmed: false, unmatchedS: 0, state: [...box], speed: [0, 0, 0, 0], covariance});
  }
}

// [box, track] pairs that overlap enough, the best first, each once. A confirmed track goes before one that may be noise.
function pairs(rows, tracks, boxes, detections, meet) {
  const all = [];
  for (const i of rows) {
    for (const t of tracks) {
      const shared = t.index === detections[i].index ? overlaps(boxes[i], t.state, GROW) : 0;
      if (shared >= meet) all.push([i, t, shared + (t.confirmed ? 0.5 : 0)]);
    }
  }
  all.sort((a, b) => b[2] - a[2]);
  const chosen = [], used = new Set();
  for (const [i, t] of all) {
    if (used.has(i) || used.has(t)) continue;
    used.add(i).add(t);
    chosen.push([i, t]);
  }
  return chosen;
}

// Intersection over union of two boxes [centre x, centre y, width, height], grown by a share of their size on every side.
function overlaps(a, b, grow) {
  const by = 1 + 2 * grow, aw = a[2] * by, ah = a[3] * by, bw = b[2] * by, bh = b[3] * by;
  const w = Math.min(a[0] + aw / 2, b[0] + bw / 2) - Math.max(a[0] - aw / 2, b[0] - bw / 2);
  const h = Math.min(a[1] + ah / 2, b[1] + bh / 2) - Math.max(a[1] - ah / 2, b[1] - bh / 2);
  const shared = Math.max(w, 0) * Math.max(h, 0);
  return shared / Math.max(aw * ah + bw * bh - shared, 1e-9);
}
