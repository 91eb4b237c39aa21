// Keeps one version of the page, whole: what it fetched works without a network, and never beside another version.
"use strict";

const VERSION = "@VERSION@", SHELL = /*@SHELL@*/[], KEEP = `sightline-${VERSION}`;

self.addEventListener("install", event => event.waitUntil((async () => {
  const cache = await caches.open(KEEP);
  await cache.addAll(SHELL);
})()));

// A new version waits until the pages of the old one are closed; then the old one goes.
self.addEventListener("activate", event => event.waitUntil((async () => {
  for (const name of await caches.keys()) if (name.startsWith("sightline-") && name !== KEEP) await caches.delete(name);
  await self.clients.claim();
})()));

self.addEventListener("fetch", event => {
  const {request} = event, url = new URL(request.url), root = new URL(".", self.location.href).pathname;
  if (request.method !== "GET" || url.origin !== self.location.origin || !url.pathname.startsWith(root)) return;
  event.respondWith(request.mode === "navigate" ? page(request) : file(request));
});

// The page itself comes from the network where there is one, so that an update is seen; a dead server is no answer.
async function page(request) {
  try {
    const answer = await fetch(request, {signal: AbortSignal.timeout(4000)});
    if (answer.ok) return answer;
  } catch { /* no network, or nobody there */ }
  const kept = await (await caches.open(KEEP)).match("./");
  return kept ?? Response.error();
}

// Everything else never changes under its name. Which build of the runtime a device wants shows when it asks for it.
async function file(request) {
  const cache = await caches.open(KEEP), kept = request.cache === "reload" ? undefined : await cache.match(request);
  if (kept) return kept;
  const answer = await fetch(request);
  if (answer.ok && new URL(request.url).pathname.includes(`/${VERSION}/`)) {
    try {
      await cache.put(request, answer.clone());
    } catch (error) {
      for (const client of await self.clients.matchAll()) client.postMessage({type: "storage", text: String(error.message ?? error)});
    }
  }
  return answer;
}
