// What a person sees and touches: camera, boxes, words. Pictures are made ready in preprocess-worker.js, the model works in inference-worker.js.

const $ = id => document.getElementById(id);
const text = (id, value) => write($(id), value);
function write(element, value) { // the same text node each time: thirty new ones a second would pile up
  if (!element.firstChild) element.append(value);
  else if (element.firstChild.data !== value) element.firstChild.data = value;
}
const percent = score => `${Math.round(100 * score)} %`;
const sleep = ms => new Promise(done => setTimeout(done, ms));
const build = new URLSearchParams(location.search).get("build") ?? ""; // internal or compat; else what the browser can do
const video = $("video"), overlay = $("overlay"), pen = overlay.getContext("2d");

// What went wrong, in words that help; each with a way on.
const SAYS = {
  insecure: "Browsers give a page the camera over HTTPS only. Open it by an address that begins with https://, or choose a picture.",
  NotAllowedError: "This page may not use the camera. Allow it in the browser's settings for this site (at the left of the address), then try again.",
  NotFoundError: "There is no camera here. Connect one: it is looked for again by itself. Or choose a picture.",
  NotReadableError: "The camera is busy: another program has it. Close that one: it is tried again by itself.",
  OverconstrainedError: "There is no camera here that this browser gives. Connect another one: it is looked for again by itself. Or choose a picture.",
  ended: "The camera was taken away. It is looked for again by itself.",
  simd: "This browser is too old for the model: it has no WebAssembly SIMD. Chrome 91, Firefox 114, Safari 16.4 and newer will do.",
  damaged: "A file of this page arrived damaged, so it is not used. Try again: it is fetched anew.",
  fetch: "A part of this page could not be fetched. Is there a network? Then try again.",
  model: "The model cannot be loaded here. Try again, or another browser.",
  golden: "This browser computes other numbers than were measured, so it shows no answers. Another browser may do better.",
  pixels: "This browser changes the pictures that a page reads, perhaps for privacy, so no answer could be trusted. Allow this site to read them (canvas), or use another browser.",
  stopped: "The browser has stopped the model, perhaps for want of memory. Close other pages, then try again.",
  fault: "Something failed that should not. Try again.",
};

// Of these, no camera and no picture is the cure.
const MODEL = ["simd", "damaged", "fetch", "model", "golden", "pixels", "stopped"];

let workers = [], toModel, about, ready = false, alone = 0, restarts = [], wanted = null;
let stream = null, lock = null, later = 0, cameras = [], camera = 0, still = null, frame = 0, dropped = 0, opening = false;
const times = []; // of the answers of two seconds
let newest = null, posting = false, told = 0, seen = 0, written = 0, spoken = 0;
let under = [], due = 0, preparing = 0, computing = 0, interval = 0; // frames under way, and when the model will be free; all in ms
let opened = 0, came = 0, frozen = false; // the camera, its newest frame, and whether it stands still

function say(code, details = "") {
  $("banner").hidden = !code;
  if (!code) return;
  text("words", SAYS[code] ?? SAYS.fault);
  text("details", details);
  $("banner").dataset.code = code;
  state(["ended", "NotFoundError", "OverconstrainedError"].includes(code) ? "no camera" : "stopped", true);
}

function state(words, bad = false) {
  text("state", words);
  $("state").classList.toggle("bad", bad);
}

// There is something to look at again: says so, unless it is the model that fails.
function cured(words) {
  if (!MODEL.includes($("banner").dataset.code)) say("");
  if ($("banner").hidden) state(words);
}

// The smallest module with a SIMD instruction in it.
const hasSimd = () => WebAssembly.validate(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]));

// ---- without a network

async function keep() {
  if (!("serviceWorker" in navigator)) return text("offline", "no: this browser or address does not allow it");
  navigator.serviceWorker.addEventListener("message", ({data}) => {
    if (data.type === "storage") text("offline", `no: this device's storage is full (${data.text}); it works with a network`);
  });
  try {
    await navigator.serviceWorker.register("service-worker.js");
    // what the worker fetches is kept only once the service worker is in between
    await Promise.race([navigator.serviceWorker.ready, sleep(8000)]);
    if (!navigator.serviceWorker.controller) await Promise.race([new Promise(done => navigator.serviceWorker.addEventListener("controllerchange", done, {once: true})), sleep(3000)]);
    text("offline", navigator.serviceWorker.controller ? "works, once it has run here" : "no: close this page and open it again");
  } catch (error) {
    text("offline", `no: ${/quota/i.test(error.name + error.message) ? "this device's storage is full" : error.message}; it works with a network`);
  }
}

async function forget() {
  for (const name of await window.caches?.keys() ?? []) if (name.startsWith("sightline-")) await caches.delete(name);
}

// ---- the model

function start() {
  end();
  workers = ["inference-worker.js", "preprocess-worker.js"].map(name => {
    const worker = new Worker(new URL(name, import.meta.url));
    worker.onmessage = ({data}) => ({ready: isReady, result, failed})[data.type](data);
    worker.onerror = event => { event.preventDefault(); stopped(event.message ?? "no reason given"); };
    return worker;
  });
  const ends = new MessageChannel();
  toModel = ends.port1;
  workers[0].postMessage({build, port: ends.port2}, [ends.port2]);
  if ($("banner").hidden) state("loading");
}

function end() {
  ready = false;
  under = [];
  for (const worker of workers) worker.terminate();
  blank();
}

function isReady(data) {
  about = data.about;
  alone = computing = data.proof.inference_ms;
  $("threshold").value = wanted ?? about.output.threshold;
  text("limit", percent(+$("threshold").value));
  text("model", `${about.name} ${about.version}, ${about.scheme}, sha256 ${about.sha256.slice(0, 12)}`);
  const {frames, passed} = data.proof, fits = passed === frames;
  text("proof", fits ? `passed: ${frames} golden samples, as measured` : `FAILED: ${frames - passed} of ${frames} golden samples differ`);
  if (about.post) {
    $("posting").hidden = false;
    text("target", about.post);
  }
  if (!fits) return say("golden", `${frames - passed} of ${frames} golden samples differ, by up to ${data.proof.worst.toFixed(1)} times what rounding may do`);
  workers[1].postMessage({type: "start", input: about.input, port: toModel}, [toModel]);
  ready = true;
  if ([...MODEL, "fault"].includes($("banner").dataset.code)) say("");
  if (still) lookAt(still);
  else if (stream) state("live");
}

function failed({during, code, text: details}) {
  if (during !== "start") return stopped(details);
  end();
  say(SAYS[code] ? code : "fault", details);
}

// Browsers end workers when memory is short: begin again, but not for ever.
function stopped(details) {
  restarts = [...restarts.filter(at => performance.now() - at < 60000), performance.now()];
  if (restarts.length > 3) {
    end();
    return say("stopped", details);
  }
  start();
}

function look(picture, width, height, isStill) {
  const at = performance.now();
  under.push(at);
  due = Math.max(at + preparing, due) + computing;
  workers[1].postMessage({type: "frame", id: frame, frame: picture, width, height, at, threshold: +$("threshold").value, still: isStill}, [picture]);
}

// Whether a frame taken now would find the model free when it is ready, and the next one would come too late for that.
const wants = now => !under.length || (under.length < 2 && now + interval + preparing > due);

function result(data) {
  const now = performance.now(), {grab, preprocess, inference, decode} = data.ms, total = now - data.at;
  under.shift();
  preparing += (grab + preprocess - preparing) / 8;
  computing += (inference - computing) / 8;
  due = now + (under.length ? computing : 0);
  seen = now;
  if (still ? !data.still : data.still || !stream) return; // of what is shown no more
  times.push(now);
  while (now - times[0] >= 2000) times.shift();
  newest = data;
  newest.total = total;
  newest.ms.wait = Math.max(0, total - grab - preprocess - inference - decode);
  paint();
  if (still || now - written > 100) words(now); // faster than anybody reads
  post(newest);
  window.dispatchEvent(new CustomEvent("sightline", {detail: newest}));
}

// ---- what it sees

function words(now) {
  written = now;
  const {predictions} = newest;
  const counts = new Map();
  for (const p of predictions) counts.set(p.label, (counts.get(p.label) ?? 0) + 1);
  const [first] = predictions, classifies = first?.kind === "classification";
  const things = !first ? "nothing" : classifies ? first.label : [...counts].map(([label, n]) => `${n} ${label}`).join(", ");
  text("best", classifies ? `${things} ${percent(first.score)}` : things);
  const lines = predictions.slice(classifies ? 1 : 0, LINES).map(p => `${p.label}${p.track ? ` ${p.track}` : ""} ${percent(p.score)}`);
  [...$("list").children].forEach((line, i) => {
    line.hidden = i >= lines.length;
    if (!line.hidden) write(line, lines[i]);
  });
  if ((still || now - spoken > 2000) && $("heard").textContent !== things) { // read aloud: what is there, not each change of a score
    spoken = now;
    text("heard", things);
  }
  if (!$("sheet").hidden) figures();
}

function figures() {
  text("fps", still ? "a picture" : `${(times.length / 2).toFixed(1)}; ${dropped} left out, for newer ones`);
  const {ms, total} = newest;
  text("latency", `${total.toFixed(0)} ms: ${ms.grab.toFixed(1)} picture, ${ms.preprocess.toFixed(1)} size, ${ms.inference.toFixed(1)} model (${alone.toFixed(1)} alone), ${ms.decode.toFixed(1)} answer, ${ms.wait.toFixed(1)} waiting`);
}

const LINES = 6;
for (let i = 0; i < LINES; i++) $("list").append(Object.assign(document.createElement("li"), {hidden: true}));

const COLOURS = ["#ffd400", "#00e5ff", "#ff6ad5", "#7dff5a", "#ff9a3d", "#b9a7ff"];

// No answer stands beside what it was not an answer to.
function blank() {
  newest = null;
  pen.clearRect(0, 0, overlay.width, overlay.height);
  text("best", "…");
  text("heard", "");
  for (const line of $("list").children) line.hidden = true;
}

// The newest, over the picture as it is on the screen.
function paint() {
  const unit = devicePixelRatio || 1, box = overlay.getBoundingClientRect(), w = Math.round(box.width * unit), h = Math.round(box.height * unit);
  if (overlay.width !== w || overlay.height !== h) [overlay.width, overlay.height] = [w, h];
  pen.clearRect(0, 0, w, h);
  draw(pen, w, h, unit, newest);
}

// A result's boxes, in the middle of w x h. unit: pixels of a thin line.
function draw(context, w, h, unit, {predictions, width, height}) {
  const scale = Math.min(w / width, h / height), dx = (w - width * scale) / 2, dy = (h - height * scale) / 2;
  context.font = `700 ${15 * unit}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (const {box: b, label, score, track, index} of predictions) {
    if (!b) continue;
    const x = dx + b.x * scale, y = dy + b.y * scale, colour = COLOURS[(track ?? index) % COLOURS.length];
    const words = `${label}${track ? ` ${track}` : ""} ${percent(score)}`, size = context.measureText(words).width + 10 * unit;
    context.lineWidth = 5 * unit;
    context.strokeStyle = "#000a";
    context.strokeRect(x, y, b.width * scale, b.height * scale);
    context.lineWidth = 3 * unit;
    context.strokeStyle = colour;
    context.strokeRect(x, y, b.width * scale, b.height * scale);
    const top = y >= 22 * unit ? y - 22 * unit : y;
    context.fillStyle = colour;
    context.fillRect(x, top, size, 22 * unit);
    context.fillStyle = "#000";
    context.fillText(words, x + 5 * unit, top + 3 * unit);
  }
}

// ---- the camera

async function open() {
  if (opening || document.hidden) return;
  opening = true;
  close();
  try {
    if (!window.isSecureContext || !navigator.mediaDevices) return say("insecure", location.href);
    const size = {width: {ideal: 1280}, height: {ideal: 720}};
    const which = cameras.length ? {deviceId: {exact: cameras[camera % cameras.length].deviceId}} : {facingMode: "environment"};
    try {
      stream = await navigator.mediaDevices.getUserMedia({video: {...which, ...size}, audio: false});
    } catch (error) {
      if (error.name !== "OverconstrainedError") throw error;
      cameras = []; // that one is gone, or this browser has its own opinion: whatever there is
      stream = await navigator.mediaDevices.getUserMedia({video: true, audio: false});
    }
    if (document.hidden || still) return close(); // nobody waits for it any more
    const [track] = stream.getVideoTracks();
    track.addEventListener("ended", lost);
    video.srcObject = stream;
    cameras = (await navigator.mediaDevices.enumerateDevices()).filter(d => d.kind === "videoinput" && d.deviceId);
    camera = Math.max(0, cameras.findIndex(d => d.deviceId === track.getSettings().deviceId));
    $("turn").hidden = cameras.length < 2;
    $("light").hidden = !track.getCapabilities?.().torch;
    $("light").setAttribute("aria-pressed", "false");
    cured(ready ? "live" : "loading");
    opened = came = performance.now();
    lock = await navigator.wakeLock?.request("screen").catch(() => null); // a phone that looks must not fall asleep
  } catch (error) {
    say(SAYS[error.name] ? error.name : "fault", error.message);
    if (error.name !== "NotAllowedError") retry();
  } finally {
    opening = false;
  }
}

function close() {
  for (const track of stream?.getTracks() ?? []) {
    track.removeEventListener("ended", lost);
    track.stop();
  }
  stream = null;
  lock?.release();
  lock = null;
}

function lost() {
  close();
  blank();
  say("ended");
  retry();
}

function retry() {
  clearTimeout(later);
  later = setTimeout(() => stream || still || open(), 2000);
}

const next = video.requestVideoFrameCallback?.bind(video) ?? (done => setTimeout(done, 33));

// A frame as it is in memory, unless it would have to be turned or stretched first; a bitmap is a copy, and right.
async function grab() {
  if (window.VideoFrame) {
    const taken = new VideoFrame(video);
    const {visibleRect: r, displayWidth: w, displayHeight: h, rotation = 0, flip = false} = taken;
    if (r && r.width === w && r.height === h && w === video.videoWidth && h === video.videoHeight && !rotation && !flip) return taken;
    taken.close();
  }
  return createImageBitmap(video);
}

// True at the camera's next frame; false after half a second at most, for a camera that stands still must not end this.
let wake = () => {}, asked = false;
setInterval(() => wake(false), 500);
const arrival = () => new Promise(done => {
  wake = done;
  if (asked) return;
  asked = true;
  next(() => { asked = false; wake(true); });
});

async function turn() {
  for (;;) {
    const fresh = await arrival(), now = performance.now();
    if (document.hidden) continue;
    if (under.length && now - under[0] > 15000) stopped("no answer for 15 s");
    if (!stream || still) continue;
    const gap = now - came;
    frozen = !fresh && (frozen || gap > 3000);
    if (ready && $("banner").hidden) state(frozen ? "no picture" : now - seen > 3000 ? "waiting" : "live", frozen);
    if (frozen && now - opened > 10000) open();
    if (!fresh || video.readyState < 2) continue;
    interval = gap;
    came = now;
    if (!ready) continue;
    frame++;
    if (!wants(now)) dropped++;
    else {
      try {
        const picture = await grab();
        look(picture, picture.displayWidth ?? picture.width, picture.displayHeight ?? picture.height, false);
      } catch { /* no picture at this moment */ }
    }
  }
}

// ---- a picture instead

async function lookAt(file) {
  try {
    const picture = await createImageBitmap(file);
    close();
    if (file !== still) blank();
    still = file;
    URL.revokeObjectURL($("still").src);
    $("still").src = URL.createObjectURL(file);
    [video.hidden, $("still").hidden] = [true, false];
    $("pick").lastChild.textContent = "Live";
    cured("a picture");
    frame++;
    if (ready) look(picture, picture.width, picture.height, true);
  } catch {
    say("fault", `${file.name} is no picture that this browser can read`);
  }
}

function live() {
  still = null;
  [video.hidden, $("still").hidden] = [false, true];
  $("pick").lastChild.textContent = "Picture";
  blank();
  open();
}

// ---- what a person does

async function shoot() {
  if (!newest) return;
  const {width, height} = newest, canvas = Object.assign(document.createElement("canvas"), {width, height}), context = canvas.getContext("2d");
  context.drawImage(still ? $("still") : video, 0, 0, width, height);
  draw(context, width, height, Math.max(1, width / 640), newest);
  const blob = await new Promise(done => canvas.toBlob(done, "image/jpeg", 0.92));
  const file = new File([blob], `${about.name}-${new Date().toISOString().replaceAll(":", "-")}.jpg`, {type: "image/jpeg"});
  if (navigator.canShare?.({files: [file]})) {
    try {
      return await navigator.share({files: [file], title: about.name, text: $("best").textContent});
    } catch (error) {
      if (error.name === "AbortError") return; // they thought better of it
    }
  }
  const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(file), download: file.name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// The same form as the agent's; one at a time, the newest wins.
async function post({id, at, width, height, predictions, ms, total}) {
  if (!about.post || !$("post").checked || posting) return;
  posting = true;
  const captured = new Date(performance.timeOrigin + at).toISOString();
  const body = {
    schema: 1, device: "browser_phone", source: still ? "picture" : "camera", frame_id: id, captured_at: captured,
    captured_monotonic_ns: Math.round(at * 1e6), model: {name: about.name, version: about.version, sha256: about.sha256}, image: {width, height},
    latency_ms: {...Object.fromEntries(Object.entries(ms).map(([k, v]) => [k, Math.max(0, v)])), total},
    dropped: dropped > told ? {overwritten: dropped - told} : {}, status: "ok", cause: null, cause_code: null, predictions,
  };
  try {
    const answer = await fetch(about.post, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
    if (!answer.ok) throw new Error(`${answer.status}`);
    told = dropped;
    text("target", about.post);
  } catch (error) {
    text("target", `${about.post}: not taken (${error.message})`);
    await sleep(2000);
  } finally {
    posting = false;
  }
}

$("again").addEventListener("click", async () => {
  const code = $("banner").dataset.code;
  if (["simd", "damaged", "fetch"].includes(code)) {
    await forget();
    return location.reload();
  }
  restarts = [];
  if ([...MODEL, "fault"].includes(code)) start();
  say("");
  if (!still) open();
});
for (const id of ["instead", "pick"]) $(id).addEventListener("click", () => (id === "pick" && still ? live() : $("file").click()));
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (file) lookAt(file);
});
$("turn").addEventListener("click", () => { camera++; open(); });
$("light").addEventListener("click", async () => {
  const on = $("light").getAttribute("aria-pressed") !== "true";
  try {
    await stream.getVideoTracks()[0].applyConstraints({advanced: [{torch: on}]});
    $("light").setAttribute("aria-pressed", String(on));
  } catch { /* this camera has none after all */ }
});
$("shoot").addEventListener("click", shoot);
$("more").addEventListener("click", () => {
  $("sheet").hidden = !$("sheet").hidden;
  $("more").setAttribute("aria-expanded", String(!$("sheet").hidden));
  if (newest) figures();
});
$("threshold").addEventListener("input", () => {
  wanted = +$("threshold").value;
  text("limit", percent(wanted));
  if (still) lookAt(still);
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    close();
    state("paused");
    return;
  }
  under.fill(performance.now()); // what was under way had no time meanwhile
  if (!still) open();
});
addEventListener("resize", () => newest && paint());

if (!hasSimd()) say("simd");
else {
  open();
  turn();
  await keep();
  start();
}
