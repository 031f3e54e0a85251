"use strict";
// The enlarged view of one image.

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
