"use strict";
// Ground truth and prediction of an image beside each other, and the switches that say what is drawn.

const UNMATCHED = -1;
const FIRST_THRESHOLD = 0.3;

const drawing = { threshold: FIRST_THRESHOLD, masks: true, boxes: true, labels: true, hidden: new Set() };

/** What of an image is drawn now: shapes of both sides, and how they agree at the threshold of the slider. */
function shownOf(image) {
  const isShown = (shape) => !drawing.hidden.has(shape.label);
  const detections = image.detections.filter((shape) => shape.score >= drawing.threshold);
  const taken = new Set(detections.map((shape) => shape.match));
  const objects = image.objects.map((shape, index) => ({
    shape, text: shape.crowd ? `${className(shape.label)} (crowd)` : className(shape.label), isOdd: !shape.crowd && !taken.has(index),
  })).filter(({ shape }) => isShown(shape));
  const found = detections.filter(isShown).map((shape) => ({
    shape, text: `${className(shape.label)} ${shape.score.toFixed(2)}`, isOdd: report.has_ground_truth && shape.match === UNMATCHED }));
  return { objects, detections: found };
}

function agreement({ objects, detections }) {
  const shown = count(detections.length, "detection", "detections");
  if (!report.has_ground_truth) return shown;
  const real = objects.filter(({ shape }) => !shape.crowd);
  const missed = real.filter(({ isOdd }) => isOdd).length;
  const wrong = detections.filter(({ isOdd }) => isOdd).length;
  return `${count(real.length, "object", "objects")}, ${shown}: ${real.length - missed} found, ${missed} missed, ${wrong} false`;
}

function drawSide(canvas, image, picture, shapes) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const scale = Math.min(width / image.size[0], height / image.size[1]);
  const [left, top] = [(width - image.size[0] * scale) / 2, (height - image.size[1] * scale) / 2];
  const context = canvas.getContext("2d");
  context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * left, ratio * top);
  context.imageSmoothingQuality = "high";
  if (picture) context.drawImage(picture, 0, 0, ...image.size);
  context.scale(1 / report.outline_unit, 1 / report.outline_unit);
  const pixel = report.outline_unit / scale; // one pixel of the screen in the unit of the outlines
  // The first shapes, of the highest scores, go on top.
  for (const entry of [...shapes].reverse()) drawShape(context, entry, pixel);
  if (!drawing.labels) return;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  const toScreen = ([x, y, w]) => [left + x / pixel, top + y / pixel, w / pixel];
  for (const entry of [...shapes].reverse()) drawLabel(context, entry, toScreen(entry.shape.box), [width, height]);
}

function drawShape(context, { shape, isOdd }, pixel) {
  context.strokeStyle = classColor(shape.label);
  context.setLineDash(isOdd ? [5 * pixel, 4 * pixel] : []);
  if (drawing.masks && shape.outline) {
    shape.path = shape.path || new Path2D(shape.outline);
    context.fillStyle = classColor(shape.label, shape.crowd ? 0.2 : 0.42);
    context.fill(shape.path, "evenodd");
    context.lineWidth = 1.5 * pixel;
    context.lineJoin = "round";
    context.stroke(shape.path);
  }
  if (drawing.boxes) {
    context.lineWidth = 2 * pixel;
    context.strokeRect(...shape.box);
  }
}

function drawLabel(context, { shape, text }, [x, y, boxWidth], [width, height]) {
  context.font = "11px system-ui, sans-serif";
  const short = shortened(context, text, Math.max(110, boxWidth));
  const plate = context.measureText(short).width + 9;
  const left = Math.min(Math.max(0, x), width - plate);
  const top = Math.min(Math.max(0, y - 15), height - 15);
  context.fillStyle = "rgba(10, 14, 20, .78)";
  context.fillRect(left, top, plate, 15);
  context.fillStyle = classColor(shape.label);
  context.fillRect(left, top, 3, 15);
  context.fillStyle = "#fff";
  context.textBaseline = "middle";
  context.fillText(short, left + 6, top + 8);
}

async function decodedPicture(image) {
  if (!image.image) return null;
  const picture = new Image();
  picture.src = `data:image/jpeg;base64,${image.image}`;
  await picture.decode();
  return picture;
}

/** Ground truth and prediction of one image beside each other; a viewer without ground truth has one side. */
class Pair {
  constructor(image, picture) {
    this.image = image;
    this.picture = picture;
    this.sides = [["objects", "ground truth"], ["detections", "prediction"]].slice(report.has_ground_truth ? 0 : 1)
      .map(([kind, text]) => ({ kind, text, canvas: element("canvas") }));
    this.nodes = this.sides.map(({ text, canvas }) => element("span", { class: "side" }, canvas,
      element("span", { class: "side-name" }, text), ...(picture ? [] : [element("span", { class: "message" }, "The image cannot be read.")])));
    this.agreement = "";
  }

  draw() {
    const shown = shownOf(this.image);
    for (const { kind, canvas } of this.sides) drawSide(canvas, this.image, this.picture, shown[kind]);
    this.agreement = agreement(shown);
  }
}

let redrawRequested = false;
function redraw() {
  if (redrawRequested) return;
  redrawRequested = true;
  requestAnimationFrame(() => {
    redrawRequested = false;
    for (const card of nearCards) card.draw();
    drawViewer();
  });
}

// --- what is drawn ------------------------------------------------------------------------------------------------

function countClassSwitches(boxes) {
  byId("class-switch-count").textContent = `(${boxes.filter((box) => box.checked).length} of ${boxes.length})`;
}

function prepareClassSwitches() {
  const boxes = [];
  const change = () => {
    drawing.hidden = new Set([...boxes.keys()].filter((label) => !boxes[label].checked));
    countClassSwitches(boxes);
    redraw();
  };
  for (const label of report.classes.keys()) {
    const box = element("input", { type: "checkbox", onchange: change });
    box.checked = true;
    boxes.push(box);
    const dot = element("i", { class: "dot" });
    dot.style.background = classColor(label);
    byId("class-boxes").append(element("label", {}, box, dot, element("span", {}, className(label))));
  }
  const setAll = (checked) => () => {
    for (const box of boxes) box.checked = checked;
    change();
  };
  byId("all-classes").addEventListener("click", setAll(true));
  byId("no-classes").addEventListener("click", setAll(false));
  countClassSwitches(boxes);
  document.addEventListener("pointerdown", (event) => {
    if (!byId("class-switches").contains(event.target)) byId("class-switches").open = false;
  });
}

function prepareDrawing() {
  const slider = byId("threshold");
  const showThreshold = () => {
    drawing.threshold = Number(slider.value);
    byId("threshold-value").value = drawing.threshold.toFixed(2);
  };
  slider.value = FIRST_THRESHOLD;
  showThreshold();
  slider.addEventListener("input", () => {
    showThreshold();
    redraw();
  });
  for (const what of ["masks", "boxes", "labels"]) {
    const box = byId(`show-${what}`);
    box.checked = true;
    box.addEventListener("change", () => {
      drawing[what] = box.checked;
      redraw();
    });
  }
  byId("masks-switch").hidden = !report.has_masks;
  prepareClassSwitches();
  new ResizeObserver(redraw).observe(byId("cards"));
}
