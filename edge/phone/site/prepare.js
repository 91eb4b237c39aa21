// The thread that makes pictures ready, so that the next is ready when the model has done with this one.
"use strict";

const picture = import(new URL("picture.js", self.location.href).href);
let model, preprocessor, canvas, context, buffer, copies = true, last = Promise.resolve();
const inputs = []; // that the model has done with

self.onmessage = ({data}) => last = last.then(() => (data.type === "start" ? start : prepare)(data)).catch(error => {
  self.postMessage({type: "failed", during: data.type, code: "fault", text: String(error.message ?? error)});
});

async function start({input, port}) {
  preprocessor = new (await picture).Preprocessor(input);
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
