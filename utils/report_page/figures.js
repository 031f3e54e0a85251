"use strict";
// Tables and curves: average precision, precision over recall, recall by size.

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
