"use strict";
// The confusion matrix and the most frequent confusions.

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
