// The model's thread: loads and proves the model, and runs it on the inputs of preprocess-worker.js. A classic worker: LiteRT.js needs importScripts.
"use strict";

const here = new URL(".", self.location.href).href;
let about, model, LiteRt, tracker, parts, port, last = Promise.resolve();

self.onmessage = async ({data}) => {
  try {
    await start(data.build);
    port = data.port;
    // one after the other, in order: the tracker needs that
    port.onmessage = frame => last = last.then(() => infer(frame.data)).catch(error => failed("frame", error));
  } catch (error) {
    failed("start", error);
  }
};

const failed = (during, error) => self.postMessage({type: "failed", during, code: error.code ?? "fault", text: String(error.message ?? error)});

const fault = (code, text) => Object.assign(new Error(text), {code});

async function start(build) {
  const [preprocess, postprocess, tracking] = await Promise.all(["preprocess", "postprocess", "tracker"].map(part));
  parts = {...preprocess, ...postprocess, ...tracking};
  about = await (await download("bundle.json")).json();
  const [content, golden] = await Promise.all(["model.tflite", "golden.bin"].map(async name => (await download(name)).arrayBuffer()));
  for (const [name, data] of [["model.tflite", content], ["golden.bin", golden]]) await check(name, data);
  LiteRt = await part("litert");
  self.Module = {locateFile: file => here + file};
  await LiteRt.loadLiteRt(here + ({internal: "litert_wasm_internal.js", compat: "litert_wasm_compat_internal.js"}[build] ?? ""));
  try {
    model = await LiteRt.loadAndCompile(new Uint8Array(content), {accelerator: "wasm"});
  } catch (error) {
    throw fault("model", `LiteRT.js cannot load it: ${error.message}`);
  }
  tracker = new parts.Tracker();
  self.postMessage({type: "ready", about, proof: await prove(golden)});
}

const unreachable = error => { throw fault("fetch", error.message); };

const part = name => import(`${here}${name}.js`).catch(unreachable);

async function download(name) {
  const response = await fetch(here + name).catch(unreachable);
  if (!response.ok) throw fault("fetch", `${name}: ${response.status}`);
  return response;
}

async function check(name, data) {
  if (!crypto.subtle) return; // a page without HTTPS has none; the golden samples are compared all the same
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  const hex = Array.from(digest, byte => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== about.files[name]) throw fault("damaged", `${name} is not the file that was exported`);
}

// Float32Array in, Float32Arrays out. A tensor stays in WebAssembly's memory until it is deleted.
async function run(input) {
  const tensor = new LiteRt.Tensor(input, [1, about.input.height, about.input.width, 3]);
  const results = await model.run([tensor]);
  tensor.delete();
  const outputs = [];
  for (const result of results) {
    outputs.push(Float32Array.from(result.toTypedArray()));
    result.delete();
  }
  return outputs;
}

// Compares the bundle's golden samples: inputs, and the outputs of the machine that measured the model.
async function prove(golden) {
  const {frames, sizes, padding} = about.golden, pixels = about.input.width * about.input.height * 3;
  const input = new Float32Array(pixels), values = parts.values(about.input);
  const times = [];
  let worst = 0, passed = 0, offset = frames * pixels + padding;
  for (let k = 0; k < frames; k++) {
    const bytes = new Uint8Array(golden, k * pixels, pixels);
    for (let i = 0; i < pixels; i++) input[i] = values[i % 3][bytes[i]];
    let isEqual = true;
    const began = performance.now(), outputs = await run(input);
    times.push(performance.now() - began);
    for (const [i, output] of outputs.entries()) {
      const expected = new Float32Array(golden.slice(offset, offset += 4 * sizes[i]));
      const {off, allowed} = parts.compare(output, expected, about.output.task);
      worst = Math.max(worst, off / allowed);
      isEqual &&= off <= allowed;
    }
    passed += isEqual;
  }
  return {frames, passed, worst, inference_ms: times.sort((a, b) => a - b)[frames >> 1]};
}

async function infer({input, placement, ms, ...data}) {
  const began = performance.now(), outputs = await run(input), inferred = performance.now();
  const {at, threshold, still} = data, detects = about.output.task === "detect" && !still;
  const lowest = detects ? Math.min(threshold, parts.LOW_SCORE) : threshold;
  let predictions = parts.answer(outputs, about.output, placement, about.input, lowest);
  if (detects) predictions = tracker.run(predictions, at / 1000, Math.max(threshold, 0.01));
  self.postMessage({...data, type: "result", predictions, ms: {...ms, inference: inferred - began, decode: performance.now() - inferred}});
  port.postMessage(input, [input.buffer]);
}
