// Draws a result's boxes with their labels.

const COLOURS = ["#ffd400", "#00e5ff", "#ff6ad5", "#7dff5a", "#ff9a3d", "#b9a7ff"];

export const percent = score => `${Math.round(100 * score)} %`;

// Draws into the middle of w x h pixels, scaled to fit. unit: pixels of the canvas in one CSS pixel.
export function draw(context, w, h, unit, {predictions, width, height}) {
  const scale = Math.min(w / width, h / height), dx = (w - width * scale) / 2, dy = (h - height * scale) / 2;
  context.font = `700 ${15 * unit}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (const {box: b, label, score, track, index} of predictions) {
    if (!b) continue;
    const x = dx + b.x * scale, y = dy + b.y * scale, colour = COLOURS[(track ?? index) % COLOURS.length];
    const caption = `${label}${track ? ` ${track}` : ""} ${percent(score)}`, size = context.measureText(caption).width + 10 * unit;
    context.lineWidth = 5 * unit;
    context.strokeStyle = "#000a";
    context.strokeRect(x, y, b.width * scale, b.height * scale);
    context.lineWidth = 3 * unit;
    context.strokeStyle = colour;
    context.strokeRect(x, y, b.width * scale, b.height * scale);
    const top = y >= 22 * unit ? y - 22 * unit : y;
    context.fillStyle = colour;
    context.fillRect(x, top, size, 22 * unit);
    context.fillStyle = "#000";
    context.fillText(caption, x + 5 * unit, top + 3 * unit);
  }
}
