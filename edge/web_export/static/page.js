// The page's elements, its state and its faults.

import {CAMERA_FAULTS, FAULTS, MODEL_FAULTS} from "./messages.js";

export const $ = id => document.getElementById(id);

// Reuses the element's text node: thirty new ones a second would pile up.
export function write(element, value) {
  if (!element.firstChild) element.append(value);
  else if (element.firstChild.data !== value) element.firstChild.data = value;
}

export const text = (id, value) => write($(id), value);

// Shows a fault with its text; code "" removes it. details: technical text below.
export function showFault(code, details = "") {
  $("banner").hidden = !code;
  if (!code) return;
  text("words", FAULTS[code] ?? FAULTS.fault);
  text("details", details);
  $("banner").dataset.code = code;
  setState(CAMERA_FAULTS.includes(code) ? "no camera" : "stopped", true);
}

export function setState(words, isBad = false) {
  text("state", words);
  $("state").classList.toggle("bad", isBad);
}

// There is an image again: removes the fault, unless it is the model's.
export function clearFault(words) {
  if (!MODEL_FAULTS.includes($("banner").dataset.code)) showFault("");
  if ($("banner").hidden) setState(words);
}
