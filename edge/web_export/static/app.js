// The page: camera, boxes, texts and buttons. preprocess-worker.js prepares the images, inference-worker.js runs the model.

import {Camera} from "./camera.js";
import {draw, percent} from "./drawing.js";
import {FAULTS, MODEL_FAULTS} from "./messages.js";
import {deleteDownloads, keepOffline} from "./offline.js";
import {$, clearFault, setState, showFault, text, write} from "./page.js";
import {Poster, saveSnapshot} from "./sharing.js";

const MAX_LINES = 6; // of the list below the best result
const TEXT_MS = 100, SPEECH_MS = 2000; // shortest time between two changes of the texts: shown, and read aloud
const FPS_MS = 2000; // the rate is counted over this time
const FROZEN_MS = 3000, REOPEN_MS = 10000; // without a new frame
const WAITING_MS = 3000; // without a result
const STUCK_MS = 15000; // of one image in the workers
const MAX_RESTARTS = 3, RESTARTS_MS = 60000; // of the workers within this time

const build = new URLSearchParams(location.search).get("build") ?? ""; // internal or compat; '' = what the browser supports
const video = $("video"), overlay = $("overlay"), pen = overlay.getContext("2d");

// the workers
let workers = [], toModel, about, ready = false, aloneMs = 0, restarts = [];
// images in the workers: when each was submitted; when the model will be free; average durations; all in ms
let submitted = [], freeAt = 0, prepareMs = 0, inferMs = 0;
// frames
let still = null, frame = 0, dropped = 0, frameAt = 0, intervalMs = 0, isFrozen = false;
// results
const times = []; // of the results of the last FPS_MS
let newest = null, resultAt = 0, writtenAt = 0, spokenAt = 0, chosenThreshold = null;

const poster = new Poster(state => text("target", state));

const camera = new Camera(video, {
  isWanted: () => !still,
  onOpened({hasOthers, hasLight}) {
    $("turn").hidden = !hasOthers;
    $("light").hidden = !hasLight;
    $("light").setAttribute("aria-pressed", "false");
    clearFault(ready ? "live" : "loading");
    frameAt = camera.openedAt;
  },
  onFault: (code, details) => showFault(FAULTS[code] ? code : "fault", details),
  onLost() {
    clearResult();
    showFault("ended");
  },
});

// The smallest module with a SIMD instruction.
const hasSimd = () => WebAssembly.validate(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]));

// ---- the workers

function startWorkers() {
  stopWorkers();
  workers = ["inference-worker.js", "preprocess-worker.js"].map(name => {
    const worker = new Worker(new URL(name, import.meta.url));
    worker.onmessage = ({data}) => ({ready: onReady, result: onResult, failed: onFailed})[data.type](data);
    worker.onerror = event => { event.preventDefault(); restartWorkers(event.message ?? "no reason given"); };
    return worker;
  });
  const ends = new MessageChannel();
  toModel = ends.port1;
  workers[0].postMessage({build, port: ends.port2}, [ends.port2]);
  if ($("banner").hidden) setState("loading");
}

function stopWorkers() {
  ready = false;
  submitted = [];
  for (const worker of workers) worker.terminate();
  clearResult();
}

// Browsers stop workers when memory is short: restart them, but not for ever.
function restartWorkers(details) {
  restarts = [...restarts.filter(at => performance.now() - at < RESTARTS_MS), performance.now()];
  if (restarts.length > MAX_RESTARTS) {
    stopWorkers();
    return showFault("stopped", details);
  }
  startWorkers();
}

function onReady(data) {
  about = data.about;
  aloneMs = inferMs = data.proof.inference_ms;
  $("threshold").value = chosenThreshold ?? about.output.threshold;
  text("limit", percent(+$("threshold").value));
  text("model", `${about.name} ${about.version}, ${about.scheme}, sha256 ${about.sha256.slice(0, 12)}`);
  const {frames, passed} = data.proof, isProven = passed === frames;
  text("proof", isProven ? `passed: ${passed} of ${frames} golden samples match` : `FAILED: ${frames - passed} of ${frames} golden samples differ`);
  if (about.post) {
    $("posting").hidden = false;
    text("target", about.post);
  }
  if (!isProven) return showFault("golden", `${frames - passed} of ${frames} golden samples differ, by up to ${data.proof.worst.toFixed(1)} times the rounding limit`);
  workers[1].postMessage({type: "start", input: about.input, port: toModel}, [toModel]);
  ready = true;
  if ([...MODEL_FAULTS, "fault"].includes($("banner").dataset.code)) showFault("");
  if (still) showImage(still);
  else if (camera.stream) setState("live");
}

function onFailed({during, code, text: details}) {
  if (during !== "start") return restartWorkers(details);
  stopWorkers();
  showFault(FAULTS[code] ? code : "fault", details);
}

function submit(image, width, height, isStill) {
  const at = performance.now();
  submitted.push(at);
  freeAt = Math.max(at + prepareMs, freeAt) + inferMs;
  workers[1].postMessage({type: "frame", id: frame, frame: image, width, height, at, threshold: +$("threshold").value, still: isStill}, [image]);
}

// Whether a frame taken now finds the model free when it is prepared, and the next frame would come too late for that.
const isDue = now => !submitted.length || (submitted.length < 2 && now + intervalMs + prepareMs > freeAt);

function onResult(data) {
  const now = performance.now(), {grab, preprocess, inference, decode} = data.ms, total = now - data.at;
  submitted.shift();
  prepareMs += (grab + preprocess - prepareMs) / 8;
  inferMs += (inference - inferMs) / 8;
  freeAt = now + (submitted.length ? inferMs : 0);
  resultAt = now;
  if (still ? !data.still : data.still || !camera.stream) return; // the page shows something else by now
  times.push(now);
  while (now - times[0] >= FPS_MS) times.shift();
  newest = data;
  newest.total = total;
  newest.ms.wait = Math.max(0, total - grab - preprocess - inference - decode);
  paint();
  if (still || now - writtenAt > TEXT_MS) showTexts(now);
  if (about.post && $("post").checked) poster.post(newest, about, dropped);
  window.dispatchEvent(new CustomEvent("sightline", {detail: newest}));
}

// ---- the result

function showTexts(now) {
  writtenAt = now;
  const {predictions} = newest;
  const counts = new Map();
  for (const p of predictions) counts.set(p.label, (counts.get(p.label) ?? 0) + 1);
  const [first] = predictions, isClass = first?.kind === "classification";
  const summary = !first ? "nothing" : isClass ? first.label : [...counts].map(([label, n]) => `${n} ${label}`).join(", ");
  text("best", isClass ? `${summary} ${percent(first.score)}` : summary);
  const lines = predictions.slice(isClass ? 1 : 0, MAX_LINES).map(p => `${p.label}${p.track ? ` ${p.track}` : ""} ${percent(p.score)}`);
  [...$("list").children].forEach((line, i) => {
    line.hidden = i >= lines.length;
    if (!line.hidden) write(line, lines[i]);
  });
  if ((still || now - spokenAt > SPEECH_MS) && $("heard").textContent !== summary) { // screen readers read the labels, not each change of a score
    spokenAt = now;
    text("heard", summary);
  }
  if (!$("sheet").hidden) showFigures();
}

function showFigures() {
  text("fps", still ? "one image" : `${(1000 * times.length / FPS_MS).toFixed(1)}; ${dropped} dropped for newer ones`);
  const {ms, total} = newest;
  text("latency", `${total.toFixed(0)} ms: ${ms.grab.toFixed(1)} capture, ${ms.preprocess.toFixed(1)} preprocessing, ${ms.inference.toFixed(1)} model (${aloneMs.toFixed(1)} when idle), ${ms.decode.toFixed(1)} decoding, ${ms.wait.toFixed(1)} waiting`);
}

for (let i = 0; i < MAX_LINES; i++) $("list").append(Object.assign(document.createElement("li"), {hidden: true}));

// Removes the result, so that none stands beside another image.
function clearResult() {
  newest = null;
  pen.clearRect(0, 0, overlay.width, overlay.height);
  text("best", "…");
  text("heard", "");
  for (const line of $("list").children) line.hidden = true;
}

// Draws the newest result over the image on the screen.
function paint() {
  const unit = devicePixelRatio || 1, box = overlay.getBoundingClientRect(), w = Math.round(box.width * unit), h = Math.round(box.height * unit);
  if (overlay.width !== w || overlay.height !== h) [overlay.width, overlay.height] = [w, h];
  pen.clearRect(0, 0, w, h);
  draw(pen, w, h, unit, newest);
}

// ---- the camera's frames

async function run() {
  for (;;) {
    const isNew = await camera.arrival(), now = performance.now();
    if (document.hidden) continue;
    if (submitted.length && now - submitted[0] > STUCK_MS) restartWorkers(`no result for ${STUCK_MS / 1000} s`);
    if (!camera.stream || still) continue;
    const gap = now - frameAt;
    isFrozen = !isNew && (isFrozen || gap > FROZEN_MS);
    if (ready && $("banner").hidden) setState(isFrozen ? "no image" : now - resultAt > WAITING_MS ? "waiting" : "live", isFrozen);
    if (isFrozen && now - camera.openedAt > REOPEN_MS) camera.open();
    if (!isNew || video.readyState < 2) continue;
    intervalMs = gap;
    frameAt = now;
    if (!ready) continue;
    frame++;
    if (!isDue(now)) dropped++;
    else {
      try {
        const image = await camera.grab();
        submit(image, image.displayWidth ?? image.width, image.displayHeight ?? image.height, false);
      } catch { /* no image at this moment */ }
    }
  }
}

// ---- an image instead of the camera

async function showImage(file) {
  try {
    const image = await createImageBitmap(file);
    camera.close();
    if (file !== still) clearResult();
    still = file;
    URL.revokeObjectURL($("still").src);
    $("still").src = URL.createObjectURL(file);
    [video.hidden, $("still").hidden] = [true, false];
    $("pick").lastChild.textContent = "Live";
    clearFault("image");
    frame++;
    if (ready) submit(image, image.width, image.height, true);
  } catch {
    showFault("fault", `${file.name} is not an image that this browser can read`);
  }
}

function showCamera() {
  still = null;
  [video.hidden, $("still").hidden] = [false, true];
  $("pick").lastChild.textContent = "Image";
  clearResult();
  camera.open();
}

// ---- buttons and events

$("again").addEventListener("click", async () => {
  const code = $("banner").dataset.code;
  if (["simd", "damaged", "fetch"].includes(code)) {
    await deleteDownloads();
    return location.reload();
  }
  restarts = [];
  if ([...MODEL_FAULTS, "fault"].includes(code)) startWorkers();
  showFault("");
  if (!still) camera.open();
});
for (const id of ["instead", "pick"]) $(id).addEventListener("click", () => (id === "pick" && still ? showCamera() : $("file").click()));
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (file) showImage(file);
});
$("turn").addEventListener("click", () => camera.openNext());
$("light").addEventListener("click", async () => {
  const isOn = $("light").getAttribute("aria-pressed") !== "true";
  try {
    await camera.setLight(isOn);
    $("light").setAttribute("aria-pressed", String(isOn));
  } catch { /* this camera has no light after all */ }
});
$("shoot").addEventListener("click", () => newest && saveSnapshot(newest, still ? $("still") : video, about, $("best").textContent));
$("more").addEventListener("click", () => {
  $("sheet").hidden = !$("sheet").hidden;
  $("more").setAttribute("aria-expanded", String(!$("sheet").hidden));
  if (newest) showFigures();
});
$("threshold").addEventListener("input", () => {
  chosenThreshold = +$("threshold").value;
  text("limit", percent(chosenThreshold));
  if (still) showImage(still);
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    camera.close();
    setState("paused");
    return;
  }
  submitted.fill(performance.now()); // the workers did not run meanwhile
  if (!still) camera.open();
});
addEventListener("resize", () => newest && paint());

if (!hasSimd()) showFault("simd");
else {
  camera.open();
  run();
  await keepOffline(state => text("offline", state));
  startWorkers();
}
