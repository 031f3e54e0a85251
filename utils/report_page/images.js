"use strict";
// The images: order and filters, cards that are made as one scrolls, their drawing, and the enlarged view.

// Columns of report.index, and what data/part_*.js holds of an image.
const [POSITION, NAME, QUALITY, POSITIVES, FALSE, MISSED, CLASSES, CONFUSIONS] = Array(8).keys();
const UNMATCHED = -1;
const CARDS_PER_PORTION = 24;
const KEPT_PARTS = 40;
const FIRST_THRESHOLD = 0.3;

const drawing = { threshold: FIRST_THRESHOLD, masks: true, boxes: true, labels: true, hidden: new Set() };
const filter = { confusion: null };
let chosenRanks = [];

// --- records -----------------------------------------------------------------------------------------------------

const featured = JSON.parse(byId("report-featured").textContent);
const parts = new Map(); // number of the part: promise of its records; the first is the one unused for longest
const waiting = new Map();

function record(rank) {
  if (featured[rank]) return Promise.resolve(prepared(featured[rank]));
  const number = Math.floor(rank / report.images_per_part) + 1;
  const loaded = parts.get(number) || loadPart(number);
  parts.delete(number);
  parts.set(number, loaded);
  if (parts.size > KEPT_PARTS) parts.delete(parts.keys().next().value);
  return loaded.then((records) => prepared(records[rank % report.images_per_part]));
}

function loadPart(number) {
  const source = `data/part_${String(number).padStart(4, "0")}.js`;
  return new Promise((resolve, reject) => {
    const fail = (message) => {
      waiting.delete(number);
      parts.delete(number);
      reject(new Error(message));
    };
    waiting.set(number, { resolve, fail });
    const script = element("script", { src: source, onerror: () => fail(`${source} is not beside this page. `
      + "Only the worst and the best images are in the page itself.") });
    script.addEventListener("load", () => script.remove());
    document.head.append(script);
  });
}

/** Called by the scripts in data/. */
function reportPart(stamp, number, records) {
  const { resolve, fail } = waiting.get(number);
  waiting.delete(number);
  if (stamp === report.stamp) resolve(records);
  else fail("The folder data belongs to another report.");
}

/** Names for the columns of a record, once. */
function prepared(raw) {
  if (!raw.ready) {
    raw.objects = raw.objects.map(([label, crowd, box, outline]) => ({ label, crowd: Boolean(crowd), box, outline }));
    raw.detections = raw.detections.map(([label, score, box, outline, match, iou]) => ({ label, score, box, outline, match, iou }));
    raw.ready = true;
  }
  return raw;
}

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

// --- drawing -----------------------------------------------------------------------------------------------------

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

// --- cards -------------------------------------------------------------------------------------------------------

const pairClass = report.has_ground_truth ? "pair" : "pair single";

class Card {
  constructor(rank, place) {
    const entry = report.index[rank];
    this.rank = rank;
    this.isNear = false;
    this.pair = null;
    this.foot = element("div", { class: "card-foot" });
    this.button = element("button", { type: "button", class: pairClass, "aria-label": `Enlarge ${entry[NAME]}`, onclick: () => openViewer(place) });
    this.node = element("article", { class: "card" }, element("div", { class: "card-head" },
      element("span", { title: entry[NAME] }, entry[NAME]),
      element("span", {}, report.has_ground_truth ? `quality ${percent(entry[QUALITY])}` : "")), this.button, this.foot);
    this.node.card = this;
    this.empty("");
  }

  empty(message) {
    this.pair = null;
    this.button.replaceChildren(...Array.from({ length: report.has_ground_truth ? 2 : 1 }, () => (
      element("span", { class: "side" }, element("span", { class: "message" }, message)))));
  }

  async enter() {
    this.isNear = true;
    try {
      const image = await record(this.rank);
      const picture = this.isNear ? await decodedPicture(image) : null;
      if (!this.isNear || this.pair) return;
      this.pair = new Pair(image, picture);
      this.button.replaceChildren(...this.pair.nodes);
      this.draw();
    } catch (error) {
      if (this.isNear) this.empty(error.message);
    }
  }

  leave() {
    this.isNear = false;
    if (this.pair) this.empty(""); // canvases far from the screen would take all the memory
  }

  draw() {
    if (!this.pair) return;
    this.pair.draw();
    this.foot.textContent = this.pair.agreement;
  }
}

const nearCards = new Set();
const cardObserver = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting === target.card.isNear) continue;
    if (isIntersecting) {
      nearCards.add(target.card);
      target.card.enter();
    } else {
      nearCards.delete(target.card);
      target.card.leave();
    }
  }
}, { rootMargin: "300px" });
const endObserver = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) addCards();
}, { rootMargin: "1200px" });

function addCards() {
  const start = byId("cards").childElementCount;
  const ranks = chosenRanks.slice(start, start + CARDS_PER_PORTION);
  for (const [offset, rank] of ranks.entries()) {
    const card = new Card(rank, start + offset);
    byId("cards").append(card.node);
    cardObserver.observe(card.node);
  }
  const made = start + ranks.length;
  byId("end-of-cards").textContent = made < chosenRanks.length ? "" : count(chosenRanks.length, "image", "images");
  // Observed anew, the end reports again if it is still near.
  endObserver.unobserve(byId("end-of-cards"));
  if (made < chosenRanks.length) endObserver.observe(byId("end-of-cards"));
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

// --- order and filters --------------------------------------------------------------------------------------------

const ORDERS = [
  ["worst", "worst quality first", (entry) => entry[QUALITY] ?? Infinity],
  ["best", "best quality first", (entry) => -(entry[QUALITY] ?? -Infinity)],
  ["missed", "most missed objects first", (entry) => -entry[MISSED]],
  ["false", "most false detections first", (entry) => -entry[FALSE]],
  ["objects", "most objects first", (entry) => -(entry[POSITIVES] + entry[MISSED])],
  ["detections", "most detections first", (entry) => -(entry[POSITIVES] + entry[FALSE])],
  ["evaluated", "as evaluated", (entry) => entry[POSITION]],
];
const VIEWER_ORDERS = ["evaluated", "detections"];

function applyFilters() {
  const name = byId("name-filter").value.trim().toLowerCase();
  const label = byId("class-filter").value;
  const wanted = filter.confusion && filter.confusion[0] * (BACKGROUND + 1) + filter.confusion[1];
  const key = ORDERS.find(([value]) => value === byId("order").value)[2];
  chosenRanks = [...report.index.keys()].filter((rank) => {
    const entry = report.index[rank];
    return (!name || entry[NAME].toLowerCase().includes(name)) && (label === "" || entry[CLASSES].includes(Number(label)))
      && (wanted === null || entry[CONFUSIONS].includes(wanted));
  });
  const keys = new Map(chosenRanks.map((rank) => [rank, key(report.index[rank])]));
  const difference = (one, other) => (one === other ? 0 : one < other ? -1 : 1);
  chosenRanks.sort((one, other) => difference(keys.get(one), keys.get(other))
    || report.index[one][POSITION] - report.index[other][POSITION]);
  byId("match-count").value = `${chosenRanks.length.toLocaleString("en")} of ${count(report.index.length, "image", "images")}`;
  byId("clear-filters").hidden = !filter.confusion;
  if (filter.confusion) byId("clear-filters").textContent = `${filter.confusion.map(className).join(" → ")} ✕`;
  for (const card of nearCards) card.leave();
  nearCards.clear();
  cardObserver.disconnect();
  byId("cards").replaceChildren();
  addCards();
}

/** The images with a class or with a confusion (classes of ground truth and prediction). */
function showImages({ label = "", confusion: pair = null }) {
  filter.confusion = pair;
  byId("class-filter").value = String(label);
  byId("name-filter").value = "";
  applyFilters();
  byId("images").scrollIntoView();
}

function prepareFilters() {
  const orders = ORDERS.filter(([value]) => report.has_ground_truth || VIEWER_ORDERS.includes(value));
  fillSelect(byId("order"), orders.map(([value, text]) => [value, text]), report.has_ground_truth ? "worst" : "evaluated");
  const used = new Set(report.index.flatMap((entry) => entry[CLASSES]));
  const names = [...used].map((index) => [String(index), className(index)]).sort((one, other) => one[1].localeCompare(other[1]));
  fillSelect(byId("class-filter"), [["", "any"], ...names], "");
  byId("order").addEventListener("change", applyFilters);
  byId("class-filter").addEventListener("change", applyFilters);
  byId("name-filter").addEventListener("input", applyFilters);
  byId("clear-filters").addEventListener("click", () => {
    filter.confusion = null;
    applyFilters();
  });
  const kind = report.has_masks ? "mask" : "box";
  byId("quality-note").textContent = (report.has_ground_truth ? "Quality is the panoptic quality of the image (Kirillov et al. 2019), in per cent: "
    + `the ${kind} IoU of the matches summed, over TP + FP/2 + FN/2, with detections of a score of at least ${report.counted_score}; by falling `
    + `score each takes the free object of its class that it overlaps most, if the IoU is at least ${report.match_iou}. A dashed line is an object `
    + "that is missed, or a false detection, at the score of the slider. " : "")
    + `Detections with a score below ${report.shown_score} are not in this report. A click enlarges an image.`;
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

// --- enlarged view -------------------------------------------------------------------------------------------------

const viewer = { place: 0, pair: null, agreement: null, tables: null };

async function openViewer(place) {
  viewer.place = place;
  const rank = chosenRanks[place];
  const entry = report.index[rank];
  const dialog = byId("viewer");
  byId("viewer-name").textContent = entry[NAME];
  byId("viewer-place").textContent = `${(place + 1).toLocaleString("en")} of ${chosenRanks.length.toLocaleString("en")}`
    + (report.has_ground_truth ? ` · quality ${percent(entry[QUALITY])}` : "");
  byId("viewer-previous").disabled = place === 0;
  byId("viewer-next").disabled = place + 1 >= chosenRanks.length;
  if (!dialog.open) {
    // The same switches serve both views.
    byId("drawing-place").style.minHeight = `${byId("drawing").offsetHeight}px`;
    byId("viewer-drawing").append(byId("drawing"));
    dialog.showModal();
  }
  try {
    const image = await record(rank);
    const picture = await decodedPicture(image);
    if (viewer.place !== place || !dialog.open) return; // one has gone on in the meantime
    viewer.pair = new Pair(image, picture);
    viewer.agreement = element("p", { class: "muted" });
    viewer.tables = element("div", { class: "columns" });
    byId("viewer-body").replaceChildren(element("div", { class: pairClass }, ...viewer.pair.nodes), viewer.agreement, viewer.tables);
    for (const node of viewer.pair.nodes) node.style.aspectRatio = `${image.size[0]} / ${image.size[1]}`;
    drawViewer();
  } catch (error) {
    viewer.pair = null;
    byId("viewer-body").replaceChildren(element("p", { class: "muted" }, error.message));
  }
}

function drawViewer() {
  if (!viewer.pair) return;
  viewer.pair.draw();
  const { objects, detections } = shownOf(viewer.pair.image);
  const judged = ({ shape, isOdd }) => (isOdd ? "false" : shape.match < 0 ? "in a crowd" : percent(shape.iou));
  const found = element("table");
  fillTable(found, "Predictions", ["class", "score", ...(report.has_ground_truth ? ["IoU, %"] : [])], detections.map((entry) => [
    className(entry.shape.label), entry.shape.score.toFixed(2), ...(report.has_ground_truth ? [judged(entry)] : [])]));
  const tables = [found];
  if (report.has_ground_truth) {
    const truth = element("table");
    fillTable(truth, "Ground truth", ["class", ""], objects.map(({ shape, isOdd }) => [
      className(shape.label), shape.crowd ? "crowd" : isOdd ? "missed" : "found"]));
    tables.unshift(truth);
  }
  viewer.agreement.textContent = viewer.pair.agreement;
  viewer.tables.replaceChildren(...tables);
}

function prepareViewer() {
  const dialog = byId("viewer");
  const go = (step) => {
    const place = viewer.place + step;
    if (place >= 0 && place < chosenRanks.length) openViewer(place);
  };
  byId("viewer-previous").addEventListener("click", () => go(-1));
  byId("viewer-next").addEventListener("click", () => go(1));
  byId("viewer-close").addEventListener("click", () => dialog.close());
  // On the document, as a button that has the focus loses it once it is disabled.
  document.addEventListener("keydown", (event) => {
    if (!dialog.open || event.target.type === "range" || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") go(-1);
    if (event.key === "ArrowRight") go(1);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    viewer.pair = null;
    byId("viewer-body").replaceChildren();
    byId("drawing-place").append(byId("drawing"));
    byId("drawing-place").style.minHeight = "";
    redraw();
  });
  new ResizeObserver(redraw).observe(byId("viewer-body"));
}

prepareFilters();
prepareDrawing();
prepareViewer();
applyFilters();
