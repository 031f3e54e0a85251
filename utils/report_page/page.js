"use strict";
// Starts the page, once all the other scripts are there.

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
prepareFilters();
prepareDrawing();
prepareViewer();
applyFilters();
