"use strict";
// Tables, curves and the confusion matrix. Every text of the data reaches the page as a text node, never as HTML.

const report = JSON.parse(document.getElementById("report-data").textContent);
const byId = (id) => document.getElementById(id);
const BACKGROUND = report.classes.length;
const KIND_NAMES = { segm: "mask", bbox: "box" };
const kinds = ["segm", "bbox"].filter((kind) => report.kinds[kind]);

/** New element; children are elements or text. */
function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svgElement(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const percent = (value, digits = 1) => (value === null || value === undefined ? "-" : (100 * value).toFixed(digits));
const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
const className = (index) => (index === BACKGROUND ? "background" : report.classes[index]);

function classColor(index, alpha = 1) {
  // The golden angle keeps the hues of neighbours in the list far apart.
  const hue = (index * 137.508) % 360;
  return `hsla(${hue.toFixed(1)}, 85%, ${[52, 62, 44][index % 3]}%, ${alpha})`;
}

function fillSelect(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  if (chosen !== undefined) select.value = chosen;
}

function bar(share) {
  const inner = element("span");
  inner.style.width = `${100 * (share || 0)}%`;
  return element("span", { class: "track", "aria-hidden": "true" }, inner);
}

function fillTable(table, caption, head, rows) {
  const headCells = head.map((text) => element("th", { scope: "col" }, text));
  const bodyRows = rows.map(([name, ...cells]) => element("tr", {}, element("th", { scope: "row" }, name),
    ...cells.map((cell) => (cell instanceof Node ? element("td", { class: "track-cell" }, cell) : element("td", {}, cell)))));
  table.replaceChildren(element("caption", {}, caption), element("thead", {}, element("tr", {}, ...headCells)),
    element("tbody", {}, ...bodyRows));
}

// --- average precision ---------------------------------------------------------------------------------------

const SUMMARY_ROWS = {
  AP: "AP, IoU .50:.95", AP50: "AP, IoU .50", AP75: "AP, IoU .75", APs: "AP, small", APm: "AP, medium", APl: "AP, large",
  AR1: "AR, 1 detection", AR10: "AR, 10 detections", AR100: "AR, 100 detections", ARs: "AR, small", ARm: "AR, medium",
  ARl: "AR, large",
};

function showScores() {
  const tiles = kinds.flatMap((kind) => ["AP", "AP50", "AP75"].map((name) => element("div", { class: "tile" },
    element("b", {}, percent(report.kinds[kind].summary[name])), element("span", {}, `${KIND_NAMES[kind]} ${name}`))));
  byId("tiles").replaceChildren(...tiles);
  const head = kinds.map((kind) => KIND_NAMES[kind]);
  fillTable(byId("summary-table"), "The twelve COCO figures", ["figure", ...head], Object.entries(SUMMARY_ROWS).map(
    ([name, text]) => [text, ...kinds.map((kind) => percent(report.kinds[kind].summary[name]))]));
  const best = kinds[0];
  fillTable(byId("iou-table"), "AP by IoU", ["IoU", ...head, ""], report.kinds[best].per_iou.map((value, index) => [
    `.${50 + 5 * index}`, ...kinds.map((kind) => percent(report.kinds[kind].per_iou[index])), bar(value)]));
}

function showClassBars() {
  const values = report.kinds[byId("class-kind").value].classes;
  const order = byId("class-order").value;
  const byName = (one, other) => report.classes[one].localeCompare(report.classes[other]);
  const compare = {
    high: (one, other) => values[other] - values[one], low: (one, other) => values[one] - values[other],
    objects: (one, other) => report.class_objects[other] - report.class_objects[one], name: byName,
  }[order];
  const measured = (index) => values[index] !== null;
  const indices = [...values.keys()].sort((one, other) => measured(other) - measured(one)
    || (measured(one) ? compare(one, other) : 0) || byName(one, other));
  byId("class-bars").replaceChildren(...indices.map((index) => element("li", {},
    element("span", {}, element("button", { type: "button", class: "link", onclick: () => showImages({ label: index }) },
      report.classes[index]), element("span", { class: "muted" }, ` (${report.class_objects[index].toLocaleString("en")})`)),
    bar(values[index]), element("span", { class: "value" }, percent(values[index])))));
}

// --- precision and recall -------------------------------------------------------------------------------------

const PLOT = { left: 44, top: 26, width: 360, height: 220 };
const CURVE_NAMES = [["50", "IoU .50"], ["75", "IoU .75"], ["mean", "mean of IoU .50:.95"]];

function curvePoints(thousandths) {
  const points = [];
  for (let recall = 0; recall <= 100; recall += 1) {
    const precision = (thousandths[recall] || 0) / 1000;
    points.push(`${(PLOT.left + recall / 100 * PLOT.width).toFixed(1)},${(PLOT.top + (1 - precision) * PLOT.height).toFixed(1)}`);
  }
  return points.join(" ");
}

function plotFrame() {
  const parts = [];
  for (let step = 0; step <= 5; step += 1) {
    const x = PLOT.left + step / 5 * PLOT.width;
    const y = PLOT.top + step / 5 * PLOT.height;
    const bottom = PLOT.top + PLOT.height;
    parts.push(svgElement("line", { class: "grid", x1: x, x2: x, y1: PLOT.top, y2: bottom }));
    parts.push(svgElement("line", { class: "grid", x1: PLOT.left, x2: PLOT.left + PLOT.width, y1: y, y2: y }));
    parts.push(svgElement("text", { x, y: bottom + 18, "text-anchor": "middle" }, (step / 5).toFixed(1)));
    parts.push(svgElement("text", { x: PLOT.left - 8, y: y + 4, "text-anchor": "end" }, (1 - step / 5).toFixed(1)));
  }
  parts.push(svgElement("text", { x: PLOT.left + PLOT.width / 2, y: PLOT.top + PLOT.height + 38, "text-anchor": "middle" }, "recall"));
  parts.push(svgElement("text", { transform: `translate(12 ${PLOT.top + PLOT.height / 2}) rotate(-90)`, "text-anchor": "middle" }, "precision"));
  return parts;
}

/** One plot; `chosen` is the index of a class, or "" for the mean over all, which is then also the reference. */
function curvePlot(kind, chosen) {
  const figures = report.kinds[kind];
  const curves = chosen === "" ? figures.mean_curves : figures.curves[chosen];
  const name = `${KIND_NAMES[kind]}, ${chosen === "" ? "all classes" : className(Number(chosen))}`;
  if (!curves) return element("p", { class: "muted" }, `${name}: no ground truth to measure.`);
  const parts = [svgElement("text", { class: "title", x: PLOT.left, y: 14 }, name), ...plotFrame()];
  const legend = CURVE_NAMES.map(([key, text], index) => [`curve c${index}`, `${text}: AP ${percent(curves[key][0])}`]);
  if (chosen !== "") {
    parts.push(svgElement("polyline", { class: "reference", points: curvePoints(figures.mean_curves.mean[1]) }));
    legend.push(["reference", "all classes, mean of IoU .50:.95"]);
  }
  CURVE_NAMES.forEach(([key], index) => {
    parts.push(svgElement("polyline", { class: `curve c${index}`, points: curvePoints(curves[key][1]) }));
  });
  legend.forEach(([style, text], index) => {
    const y = PLOT.top + PLOT.height + 60 + 18 * index;
    parts.push(svgElement("line", { class: style, x1: PLOT.left, x2: PLOT.left + 26, y1: y - 4, y2: y - 4 }));
    parts.push(svgElement("text", { x: PLOT.left + 34, y }, text));
  });
  return svgElement("svg", { viewBox: "0 0 416 370", role: "img", "aria-label": `Precision over recall, ${name}` }, ...parts);
}

function showCurves() {
  const chosen = byId("curve-class").value;
  byId("curve-plots").replaceChildren(...kinds.map((kind) => curvePlot(kind, chosen)));
}

function showCurveClasses() {
  const names = report.classes.map((name, index) => [String(index), name])
    .filter(([index]) => kinds.some((kind) => report.kinds[kind].curves[index]))
    .sort((one, other) => one[1].localeCompare(other[1]));
  fillSelect(byId("curve-class"), [["", "all classes"], ...names], "");
  showCurves();
}

// --- confusions ------------------------------------------------------------------------------------------------

const matrix = { canvas: byId("matrix"), labels: [], values: new Map(), rowSums: new Map(), cell: 0, left: 0, top: 0, chosen: null };

function prepareMatrix() {
  const used = new Set([BACKGROUND]);
  for (const [actual, predicted, number] of report.confusions) {
    used.add(actual).add(predicted);
    matrix.values.set(actual * (BACKGROUND + 1) + predicted, number);
    matrix.rowSums.set(actual, (matrix.rowSums.get(actual) || 0) + number);
  }
  matrix.labels = [...used].sort((one, other) => one - other);
}

const confusion = (actual, predicted) => matrix.values.get(actual * (BACKGROUND + 1) + predicted) || 0;

function drawMatrix() {
  const { canvas, labels } = matrix;
  const width = canvas.clientWidth;
  const wide = width >= 500;
  matrix.left = wide ? 96 : 26;
  matrix.cell = Math.min(44, (width - matrix.left - 4) / labels.length);
  matrix.top = matrix.left;
  const height = Math.ceil(matrix.top + matrix.cell * labels.length + 4);
  const ratio = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  context.scale(ratio, ratio);
  labels.forEach((actual, row) => labels.forEach((predicted, column) => {
    const number = confusion(actual, predicted);
    // The square root lifts the rare confusions, which are what one looks for.
    const share = Math.sqrt(number / (matrix.rowSums.get(actual) || 1));
    context.fillStyle = number ? `rgba(${style.getPropertyValue(actual === predicted ? "--heat" : "--heat-wrong")}, ${0.15 + 0.85 * share})`
      : style.getPropertyValue("--bar");
    const gap = matrix.cell > 5 ? 1 : 0.3;
    context.fillRect(matrix.left + column * matrix.cell, matrix.top + row * matrix.cell, matrix.cell - gap, matrix.cell - gap);
  }));
  drawMatrixLabels(context, style, wide);
  if (matrix.chosen) {
    context.strokeStyle = style.getPropertyValue("--ink");
    context.lineWidth = 2;
    context.strokeRect(matrix.left + matrix.chosen[1] * matrix.cell - 1, matrix.top + matrix.chosen[0] * matrix.cell - 1, matrix.cell + 1, matrix.cell + 1);
  }
}

function drawMatrixLabels(context, style, wide) {
  const extent = matrix.cell * matrix.labels.length;
  context.fillStyle = style.getPropertyValue("--muted");
  context.textBaseline = "middle";
  if (wide && matrix.cell >= 7) {
    context.font = `${Math.min(12, matrix.cell + 1)}px system-ui, sans-serif`;
    matrix.labels.forEach((label, place) => {
      const middle = (place + 0.5) * matrix.cell;
      const text = shortened(context, className(label), matrix.left - 24);
      context.textAlign = "right";
      context.fillText(text, matrix.left - 5, matrix.top + middle);
      context.save();
      context.translate(matrix.left + middle, matrix.top - 5);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(text, 0, 0);
      context.restore();
    });
  }
  context.font = "600 12px system-ui, sans-serif";
  context.textAlign = "left";
  context.fillText("predicted →", matrix.left, 8);
  context.save();
  context.translate(8, matrix.top + extent / 2);
  context.rotate(-Math.PI / 2);
  context.textAlign = "center";
  context.fillText("← ground truth", 0, 0);
  context.restore();
}

function shortened(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let length = text.length;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > room) length -= 1;
  return `${text.slice(0, length)}…`;
}

function chooseCell(row, column) {
  matrix.chosen = [row, column];
  const [actual, predicted] = [matrix.labels[row], matrix.labels[column]];
  const number = confusion(actual, predicted);
  const sum = matrix.rowSums.get(actual) || 0;
  const share = sum ? ` (${percent(number / sum)} % of the row)` : "";
  byId("matrix-images").hidden = !cellFilter();
  byId("matrix-cell").value = `${className(actual)} in the ground truth, predicted as ${className(predicted)}: ${number.toLocaleString("en")}${share}`;
  drawMatrix();
}

function cellAt(event) {
  const row = Math.floor((event.offsetY - matrix.top) / matrix.cell);
  const column = Math.floor((event.offsetX - matrix.left) / matrix.cell);
  const last = matrix.labels.length - 1;
  return row >= 0 && column >= 0 && row <= last && column <= last ? [row, column] : null;
}

/** What to show the images of for the chosen cell; null if there are none. */
function cellFilter() {
  if (!matrix.chosen) return null;
  const [actual, predicted] = matrix.chosen.map((place) => matrix.labels[place]);
  if (!confusion(actual, predicted)) return null;
  return actual === predicted ? { label: actual } : { confusion: [actual, predicted] };
}

function showCellImages() {
  if (cellFilter()) showImages(cellFilter());
}

function listenToMatrix() {
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  matrix.canvas.addEventListener("mousemove", (event) => {
    const cell = cellAt(event);
    if (cell && String(cell) !== String(matrix.chosen)) chooseCell(...cell);
  });
  matrix.canvas.addEventListener("click", (event) => {
    const cell = cellAt(event);
    if (!cell) return;
    chooseCell(...cell);
    // A finger has not read yet what it is about to show; the button below is for it.
    if (event.pointerType !== "touch") showCellImages();
  });
  byId("matrix-images").addEventListener("click", showCellImages);
  matrix.canvas.addEventListener("keydown", (event) => {
    if (event.key === "Enter") showCellImages();
    if (!moves[event.key]) return;
    event.preventDefault();
    const last = matrix.labels.length - 1;
    const from = matrix.chosen || [0, -1];
    chooseCell(...from.map((place, axis) => Math.min(last, Math.max(0, place + moves[event.key][axis]))));
  });
}

const MOST_CONFUSIONS = 12;

function showConfusionLists() {
  const lists = [
    ["Taken for another class", (actual, predicted) => actual !== BACKGROUND && predicted !== BACKGROUND,
      (actual, predicted) => `${className(actual)} → ${className(predicted)}`],
    ["Missed", (actual, predicted) => predicted === BACKGROUND, (actual) => className(actual)],
    ["Detected where nothing is annotated", (actual) => actual === BACKGROUND, (actual, predicted) => className(predicted)],
  ];
  byId("confusion-lists").replaceChildren(...lists.flatMap(([title, belongs, text]) => {
    const rows = report.confusions.filter(([actual, predicted]) => actual !== predicted && belongs(actual, predicted))
      .sort((one, other) => other[2] - one[2]).slice(0, MOST_CONFUSIONS);
    const items = rows.map(([actual, predicted, number]) => element("li", {},
      element("button", { type: "button", class: "link", onclick: () => showImages({ confusion: [actual, predicted] }) }, text(actual, predicted)),
      element("span", { class: "value" }, actual === BACKGROUND ? number.toLocaleString("en")
        : `${number.toLocaleString("en")} of ${matrix.rowSums.get(actual).toLocaleString("en")}`)));
    return [element("h3", {}, title), rows.length ? element("ol", {}, ...items) : element("p", { class: "muted" }, "none")];
  }));
}

function showConfusions() {
  const kind = report.has_masks ? "mask" : "box";
  byId("confusion-note").textContent = `Detections with a score of at least ${report.counted_score}, by falling score, each take the free `
    + `ground truth that they overlap most, of whatever class, if the ${kind} IoU is at least ${report.match_iou}. Crowds and detections in `
    + "them do not count. A row is a class of the ground truth, its shades are the square root of the share of the row; the last row "
    + "holds detections where nothing is annotated, the last column objects that were missed.";
  prepareMatrix();
  drawMatrix();
  listenToMatrix();
  showConfusionLists();
}

// --- sizes -----------------------------------------------------------------------------------------------------

function showSizes() {
  const areas = { all: "all", small: "small, below 32²", medium: "medium", large: "large, from 96²" };
  const head = kinds.flatMap((kind) => [`${KIND_NAMES[kind]}, IoU .50`, `${KIND_NAMES[kind]}, .50:.95`]);
  byId("area-table").hidden = !kinds.length;
  fillTable(byId("area-table"), "Recall by COCOeval", ["area (pixels)", ...head], Object.entries(areas).map(([area, text]) => [
    text, ...kinds.flatMap((kind) => report.kinds[kind].recall[area].map((value) => percent(value)))]));
  const { edges, objects, found } = report.sizes;
  fillTable(byId("size-table"), "Found, in finer steps", ["√area (pixels)", "objects", "found", "%", ""], edges.map((edge, index) => [
    index + 1 < edges.length ? `${edge} to ${edges[index + 1]}` : `from ${edge}`, objects[index].toLocaleString("en"),
    found[index].toLocaleString("en"), percent(objects[index] ? found[index] / objects[index] : null),
    bar(objects[index] ? found[index] / objects[index] : 0)]));
  byId("size-note").textContent = "COCOeval: mean over the classes of the highest recall with at most 100 detections per image, of any score. "
    + `Finer steps: an object is found if a detection of its class with a score of at least ${report.counted_score} takes it at an IoU of at `
    + `least ${report.match_iou}, all classes together.`;
}

// --- the page ---------------------------------------------------------------------------------------------------

function showHead() {
  const objects = report.class_objects.reduce((sum, number) => sum + number, 0);
  const parts = [count(report.index.length, "image", "images")];
  if (report.has_ground_truth) parts.push(count(objects, "object", "objects"));
  parts.push(`${count(report.detections, "detection", "detections")} with a score of at least ${report.counted_score}`);
  parts.push(count(report.classes.length, "class", "classes"));
  byId("counts").textContent = parts.join(" · ");
  const sections = [...document.querySelectorAll("main > section:not([hidden])")];
  byId("sections").replaceChildren(...sections.map((section) => element("a", { href: `#${section.id}` },
    section.querySelector("h2").textContent)));
}

function showFigures() {
  const options = kinds.map((kind) => [kind, KIND_NAMES[kind]]);
  for (const id of ["scores", "classes", "curves"]) byId(id).hidden = !kinds.length;
  for (const id of ["confusions", "sizes"]) byId(id).hidden = !report.has_ground_truth;
  showHead();
  if (kinds.length) {
    fillSelect(byId("class-kind"), options);
    showScores();
    showClassBars();
    showCurveClasses();
    byId("class-kind").addEventListener("change", showClassBars);
    byId("class-order").addEventListener("change", showClassBars);
    byId("curve-class").addEventListener("change", showCurves);
  }
  if (report.has_ground_truth) {
    showConfusions();
    showSizes();
    window.addEventListener("resize", drawMatrix);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMatrix);
  }
}

showFigures();
