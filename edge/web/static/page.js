"use strict";
const $ = id => document.getElementById(id);
let history = [], receivedAt = 0, last = null, camera = "", events = null, dragging = false;
let causes = "", still = false, newAt = 0, lastFrame = -1, zones = [];
// state of the connection. view: name of this window's stream. trouble: why there is no connection
// imageProblem: why the newest image cannot be shown
let opening = 0, tries = 0, timer = 0, view = "", openedAt = 0, requestedAt = 0, trouble = "", imageProblem = "";
const SILENT = 3000, LOST = 8000; // milliseconds without an event: the page is stale; it opens the connection again

// textContent everywhere: a label is foreign text, and may look like HTML
function text(id, value) { if ($(id).textContent !== value) $(id).textContent = value; }
function percent(value, digits = 0) { return (100 * value).toFixed(digits) + " %"; }

// Opens the page's connection: at first, and after each failure, such as an expired token or a lost network
async function open() {
  clearTimeout(timer); timer = 0;
  if (events) events.close();
  events = null;
  const timeout = new AbortController();
  setTimeout(() => timeout.abort(), 5000);
  const mine = ++opening, answer = await fetch("/api/info", {signal: timeout.signal}).catch(() => null);
  const info = answer && answer.ok && await answer.json().catch(() => null), problem = info || !answer ? "" : await reason(answer);
  if (mine !== opening) return;
  const locked = !!answer && answer.status === 401;
  $("sign-in").hidden = !locked; $("page").hidden = locked;
  if (locked) { text("state", "signed out"); $("state").className = ""; $("image").removeAttribute("src"); }
  if (!info) { openLater(problem); return; }
  document.title = `${info.model.name} - Sightline`;
  text("name", info.model.name); text("about", `${info.source} on ${info.device}`);
  model(info.model);
  text("scheme", info.scheme);
  text("accuracy", info.quality === null ? "unknown" : `${info.metric} ${percent(info.quality, 2)}`);
  const names = info.cameras;
  zones = info.zones || [];
  $("cameras").hidden = names.length < 2;
  $("cameras").replaceChildren(...names.map(name => {
    const button = document.createElement("button");
    button.textContent = name; button.onclick = () => showCamera(name);
    return button;
  }));
  showCamera([camera, linkedCamera()].find(name => names.includes(name)) || names[0]);
}

// the camera that the address names; "" if it names none
function linkedCamera() { try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; } }

// opens the connection again, soon at first, then less and less often
function openLater(cause) {
  trouble = cause;
  if (timer) return;
  opening++; // a reply that is still on its way is too old
  timer = setTimeout(open, Math.min(1000 * 2 ** tries++, 10000));
}

function showCamera(name) {
  if (name !== camera) { history = []; last = null; $("bars").textContent = ""; }
  camera = name; lastFrame = -1; causes = ""; still = false; newAt = 0;
  for (const button of $("cameras").children) button.setAttribute("aria-pressed", String(button.textContent === name));
  if ($("cameras").children.length > 1) window.history.replaceState(null, "", "#" + encodeURIComponent(name));
  $("verdict").hidden = true;
  if (events) events.close();
  view = `${Date.now()}-${Math.random()}`;
  const source = new EventSource("/events" + query());
  events = source;
  source.onmessage = e => { tries = 0; trouble = ""; show(JSON.parse(e.data)); };
  source.onerror = async () => { // the browser itself does not try again after every kind of reply
    source.close();
    if (events !== source) return;
    const answer = await fetch(source.url, {method: "HEAD"}).catch(() => null); // EventSource does not tell the status
    if (events === source) openLater(answer && answer.status === 503 ? "too many viewers" : "");
  };
  openedAt = performance.now();
  requestImage();
}

function query() { return `?camera=${encodeURIComponent(camera)}&view=${view}`; }

function requestImage() {
  requestedAt = performance.now();
  $("image").src = `/stream.mjpg${query()}&t=${Date.now()}`;
}

// boxes are counted by label: one number is clearer than a hundred bars
function countByLabel(predictions) {
  const counts = new Map();
  for (const p of predictions) {
    const one = counts.get(p.label) || counts.set(p.label, {label: p.label, score: 0, count: 0}).get(p.label);
    one.count++; one.score = Math.max(one.score, p.score);
  }
  return [...counts.values()].sort((a, b) => b.count - a.count);
}

function bars(predictions, ok) {
  const box = $("bars");
  if (!predictions.length) { box.textContent = ok ? "Nothing above the threshold." : ""; return; }
  if (!box.children.length) box.textContent = "";
  while (box.children.length > predictions.length) box.lastChild.remove();
  predictions.forEach((p, i) => {
    let bar = box.children[i];
    if (!bar) {
      bar = document.createElement("div"); bar.className = "bar";
      bar.append(document.createElement("span"), document.createElement("output"), document.createElement("meter"));
      box.append(bar);
    }
    bar.children[0].textContent = p.label;
    bar.children[1].textContent = p.count ? `${p.count} \u00b7 ${percent(p.score)}` : percent(p.score, 1);
    bar.children[2].value = p.score;
    bar.children[2].setAttribute("aria-label", p.label);
  });
}

// boxes are drawn here, so that one encoded stream serves all viewers
function overlay(result) {
  const canvas = $("overlay"), image = $("image"), boxes = (result.predictions || []).filter(p => p.box);
  const ownZones = zones.filter(z => !z.camera || z.camera === camera);
  const w = image.clientWidth, h = image.clientHeight;
  if (!(boxes.length || ownZones.length) || !result.image || !w) { canvas.width = 0; return; }
  const k = Math.min(w / result.image.width, h / result.image.height), scale = devicePixelRatio || 1;
  const width = k * result.image.width, height = k * result.image.height;
  Object.assign(canvas.style, {left: `${image.offsetLeft + (w - width) / 2}px`, top: `${image.offsetTop + (h - height) / 2}px`, width: `${width}px`, height: `${height}px`});
  canvas.width = width * scale; canvas.height = height * scale;
  const g = canvas.getContext("2d"); g.scale(scale, scale);
  g.lineWidth = 3; g.font = "600 15px system-ui"; g.textBaseline = "top";
  for (const z of ownZones) {
    g.beginPath();
    for (const [x, y] of z.points) g.lineTo(x * width, y * height);
    if (z.kind === "zone") { g.closePath(); g.fillStyle = "rgba(255,214,10,.12)"; g.fill(); }
    g.strokeStyle = "#ffd60a"; g.stroke();
    const [x, y] = z.points[0];
    g.fillStyle = "#ffd60a"; g.fillText(z.name, Math.min(x * width + 6, width - 60), Math.min(y * height + 6, height - 20));
  }
  for (const p of boxes) if (p.mask) paint(g, p, k);
  for (const p of boxes) {
    const [x, y, bw, bh] = [p.box.x, p.box.y, p.box.width, p.box.height].map(v => v * k);
    g.strokeStyle = "#3cf0dc"; g.strokeRect(x, y, bw, bh);
    const label = `${p.label} ${percent(p.score)}${p.track ? " #" + p.track : ""}`, top = y > 22 ? y - 22 : y;
    g.fillStyle = "rgba(5,8,11,.82)"; g.fillRect(x - 1, top, g.measureText(label).width + 10, 21);
    g.fillStyle = "#fff"; g.fillText(label, x + 4, top + 3);
    g.fillStyle = "#ffd60a";
    for (const q of p.points || []) if (q.score >= .2) { g.beginPath(); g.arc(q.x * k, q.y * k, 4, 0, 7); g.fill(); }
  }
}

// a mask is a list of run lengths, row by row: outside, inside, outside, ...
function paint(g, p, k) {
  const {columns, rows, over, runs} = p.mask, cw = over.width * k / columns, ch = over.height * k / rows;
  g.fillStyle = `hsla(${(p.index * 67 + 170) % 360},90%,60%,.45)`;
  let at = 0;
  runs.forEach((n, i) => {
    for (let left = i % 2 ? n : 0, from = at; left > 0;) {
      const x = from % columns, wide = Math.min(left, columns - x);
      g.fillRect(over.x * k + x * cw, over.y * k + Math.floor(from / columns) * ch, wide * cw, ch + .5);
      from += wide; left -= wide;
    }
    at += n;
  });
}

function chart() {
  const canvas = $("history"), scale = devicePixelRatio || 1;
  const w = canvas.width = canvas.clientWidth * scale, h = canvas.height = canvas.clientHeight * scale;
  const g = canvas.getContext("2d"), style = getComputedStyle(document.documentElement), now = performance.now();
  g.strokeStyle = style.getPropertyValue("--line"); g.lineWidth = scale;
  g.fillStyle = style.getPropertyValue("--dim"); g.font = `${11 * scale}px system-ui`;
  g.textBaseline = "top"; g.fillText("100 %", 0, 5 * scale); g.textBaseline = "bottom"; g.fillText("0 %", 0, h - 5 * scale);
  for (const y of [0, .5, 1]) { g.beginPath(); g.moveTo(0, 2 + y * (h - 4)); g.lineTo(w, 2 + y * (h - 4)); g.stroke(); }
  g.strokeStyle = style.getPropertyValue("--accent"); g.lineWidth = 2 * scale; g.beginPath();
  let pen = false;
  for (const [t, score] of history) {
    if (score === null) { pen = false; continue; }
    const x = w * (1 - (now - t) / 60000), y = h - 2 - score * (h - 4);
    pen ? g.lineTo(x, y) : g.moveTo(x, y); pen = true;
  }
  g.stroke();
}

function model(m) {
  const sha = m.sha256.slice(0, 16);
  if ($("sha").textContent !== sha && $("sha").dataset.known) text("accuracy", "see its bundle"); // the model was replaced
  $("sha").dataset.known = 1;
  text("model", m.name); text("version", m.version); text("sha", sha);
}

function agent(status) {
  text("fps", status.fps.toFixed(1)); text("frames", String(status.frames));
  text("dropped", Object.entries(status.dropped).map(([cause, n]) => `${n} ${cause}`).join(", ") || "none");
  if (!dragging && status.threshold !== undefined) { $("threshold").value = status.threshold; text("limit", percent(status.threshold)); }
  for (const button of $("cameras").children) button.className = (status.cameras || {})[button.textContent] ? "bad" : "";
  const failing = Object.entries(status.outputs || {}).filter(([, problem]) => problem);
  $("outputs").hidden = !failing.length;
  while ($("outputs").children.length > failing.length + 1) $("outputs").lastChild.remove();
  failing.forEach(([name, problem], i) => {
    const line = $("outputs").children[i + 1] || $("outputs").appendChild(document.createElement("p"));
    line.textContent = `${name}: ${problem}`;
  });
}

function show({result, status, streaming, problem}) {
  receivedAt = performance.now();
  agent(status);
  imageProblem = problem || "";
  // browsers keep showing the last image of a stream that ended
  if (!streaming && receivedAt - requestedAt > SILENT) requestImage();
  if (!result || result.source !== camera) { health(); return; }
  last = result;
  const ok = result.status === "ok";
  model(result.model);
  still = result.cause_code === "no_motion"; // a still scene: the last predictions still hold
  causes = ok || still ? "" : result.cause;
  if (ok && result.frame_id === lastFrame && performance.now() - newAt > 3000) causes = "no new frame for 3 s";
  if (result.frame_id !== lastFrame || !newAt) { lastFrame = result.frame_id; newAt = performance.now(); }
  history.push([receivedAt, ok && result.predictions.length ? result.predictions[0].score : null]);
  while (history.length && receivedAt - history[0][0] > 60000) history.shift();
  const boxes = result.predictions.some(p => p.box), shown = boxes ? countByLabel(result.predictions) : result.predictions;
  if (!still) { bars(shown, ok); overlay(result); }
  if (ok) {
    text("total", result.latency_ms.total.toFixed(1) + " ms"); text("inference", result.latency_ms.inference.toFixed(1) + " ms");
    $("verdict").hidden = !shown.length || boxes; // boxes have their labels beside them
    if (shown.length) { text("best", shown[0].label); text("score", percent(shown[0].score)); }
  } else if (!still) $("verdict").hidden = true;
  health();
}

function health() {
  const now = performance.now();
  if (events && !timer && now - Math.max(receivedAt, openedAt) > LOST) openLater(trouble);
  if ($("page").hidden || !receivedAt && now < SILENT) return;
  const problem = now - receivedAt > SILENT ? trouble || "the agent does not answer" : causes || imageProblem;
  $("state").className = problem ? "bad" : "";
  text("state", problem ? "not live" : still ? "no motion" : "live");
  $("view").className = problem ? "stale" : "";
  $("banner").hidden = !problem; text("banner", problem);
  if (problem) $("verdict").hidden = true;
  chart();
}

// Returns the reply, or null without one. Opens the connection again if it failed
async function ask(path, options) {
  const answer = await fetch(path, options).catch(() => null);
  if (!answer || answer.status === 401 && path !== "/api/login") open();
  return answer;
}

async function post(path, body) {
  return ask(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
}

async function reason(answer) {
  if (!answer) return "The agent does not answer.";
  return (await answer.json().catch(() => ({}))).error || `The agent cannot be reached (${answer.status}).`;
}

$("threshold").addEventListener("input", () => { dragging = true; text("limit", percent(+$("threshold").value)); });
$("threshold").addEventListener("change", async () => {
  const answer = await post("/api/threshold", {threshold: +$("threshold").value});
  dragging = false;
  text("notice", !answer || answer.ok ? "" : await reason(answer));
});
$("snapshot").addEventListener("click", async () => {
  $("snapshot").disabled = true;
  try {
    const answer = await ask("/snapshot.jpg?camera=" + encodeURIComponent(camera));
    text("notice", answer && answer.ok ? "" : await reason(answer));
    if (!answer || !answer.ok) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `${camera.replace(/[^\w-]+/g, "_")}-${new Date().toISOString().replace(/[:.]/g, "")}.jpg`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } finally { $("snapshot").disabled = false; }
});
$("login").addEventListener("submit", async e => {
  e.preventDefault();
  const answer = await post("/api/login", {token: $("token").value.trim()});
  const wrong = answer && answer.status === 401;
  text("refused", answer && answer.ok ? "" : wrong ? "Wrong token." : await reason(answer));
  if (answer && answer.ok) { $("token").value = ""; open(); }
});
addEventListener("resize", () => { if (last) overlay(last); });
setInterval(health, 250);
open();
