// Registers the service worker, which makes the page work without a network.

const sleep = ms => new Promise(done => setTimeout(done, ms));

// report: called with a text about the state, now and later.
export async function keepOffline(report) {
  if (!("serviceWorker" in navigator)) return report("no: this browser or address does not allow it");
  navigator.serviceWorker.addEventListener("message", ({data}) => {
    if (data.type === "storage") report(`no: this device's storage is full (${data.text}). The page works with a network.`);
  });
  try {
    await navigator.serviceWorker.register("service-worker.js");
    // files that a worker downloads are kept only once the service worker controls the page
    await Promise.race([navigator.serviceWorker.ready, sleep(8000)]);
    if (!navigator.serviceWorker.controller) await Promise.race([new Promise(done => navigator.serviceWorker.addEventListener("controllerchange", done, {once: true})), sleep(3000)]);
    report(navigator.serviceWorker.controller ? "works after the first run" : "no: close this page and open it again");
  } catch (error) {
    report(`no: ${/quota/i.test(error.name + error.message) ? "this device's storage is full" : error.message}. The page works with a network.`);
  }
}

// Deletes all downloaded versions, so that the next load downloads them again.
export async function deleteDownloads() {
  for (const name of await window.caches?.keys() ?? []) if (name.startsWith("sightline-")) await caches.delete(name);
}
