// The model's own thread: loads it, proves it, and answers frame by frame. A classic worker: LiteRT.js wants importScripts.
"use strict";

const here = new URL(".", self.location.href).href;
let about, model, LiteRt, preprocessor, tracker, parts, canvas, context, buffer, copies = true;

self.onmessage = async ({data}) => {
  try {
    if (data.type === "start") await start(data.build);
    else if (data.type === "frame") look(data, await infer(data));
  } catch (error) {
    self.postMessage({type: "failed", during: data.type, code: error.code ?? "fault", text: String(error.message ?? error)});
  } finally {
    data.frame?.close();
  }
};

const fault = (code, text) => Object.assign(new Error(text), {code});

async function start(build) {
  const [picture, answers, track] = await Promise.all(["picture", "answers", "track"].map(name => import(`${here}${name}.js`)));
  parts = {...picture, ...answers, ...track};
  about = await (await got("bundle.json")).json();
  const [content, golden] = await Promise.all(["model.tflite", "golden.bin"].map(async name => (await got(name)).arrayBuffer()));
  for (const [name, data] of [["model.tflite", content], ["golden.bin", golden]]) await check(name, data);
  LiteRt = await import(`${here}litert.js`);
  self.Module = {locateFile: file => here + file};
  await LiteRt.loadLiteRt(here + ({internal: "litert_wasm_internal.js", compat: "litert_wasm_compat_internal.js"}[build] ?? ""));
  try {
    model = await LiteRt.loadAndCompile(new Uint8Array(content), {accelerator: "wasm"});
  } catch (error) {
    throw fault("model", `LiteRT.js cannot load it: ${error.message}`);
  }
  preprocessor = new parts.Preprocessor(about.input);
  tracker = new parts.Tracker();
  self.postMessage({type: "ready", about, proof: await prove(golden)});
}

async function got(name) {
  const answer = await fetch(here + name);
  if (!answer.ok) throw fault("fetch", `${name}: ${answer.status}`);
  return answer;
}

async function check(name, data) {
  if (!crypto.subtle) return; // not on a page without HTTPS; the golden samples are compared all the same
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  const hex = Array.from(digest, byte => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== about.files[name]) throw fault("damaged", `${name} is not the file that was exported`);
}

// Float32Array in, Float32Arrays out. Every tensor lies in WebAssembly's memory until it is deleted.
async function run(input) {
  const entry = new LiteRt.Tensor(input, [1, about.input.height, about.input.width, 3]);
  const results = await model.run([entry]);
  entry.delete();
  const outputs = [];
  for (const result of results) {
    outputs.push(Float32Array.from(result.toTypedArray()));
    result.delete();
  }
  return outputs;
}

// The golden samples that travel with every bundle: inputs, and what the model made of them where it was measured.
async function prove(golden) {
  const {frames, sizes, padding} = about.golden, pixels = about.input.width * about.input.height * 3;
  const input = new Float32Array(pixels), values = preprocessor.values;
  const times = [];
  let worst = 0, passed = 0, offset = frames * pixels + padding;
  for (let k = 0; k < frames; k++) {
    const bytes = new Uint8Array(golden, k * pixels, pixels);
    for (let i = 0; i < pixels; i++) input[i] = values[i % 3][bytes[i]];
    let fits = true;
    const began = performance.now(), outputs = await run(input);
    times.push(performance.now() - began);
    for (const [i, output] of outputs.entries()) {
      const expected = new Float32Array(golden.slice(offset, offset += 4 * sizes[i]));
      const {off, allowed} = parts.compare(output, expected, about.output.task);
      worst = Math.max(worst, off / allowed);
      fits &&= off <= allowed;
    }
    passed += fits;
  }
  return {frames, passed, worst, inference_ms: times.sort((a, b) => a - b)[frames >> 1]};
}

// RGBA of a rectangle of the frame: straight from its memory where the browser can do that, else by way of a canvas.
async function pixels(frame, x, y, w, h) {
  if (self.VideoFrame && frame instanceof VideoFrame && copies) {
    if (buffer?.length !== 4 * w * h) buffer = new Uint8ClampedArray(4 * w * h);
    const {x: left, y: top} = frame.visibleRect;
    try {
      const layout = await frame.copyTo(buffer, {format: "RGBA", colorSpace: "srgb", rect: {x: left + x, y: top + y, width: w, height: h}});
      if (layout.length === 1 && layout[0].stride === 4 * w && layout[0].offset === 0) return buffer;
    } catch { /* not every browser converts, and not every frame */ }
    copies = false;
  }
  if (canvas?.width !== w || canvas.height !== h) {
    canvas = new OffscreenCanvas(w, h);
    context = canvas.getContext("2d", {willReadFrequently: true});
  }
  context.drawImage(frame, x, y, w, h, 0, 0, w, h);
  return context.getImageData(0, 0, w, h).data;
}

async function infer({frame, width, height}) {
  const began = performance.now(), {source: [x, y, w, h]} = preprocessor.prepare(width, height);
  const bytes = await pixels(frame, x, y, w, h), grabbed = performance.now();
  const input = preprocessor.run(bytes), prepared = performance.now();
  return {outputs: await run(input), ms: {grab: grabbed - began, preprocess: prepared - grabbed, inference: performance.now() - prepared}};
}

function look({id, width, height, at, threshold, still}, {outputs, ms}) {
  const began = performance.now(), detects = about.output.task === "detect" && !still;
  const sure = Math.max(threshold, 0.01), lowest = detects ? Math.min(threshold, parts.LOW) : threshold;
  let predictions = parts.answer(outputs, about.output, preprocessor.placement, about.input, lowest);
  if (detects) predictions = tracker.run(predictions, at / 1000, sure);
  ms.decode = performance.now() - began;
  self.postMessage({type: "result", id, width, height, at, still, predictions, ms});
}
