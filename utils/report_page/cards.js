"use strict";
// The images: order and filters, and cards that are made as one scrolls.

// Columns of report.index.
const [POSITION, NAME, QUALITY, POSITIVES, FALSE, MISSED, CLASSES, CONFUSIONS] = Array(8).keys();
const CARDS_PER_PORTION = 24;

const filter = { confusion: null };
let chosenRanks = [];

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
