// A field or slide with the outlines of its cells: pan and zoom by moving the view box.

import { ask } from "./console.js";

const SVG = "http://www.w3.org/2000/svg";
const dialog = document.getElementById("field");
const drawing = dialog?.querySelector("svg");
let whole = null; // [width, height] of the field, pixels
let view = null; // [x, y, width, height] of what is shown
let choose = () => {};

export async function openField(address, cellUid, onChoose) {
  const answer = await ask(address);
  if (!answer?.ok) return;
  const field = await answer.json();
  choose = onChoose;
  whole = [field.width, field.height];
  drawing.replaceChildren();
  const picture = document.createElementNS(SVG, "image");
  picture.setAttribute("href", `${address}.jpg`);
  picture.setAttribute("width", field.width);
  picture.setAttribute("height", field.height);
  drawing.append(picture);
  for (const cell of field.cells) {
    const outline = document.createElementNS(SVG, "polygon");
    outline.setAttribute("points", cell.outline.map((point) => point.join(",")).join(" "));
    outline.setAttribute("class", `outline ${{ ALL: "all", HEM: "hem" }[cell.label] ?? "none"}`);
    outline.classList.toggle("chosen", cell.cell === cellUid);
    outline.dataset.uid = cell.cell;
    drawing.append(outline);
  }
  look(0, 0, ...whole);
  dialog.showModal();
  drawing.focus();
}

function look(x, y, width, height) {
  view = [x, y, width, height];
  drawing.setAttribute("viewBox", view.join(" "));
}

/** Zoom by a factor; the point (in pixels of the field) stays where it is. */
function zoom(factor, point = [view[0] + view[2] / 2, view[1] + view[3] / 2]) {
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
    for (const one of drawing.querySelectorAll(".chosen")) one.classList.remove("chosen");
    event.target.classList.add("chosen");
    choose(event.target.dataset.uid);
  });
  const step = (x, y) => look(view[0] + x * view[2] * 0.15, view[1] + y * view[3] * 0.15, view[2], view[3]);
  const keys = {
    "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: () => look(0, 0, ...whole),
    ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
    f: () => dialog.close(),
  };
  dialog.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (!act || event.target.closest("button")) return;
    event.preventDefault();
    act();
  });
  const zooms = { in: keys["+"], out: keys["-"], all: keys[0] };
  for (const button of dialog.querySelectorAll("[data-zoom]"))
    button.addEventListener("click", () => zooms[button.dataset.zoom]());
}
