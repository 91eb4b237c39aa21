// Which box is the one of the frame before, as edge/results/tracker.py has it: sure boxes first, then the unsure, in seconds.

const LOW = 0.1, SAME = 0.6, CONFIRM = 2, KEEP_S = 2, GROW = 0.3, MEET = 0.15, MEET_UNSURE = 0.4, MOST = 200;
const MEASURED = 0.05, ACCELERATION = 3;

export {LOW};

export class Tracker {
  constructor() {
    this.next = 1;
    this.tracks = [];
    this.at = null;
  }

  // found: detections, also those that score less than `sure`, down to LOW. at: seconds. Returns those that count.
  run(found, at, sure) {
    this.move(this.at === null ? 0 : at - this.at);
    this.at = at;
    const boxes = found.map(d => [d.box.x + d.box.width / 2, d.box.y + d.box.height / 2, d.box.width, d.box.height]);
    const track = found.map(() => null);
    const isSure = found.map(d => d.score >= sure);
    const isUnsure = found.map((d, i) => !isSure[i] && !found.some((e, k) => e.score > d.score && overlaps(boxes[i], boxes[k], 0) >= SAME));
    for (const [some, meet] of [[isSure, MEET], [isUnsure, MEET_UNSURE]]) {
      const rows = found.map((_, i) => i).filter(i => some[i]);
      const free = this.tracks.filter(t => !track.includes(t));
      for (const [i, t] of pairs(rows, free, boxes, found, meet)) track[i] = t;
    }
    track.forEach((t, i) => t && this.correct(t, boxes[i]));
    const ids = track.map(t => t && t.confirmed ? t.id : null);
    this.tracks = this.tracks.filter(t => t.seen === 0 || (t.confirmed && t.seen <= KEEP_S));
    found.forEach((d, i) => {
      if (!track[i] && isSure[i] && this.tracks.length < MOST) this.begin(d.index, boxes[i]);
    });
    return found.filter((d, i) => isSure[i] || ids[i] !== null).map(d => {
      const id = ids[found.indexOf(d)];
      return id === null ? d : {...d, track: id};
    });
  }

  move(s) {
    for (const t of this.tracks) {
      t.seen += s;
      for (let k = 0; k < 4; k++) t.state[k] += t.speed[k] * s;
      t.state[2] = Math.max(t.state[2], 1);
      t.state[3] = Math.max(t.state[3], 1);
      for (let k = 0; k < 4; k++) {
        const c = t.covariance[k], jolt = (ACCELERATION * t.state[2 + k % 2]) ** 2 * (k < 2 ? 1 : 0.05);
        c[0] += 2 * s * c[1] + s ** 2 * c[2] + s ** 4 / 4 * jolt;
        c[1] += s * c[2] + s ** 3 / 2 * jolt;
        c[2] += s ** 2 * jolt;
      }
    }
  }

  correct(t, box) {
    const noise = [0, 1, 2, 3].map(k => (MEASURED * t.state[2 + k % 2]) ** 2);
    for (let k = 0; k < 4; k++) {
      const c = t.covariance[k], error = box[k] - t.state[k];
      const gain = c[0] / (c[0] + noise[k]), gainSpeed = c[1] / (c[0] + noise[k]);
      t.state[k] += gain * error;
      t.speed[k] += gainSpeed * error;
      t.covariance[k] = [(1 - gain) * c[0], (1 - gain) * c[1], c[2] - gainSpeed * c[1]];
    }
    t.seen = 0;
    t.looks += 1;
    t.confirmed ||= t.looks >= CONFIRM;
  }

  begin(index, box) {
    const covariance = [0, 1, 2, 3].map(k => [(MEASURED * box[2 + k % 2]) ** 2, 0, (2 * box[2 + k % 2]) ** 2]);
    this.tracks.push({id: this.next++, index, looks: 1, confirmed: false, seen: 0, state: [...box], speed: [0, 0, 0, 0], covariance});
  }
}

// [box, track] that overlap enough, the best first, each once; one that is confirmed goes before one that may be noise.
function pairs(rows, tracks, boxes, found, meet) {
  const all = [];
  for (const i of rows) {
    for (const t of tracks) {
      const shared = t.index === found[i].index ? overlaps(boxes[i], t.state, GROW) : 0;
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

// Intersection over union of [middle x, middle y, width, height], each `grow` of its size larger on every side.
function overlaps(a, b, grow) {
  const by = 1 + 2 * grow, aw = a[2] * by, ah = a[3] * by, bw = b[2] * by, bh = b[3] * by;
  const w = Math.min(a[0] + aw / 2, b[0] + bw / 2) - Math.max(a[0] - aw / 2, b[0] - bw / 2);
  const h = Math.min(a[1] + ah / 2, b[1] + bh / 2) - Math.max(a[1] - ah / 2, b[1] - bh / 2);
  const shared = Math.max(w, 0) * Math.max(h, 0);
  return shared / Math.max(aw * ah + bw * bh - shared, 1e-9);
}
