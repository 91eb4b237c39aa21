// Keeps one complete version of the page: it works without a network, and never mixes with another version.
"use strict";

const VERSION = "@VERSION@", SHELL = /*@SHELL@*/[], CACHE = `sightline-${VERSION}`;

self.addEventListener("install", event => event.waitUntil((async () => {
  const cache = await caches.open(CACHE);
  await cache.addAll(SHELL);
})()));

// A new version waits until the pages of the old one are closed; then the old one is deleted.
self.addEventListener("activate", event => event.waitUntil((async () => {
  for (const name of await caches.keys()) if (name.startsWith("sightline-") && name !== CACHE) await caches.delete(name);
  await self.clients.claim();
})()));

self.addEventListener("fetch", event => {
  const {request} = event, url = new URL(request.url), root = new URL(".", self.location.href).pathname;
  if (request.method !== "GET" || url.origin !== self.location.origin || !url.pathname.startsWith(root)) return;
  event.respondWith(request.mode === "navigate" ? page(request) : file(request));
});

// The page itself comes from the network if possible, so that an update is noticed. Otherwise it comes from the cache.
async function page(request) {
  try {
    const response = await fetch(request, {signal: AbortSignal.timeout(4000)});
    if (response.ok) return response;
  } catch { /* no network or no server */ }
  const cached = await (await caches.open(CACHE)).match("./");
  return cached ?? Response.error();
}

// All other files never change under their names. The build of the runtime that a device needs is kept when it is requested.
async function file(request) {
  const cache = await caches.open(CACHE), cached = request.cache === "reload" ? undefined : await cache.match(request);
  if (cached) return cached;
  const response = await fetch(request);
  if (response.ok && new URL(request.url).pathname.includes(`/${VERSION}/`)) {
    try {
      await cache.put(request, response.clone());
    } catch (error) {
      for (const client of await self.clients.matchAll()) client.postMessage({type: "storage", text: String(error.message ?? error)});
    }
  }
  return response;
}
