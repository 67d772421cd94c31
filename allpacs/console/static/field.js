// A field or slide with the outlines of its cells: pan and zoom by moving the view box.

import { ask } from "./console.js";

const SVG = "http://www.w3.org/2000/svg";
const dialog = document.getElementById("field");
const drawing = dialog?.querySelector("svg");
let whole = null; // [width, height] of the field, pixels
let view = null; // [x, y, width, height] of what is shown
let base = ""; // address of the fields of a report
let here = null; // what the server says of the field that is shown
let acts = { choose: () => {}, press: () => [] };

const kind = (label) => ({ ALL: "all", HEM: "hem" })[label] ?? "none";

/**
 * Show a field.
 * @param {string} address Of the fields of a report.
 * @param {string} which SOP Instance UID and frame number.
 * @param {{choose: function(string), press: function(string, string)}} actions Select a cell; press a key of the gallery.
 */
export async function openField(address, which, cellUid, actions) {
  base = address;
  acts = actions;
  await load(which, cellUid);
}

async function load(which, cellUid) {
  const answer = await ask(base + which);
  if (!answer?.ok) return;
  here = await answer.json();
  whole = [here.width, here.height];
  drawing.replaceChildren();
  const picture = document.createElementNS(SVG, "image");
  picture.setAttribute("href", `${base}${which}.jpg`);
  picture.setAttribute("width", here.width);
  picture.setAttribute("height", here.height);
  drawing.append(picture);
  for (const cell of here.cells) {
    const outline = document.createElementNS(SVG, "polygon");
    outline.setAttribute("points", cell.outline.map((point) => point.join(",")).join(" "));
    outline.setAttribute("class", `outline ${kind(cell.label)}`);
    outline.dataset.uid = cell.cell;
    drawing.append(outline);
  }
  mark(cellUid);
  document.getElementById("field-number").textContent = here.fields ? `${here.field} / ${here.fields}` : "";
  for (const button of dialog.querySelectorAll("[data-go]")) button.disabled = !here[button.dataset.go];
  if (!dialog.open) dialog.showModal();
  look(0, 0, ...whole);
  drawing.focus();
}

/** Show which cell is selected. */
function mark(cellUid) {
  for (const one of drawing.querySelectorAll(".outline")) one.classList.toggle("chosen", one.dataset.uid === cellUid);
}

/** Go to the field before or after, and select its first cell. */
async function go(where) {
  if (!here?.[where]) return;
  await load(here[where], null);
  const first = here.cells[0]?.cell;
  if (!first) return;
  mark(first);
  acts.choose(first);
}

/** Decide about the selected cell as in the gallery, and go on to the next cell of this field. */
async function press(key) {
  const chosen = drawing.querySelector(".chosen")?.dataset.uid;
  const back = key === "u" || key === "r";
  if (!chosen && !back) return;
  const cells = acts.press(key, chosen);
  for (const one of cells) {
    const outline = drawing.querySelector(`[data-uid="${CSS.escape(one.cell)}"]`);
    outline?.classList.remove("all", "hem", "none");
    outline?.classList.add(kind(one.label));
  }
  if (!cells.length) return;
  if (back) {
    const { cell, field } = cells.at(-1);
    if (here.cells.some((one) => one.cell === cell)) mark(cell);
    else await load(field, cell); // what was taken back is shown
    return;
  }
  const place = here.cells.findIndex((one) => one.cell === chosen);
  const next = (here.cells[place + 1] ?? here.cells[place]).cell;
  mark(next);
  acts.choose(next);
}

function look(x, y, width, height) {
  view = [x, y, width, height];
  drawing.setAttribute("viewBox", view.join(" "));
  const scale = document.getElementById("field-scale");
  const pixel = drawing.getScreenCTM()?.a; // pixels of the screen to one of the field
  scale.hidden = !here?.spacing_um || !pixel;
  if (scale.hidden) return;
  const length = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((um) => (um / here.spacing_um) * pixel >= 60) ?? 2000;
  scale.textContent = `${length} µm`;
  scale.style.width = `${(length / here.spacing_um) * pixel}px`;
}

/** Return the middle of the selected cell, or of the view: what a key zooms to. */
function middle() {
  const chosen = drawing.querySelector(".chosen")?.getBBox();
  if (chosen) return [chosen.x + chosen.width / 2, chosen.y + chosen.height / 2];
  return [view[0] + view[2] / 2, view[1] + view[3] / 2];
}

/** Zoom by a factor; the point (in pixels of the field) stays where it is. */
function zoom(factor, point = middle()) {
  const width = Math.min(whole[0] * 2, Math.max(24, view[2] / factor));
  const share = width / view[2];
  look(point[0] - (point[0] - view[0]) * share, point[1] - (point[1] - view[1]) * share, width, view[3] * share);
}

/** Return where in the field a pointer is, and how many pixels of the field one of the screen is. */
function place(event) {
  const matrix = drawing.getScreenCTM().inverse();
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
  return [[point.x, point.y], matrix.a];
}

if (drawing) {
  const pointers = new Map();
  let moved = false;
  drawing.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), place(event)[0]);
  }, { passive: false });
  drawing.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    moved = false;
  });
  drawing.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    if (Math.hypot(now[0] - before[0], now[1] - before[1]) < 2 && !moved) return;
    moved = true;
    drawing.setPointerCapture(event.pointerId);
    const scale = place(event)[1];
    if (pointers.size === 1) look(view[0] - (now[0] - before[0]) * scale, view[1] - (now[1] - before[1]) * scale, view[2], view[3]);
    else {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const spread = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
      if (spread(before) > 0) zoom(spread(now) / spread(before));
    }
    pointers.set(event.pointerId, now);
  });
  for (const end of ["pointerup", "pointercancel"]) drawing.addEventListener(end, (event) => pointers.delete(event.pointerId));
  drawing.addEventListener("click", (event) => {
    if (moved || !event.target.dataset.uid) return;
    mark(event.target.dataset.uid);
    acts.choose(event.target.dataset.uid);
  });
  const step = (x, y) => look(view[0] + x * view[2] * 0.15, view[1] + y * view[3] * 0.15, view[2], view[3]);
  const keys = {
    "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: () => look(0, 0, ...whole),
    ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
    f: () => dialog.close(),
    "[": () => go("previous"), "]": () => go("next"), PageUp: () => go("previous"), PageDown: () => go("next"),
    a: () => press("a"), h: () => press("h"), x: () => press("x"), u: () => press("u"), r: () => press("r"),
    Enter: () => press("Enter"),
  };
  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = keys[event.key] ?? keys[{ KeyA: "a", KeyH: "h", KeyX: "x", KeyU: "u", KeyR: "r", KeyF: "f" }[event.code]];
    if (!act || event.target.closest("button")) return;
    event.preventDefault();
    act();
  });
  for (const button of dialog.querySelectorAll("[data-go]"))
    button.addEventListener("click", () => go(button.dataset.go));
  const zooms = { in: keys["+"], out: keys["-"], all: keys[0] };
  for (const button of dialog.querySelectorAll("[data-zoom]"))
    button.addEventListener("click", () => zooms[button.dataset.zoom]());
}
