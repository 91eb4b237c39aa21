// Texts of the page about faults. Each names the fault and a way on.

export const FAULTS = {
  insecure: "Browsers allow the camera over HTTPS only. Open this page at an address that begins with https://, or choose an image.",
  NotAllowedError: "This page has no permission to use the camera. Allow it in the browser's settings for this site (left of the address), then try again.",
  NotFoundError: "No camera found. Connect one, or choose an image. The page searches again by itself.",
  NotReadableError: "Another program uses the camera. Close that program. The page tries again by itself.",
  OverconstrainedError: "The browser offers no usable camera. Connect another one, or choose an image. The page searches again by itself.",
  ended: "The camera was disconnected. The page searches for it by itself.",
  simd: "This browser is too old for the model: it has no WebAssembly SIMD. Use Chrome 91, Firefox 114, Safari 16.4 or newer.",
  damaged: "A file of this page arrived damaged and is not used. Try again to download it once more.",
  fetch: "A part of this page could not be downloaded. Check the network, then try again.",
  model: "This browser cannot load the model. Try again, or use another browser.",
  golden: "This browser computes other outputs than the measured ones, so the page shows no results. Try another browser.",
  pixels: "This browser changes the images that a page reads, perhaps for privacy, so no result could be trusted. Allow this site to read canvas data, or use another browser.",
  stopped: "The browser stopped the model, perhaps for lack of memory. Close other pages, then try again.",
  fault: "Something failed unexpectedly. Try again.",
};

// Faults of the model: neither a camera nor an image cures them.
export const MODEL_FAULTS = ["simd", "damaged", "fetch", "model", "golden", "pixels", "stopped"];

// Faults of a missing camera.
export const CAMERA_FAULTS = ["ended", "NotFoundError", "OverconstrainedError"];
