"use strict";
// What is drawn of the images: in the page itself, or loaded from data/part_*.js beside it.

const KEPT_PARTS = 40;
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
