// The thread that preprocesses images: the next one is ready when the model has finished with the current one.
"use strict";

const preprocessing = import(new URL("preprocess.js", self.location.href).href);
let model, preprocessor, canvas, context, buffer, copies = true, last = Promise.resolve();
const inputs = []; // buffers that the model has finished with

self.onmessage = ({data}) => last = last.then(() => (data.type === "start" ? start : prepare)(data)).catch(error => {
  self.postMessage({type: "failed", during: data.type, code: error.code ?? "fault", text: String(error.message ?? error)});
});

async function start({input, port}) {
  await prove();
  preprocessor = new (await preprocessing).Preprocessor(input);
  model = port;
  model.onmessage = ({data}) => inputs.push(data);
}

async function prepare({frame, ...data}) {
  try {
    const began = performance.now(), placement = preprocessor.prepare(data.width, data.height);
    const bytes = await pixels(frame, ...placement.source), grabbed = performance.now();
    const input = inputs.pop() ?? new Float32Array(preprocessor.out.length);
    input.set(preprocessor.run(bytes));
    const ms = {grab: grabbed - began, preprocess: performance.now() - grabbed};
    model.postMessage({...data, input, placement, ms}, [input.buffer]);
  } finally {
    frame.close();
  }
}

// Whether an image of known pixels is read correctly. Safari's engine ignores copyTo's format (red for blue), and some
// browsers change the pixels that a page reads, against fingerprinting.
async function prove() {
  const side = 16, known = Uint8ClampedArray.from({length: 4 * side * side}, (_, i) => [16 * (i >> 2 & 15), 15 * (i >> 6), 200, 255][i & 3]);
  const isRead = async frame => {
    const bytes = await pixels(frame, 0, 0, side, side);
    frame.close();
    return known.every((value, i) => Math.abs(value - bytes[i]) <= 2);
  };
  copies = false;
  if (!await isRead(await createImageBitmap(new ImageData(known, side, side)))) throw Object.assign(new Error("an image of known pixels is read incorrectly"), {code: "pixels"});
  if (!self.VideoFrame) return;
  try {
    copies = true;
    const swapped = known.map((_, i) => known[i & ~3 | [2, 1, 0, 3][i & 3]]);
    const isCorrect = await isRead(new VideoFrame(swapped, {format: "BGRA", codedWidth: side, codedHeight: side, timestamp: 0}));
    copies &&= isCorrect;
  } catch {
    copies = false;
  }
}

// RGBA of a rectangle of the frame: directly from its memory where the browser can do that, otherwise through a canvas.
async function pixels(frame, x, y, w, h) {
  if (self.VideoFrame && frame instanceof VideoFrame && copies) {
    if (buffer?.length !== 4 * w * h) buffer = new Uint8ClampedArray(4 * w * h);
    const {x: left, y: top} = frame.visibleRect;
    try {
      const layout = await frame.copyTo(buffer, {format: "RGBA", colorSpace: "srgb", rect: {x: left + x, y: top + y, width: w, height: h}});
      if (layout.length === 1 && layout[0].stride === 4 * w && layout[0].offset === 0) return buffer;
    } catch { /* some browsers and some frames cannot be converted */ }
    copies = false;
  }
  if (canvas?.width !== w || canvas.height !== h) {
    canvas = new OffscreenCanvas(w, h);
    context = canvas.getContext("2d", {willReadFrequently: true});
  }
  context.drawImage(frame, x, y, w, h, 0, 0, w, h);
  return context.getImageData(0, 0, w, h).data;
}
