// Passes results to others: a snapshot as a file, and JSON to the address that the page was exported with.

import {draw} from "./drawing.js";

const RETRY_MS = 2000; // after a post that failed

// Shares or downloads the image with its boxes. image: element that shows it. about: the page's bundle.json.
export async function saveSnapshot(result, image, about, title) {
  const {width, height} = result, canvas = Object.assign(document.createElement("canvas"), {width, height}), context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, width, height);
  draw(context, width, height, Math.max(1, width / 640), result);
  const blob = await new Promise(done => canvas.toBlob(done, "image/jpeg", 0.92));
  const file = new File([blob], `${about.name}-${new Date().toISOString().replaceAll(":", "-")}.jpg`, {type: "image/jpeg"});
  if (navigator.canShare?.({files: [file]})) {
    try {
      return await navigator.share({files: [file], title: about.name, text: title});
    } catch (error) {
      if (error.name === "AbortError") return; // the user cancelled
    }
  }
  const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(file), download: file.name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// Posts results in the agent's format. One at a time: results that come meanwhile are not posted.
export class Poster {
  // report: called with a text about the state.
  constructor(report) {
    this.report = report;
    this.isPosting = false;
    this.reportedDrops = 0;
  }

  // dropped: number of frames dropped so far.
  async post({id, at, width, height, predictions, ms, total, still}, about, dropped) {
    if (this.isPosting) return;
    this.isPosting = true;
    const captured = new Date(performance.timeOrigin + at).toISOString();
    const body = {
      schema: 1, device: "browser_phone", source: still ? "image" : "camera", frame_id: id, captured_at: captured,
      captured_monotonic_ns: Math.round(at * 1e6), model: {name: about.name, version: about.version, sha256: about.sha256}, image: {width, height},
      latency_ms: {...Object.fromEntries(Object.entries(ms).map(([k, v]) => [k, Math.max(0, v)])), total},
      dropped: dropped > this.reportedDrops ? {overwritten: dropped - this.reportedDrops} : {}, status: "ok", cause: null, cause_code: null, predictions,
    };
    try {
      const reply = await fetch(about.post, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
      if (!reply.ok) throw new Error(`${reply.status}`);
      this.reportedDrops = dropped;
      this.report(about.post);
    } catch (error) {
      this.report(`${about.post}: failed (${error.message})`);
      await new Promise(done => setTimeout(done, RETRY_MS));
    } finally {
      this.isPosting = false;
    }
  }
}
