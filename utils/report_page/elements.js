"use strict";
// What the other scripts are made with. Every text of the data reaches the page as a text node, never as HTML.

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

function shortened(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let length = text.length;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > room) length -= 1;
  return `${text.slice(0, length)}…`;
}
