// The gallery by keyboard: move, decide, and keep every decision until the server has it.
//
// Decisions are shown at once and sent in the background, a few together. Until the server has answered they wait in
// this tab's session storage (cell identifiers and classes only): a lost connection or an ended session loses nothing.
// They are kept by who made them: whoever else signs in in this tab neither sees nor sends nor loses them.

import { ask } from "./console.js";
import { openField } from "./field.js";
import { DecisionHistory } from "./history.js";

const desk = document.querySelector(".desk[data-path]");
const gallery = document.getElementById("cells");
const words = document.getElementById("words")?.dataset;

if (desk && gallery) start();

function start() {
  const path = desk.dataset.path;
  const may = desk.dataset.may === "yes";
  const kept = `allpacs-unsaved:${desk.dataset.person}:${path}`;
  const names = {
    ALL: document.querySelector("[data-decide=ALL]")?.lastChild.textContent,
    HEM: document.querySelector("[data-decide=HEM]")?.lastChild.textContent,
  };
  let current = null;
  let overlay = false;
  let outline = localStorage.getItem("allpacs-outline") === "yes";
  const waiting = new Map(JSON.parse(sessionStorage.getItem(kept) ?? "[]"));
  const before = new Map(); // what the server has of the cells whose decisions wait: shown again where it refuses them
  const past = new DecisionHistory(`allpacs-undo:${desk.dataset.person}:${path}`);
  let sending = false;
  let held = null; // what was pressed while the next part of the gallery is on its way

  const all = () => [...gallery.querySelectorAll(".cell")];
  const find = (uid) => gallery.querySelector(`.cell[data-uid="${CSS.escape(uid)}"]`);
  const saving = document.getElementById("saving");

  // ------------------------------------------------------------------------------------------------ selection

  function select(cell, focus = true) {
    if (!cell) return;
    if (current) {
      current.removeAttribute("aria-current");
      current.tabIndex = -1;
    }
    current = cell;
    cell.setAttribute("aria-current", "true");
    cell.tabIndex = 0;
    if (focus) cell.focus({ preventScroll: true });
    cell.scrollIntoView({ block: "nearest" });
    show(cell);
    const cells = all();
    const place = cells.indexOf(cell);
    for (const next of cells.slice(place + 1, place + 4)) new Image().src = large(next);
    if (place > cells.length - 30) {
      const more = gallery.querySelector(".more");
      if (more) window.htmx?.trigger(more, "wanted");
    }
  }

  const large = (cell) => `${path}/cells/${cell.dataset.uid}.jpg?side=448${outline ? "&outline=yes" : ""}`;

  function showOutline() {
    document.querySelector("[data-view=outline]").setAttribute("aria-pressed", String(outline));
    if (current) document.getElementById("cell-picture").src = large(current);
  }

  function show(cell) {
    const { label, model, percent, place, decision, given, by } = cell.dataset;
    const picture = document.getElementById("cell-picture");
    picture.src = large(cell);
    const scale = document.getElementById("cell-scale"); // 10 µm long
    scale.hidden = !cell.dataset.across;
    if (cell.dataset.across) scale.style.width = `${1000 / Number(cell.dataset.across)}%`;
    showOverlay();
    const outcome = document.getElementById("cell-outcome");
    const after = decision === "relabelled" ? given : decision === "excluded" ? "" : label;
    outcome.className = `outcome ${{ ALL: "all", HEM: "hem" }[after] ?? "none"}`;
    outcome.textContent = decision === "excluded" ? words.excluded : (names[after] ?? model);
    document.getElementById("cell-model").textContent = `${words.model}: ${model}${percent ? ` · ${percent}` : ""}`;
    document.getElementById("cell-place").textContent = [place, cell.dataset.size, by].filter(Boolean).join(" · ");
    for (const one of document.querySelectorAll("[data-decide]")) {
      const mine = decision === "relabelled" ? given : decision;
      if (one.dataset.decide !== "clear") one.setAttribute("aria-pressed", String(one.dataset.decide === mine));
    }
  }

  function showOverlay() {
    const picture = document.getElementById("cell-overlay");
    document.querySelector("[data-view=overlay]").setAttribute("aria-pressed", String(overlay));
    picture.hidden = true;
    if (!overlay) return;
    picture.src = `${path}/cells/${current.dataset.uid}.activation.png`;
    if (!picture.complete) say(words.overlayLoading, ""); // the first of them loads the model
  }
  document.getElementById("cell-overlay").addEventListener("load", (event) => {
    event.target.hidden = !overlay;
    if (saving.textContent === words.overlayLoading) say("", "");
  });
  document.getElementById("cell-overlay").addEventListener("error", (event) => {
    event.target.hidden = true;
    if (overlay) say(words.overlayMissing, "");
  });

  const labelOf = ({ dataset: { decision, given, label } }) =>
    decision === "relabelled" ? given : decision === "excluded" ? "" : label;

  function move(columns, rows) {
    const cells = all();
    const place = cells.indexOf(current);
    const across = getComputedStyle(gallery).gridTemplateColumns.split(" ").length;
    const wanted = Math.max(0, Math.min(cells.length - 1, place + columns + rows * across));
    select(cells[wanted]);
  }

  // ------------------------------------------------------------------------------------------------ decisions

  function decide(what) {
    if (!may || !current) return;
    const { label } = current.dataset;
    let decision = what;
    let given = null;
    if (what === "clear") decision = null;
    else if (what === label) decision = "accepted";
    else if (what === "ALL" || what === "HEM") [decision, given] = ["relabelled", what];
    const { uid, decision: had, given: hadLabel, version } = current.dataset;
    const from = { decision: had || null, label: hadLabel || null };
    past.add({ uid, from, to: { decision, label: given }, seen: Number(version) });
    put(uid, { decision, label: given }, Number(version));
    if (what === "clear") show(current);
    else {
      const cells = all();
      const next = cells[cells.indexOf(current) + 1];
      if (next) select(next);
      else {
        show(current);
        const more = gallery.querySelector(".more");
        if (more) {
          held = []; // the next key is meant for a cell that is not here yet
          window.htmx?.trigger(more, "wanted");
        }
      }
    }
  }

  /** Keep a decision and send it; the cell may be one that the gallery does not show. */
  function put(uid, { decision, label }, seen) {
    const made = { decision, label, seen };
    waiting.set(uid, made);
    const cell = find(uid);
    if (cell) showWaiting(cell, made);
    keep();
    send();
    showPast();
  }

  /** Take back the last decision, or make it again, wherever its cell is. */
  function turn(direction) {
    if (!may) return;
    if (direction === "undo" && held?.length) return void held.pop(); // pressed, and not decided yet
    held = null; // the next part of the gallery is no longer waited for
    const step = direction === "undo" ? past.undo() : past.redo();
    if (!step) return;
    put(step.uid, direction === "undo" ? step.from : step.to, past.versions[step.uid] ?? step.seen);
    const cell = find(step.uid);
    if (cell) select(cell);
    say(direction === "undo" ? words.undone : words.redone, "");
  }

  function showPast() {
    for (const button of document.querySelectorAll("[data-undo]"))
      button.disabled = !may || !past[button.dataset.undo === "undo" ? "canUndo" : "canRedo"];
  }
  for (const button of document.querySelectorAll("[data-undo]"))
    button.addEventListener("click", () => turn(button.dataset.undo));

  document.body.addEventListener("htmx:afterSettle", () => {
    const cells = all();
    const next = cells[cells.indexOf(current) + 1];
    if (!held || !next) return;
    const pressed = held;
    held = null;
    select(next);
    for (const act of pressed) held ? held.push(act) : act();
  });
  document.body.addEventListener("htmx:afterRequest", (event) => {
    const more = gallery.querySelector(".more");
    if (held && more && !event.detail.successful) setTimeout(() => window.htmx?.trigger(more, "wanted"), 1000);
  });

  function mark(cell, { decision, label, by }) {
    const { label: model } = cell.dataset;
    const after = decision === "relabelled" ? label : decision === "excluded" ? "" : model;
    cell.dataset.decision = decision ?? "";
    cell.dataset.given = label ?? "";
    cell.dataset.by = by ?? "";
    cell.classList.remove("accepted", "relabelled", "excluded", "all", "hem", "none");
    if (decision) cell.classList.add(decision);
    cell.classList.add({ ALL: "all", HEM: "hem" }[after] ?? "none");
    cell.querySelector(".mark").textContent = { ALL: "A", HEM: "H" }[after] ?? "–";
  }

  function showWaiting(cell, { decision, label }) {
    const { uid, decision: had, given, by } = cell.dataset;
    if (!before.has(uid)) before.set(uid, { decision: had || null, label: given || null, by });
    mark(cell, { decision, label, by: "" });
    cell.classList.add("unsaved");
  }

  function settle(uid, one) {
    waiting.delete(uid);
    before.delete(uid);
    const cell = find(uid);
    if (!cell) return;
    cell.classList.remove("unsaved");
    if (one) mark(cell, one);
    if (cell === current) show(cell);
  }

  function keep() {
    if (waiting.size) sessionStorage.setItem(kept, JSON.stringify([...waiting]));
    else sessionStorage.removeItem(kept);
  }

  function say(text, kind) {
    saving.textContent = text;
    saving.className = `saving ${kind}`;
  }

  async function send(again = 500) {
    if (sending || !waiting.size) return;
    sending = true;
    const sent = [...waiting].slice(0, 200);
    say(words.saving, "");
    let answer;
    let told = null; // stays so where a page for people answers, the console's own or a proxy's
    try {
      const decisions = sent.map(([cell, one]) => ({ cell, ...one }));
      answer = await ask(`${path}/decisions`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ decisions }),
      });
      if (answer?.headers.get("Content-Type")?.startsWith("application/json")) told = await answer.json();
    } catch {
      answer = undefined; // the network: try again
    }
    sending = false;
    if (answer === undefined || answer?.status >= 500 || (answer?.ok && !told)) {
      say(`${words.waiting} (${waiting.size})`, "waiting");
      setTimeout(() => send(Math.min(again * 2, 15000)), again);
      return;
    }
    if (!told || answer.status === 403) {
      // Nobody has judged these decisions: the session has ended or is another one, or a role was taken. They stay.
      const why = !told && answer?.status === 403 ? `: ${words.notAllowed}` : "";
      say(`${words.unsaved} (${waiting.size})${why}`, "waiting");
      const dialog = document.getElementById("other-session");
      if (told && !dialog.open) dialog.showModal();
      return;
    }
    if (!answer.ok) {
      for (const [uid, one] of sent) {
        if (waiting.get(uid) === one) settle(uid, before.get(uid));
        past.forget(uid); // a decision that was refused cannot be made again
      }
      keep();
      showPast();
      say(`${words.refused}: ${told.error}`, "bad");
      if (waiting.size) send();
      return;
    }
    for (const one of [...told.kept, ...told.conflicts]) {
      const cell = find(one.cell);
      const newer = waiting.get(one.cell);
      const mine = sent.find(([uid]) => uid === one.cell)?.[1];
      if (cell) cell.dataset.version = one.version;
      past.saved(one.cell, one.version);
      if (newer && newer !== mine) {
        newer.seen = one.version; // decided again while this was under way
        before.set(one.cell, one);
      } else settle(one.cell, one);
    }
    keep();
    for (const one of told.conflicts) past.forget(one.cell); // what another person decided stays
    showPast();
    if (told.conflicts.length) {
      say(words.conflict.replace("%s", told.conflicts[0].by), "bad");
      select(find(told.conflicts[0].cell));
    } else say(words.saved, "");
    document.getElementById("status")?.dispatchEvent(new CustomEvent("decided"));
    if (waiting.size) send();
  }

  // ----------------------------------------------------------------------------------------------------- keys

  const rightIsNext = getComputedStyle(document.documentElement).direction === "ltr" ? 1 : -1;
  const keys = {
    ArrowRight: () => move(rightIsNext, 0),
    ArrowLeft: () => move(-rightIsNext, 0),
    ArrowDown: () => move(0, 1),
    ArrowUp: () => move(0, -1),
    Home: () => select(all()[0]),
    End: () => select(all().at(-1)),
    a: () => decide("ALL"),
    h: () => decide("HEM"),
    x: () => decide("excluded"),
    u: () => turn("undo"),
    r: () => turn("redo"),
    Delete: () => decide("clear"),
    Backspace: () => decide("clear"),
    Enter: () => decide("accepted"),
    n: () => select(all().find((cell) => !cell.dataset.decision)),
    f: () => field(),
    o: () => ((overlay = !overlay), showOverlay()),
    l: () => {
      outline = !outline;
      localStorage.setItem("allpacs-outline", outline ? "yes" : "");
      showOutline();
    },
    "?": () => document.getElementById("keys").showModal(),
  };
  // By the place of the key where the letter is of another script: an Arabic keyboard works the same.
  const letters = { KeyA: "a", KeyH: "h", KeyX: "x", KeyU: "u", KeyR: "r", KeyL: "l", KeyN: "n", KeyF: "f", KeyO: "o" };

  document.addEventListener("keydown", (event) => {
    if (event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest("input, textarea, select, summary, a")) return;
    if (event.ctrlKey || event.metaKey) {
      const direction = { KeyZ: event.shiftKey ? "redo" : "undo", KeyY: "redo" }[event.code];
      if (!direction) return;
      event.preventDefault();
      turn(direction);
      return;
    }
    const latin = /^[a-z?]$/i.test(event.key) || event.key.length > 1;
    const key = latin ? (event.key.length === 1 ? event.key.toLowerCase() : event.key) : letters[event.code];
    if (event.key === "Enter" && event.target.closest("button:not(.cell)")) return;
    const act = keys[key];
    if (!act) return;
    event.preventDefault();
    if (held && act !== keys.u && act !== keys.r) held.push(act);
    else act();
  });

  gallery.addEventListener("click", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) select(cell);
  });
  gallery.addEventListener("dblclick", (event) => event.target.closest(".cell") && field());
  for (const button of document.querySelectorAll("[data-decide]"))
    button.addEventListener("click", () => decide(button.dataset.decide));
  document.querySelector("[data-view=field]").addEventListener("click", field);
  document.querySelector("[data-view=overlay]").addEventListener("click", keys.o);
  document.querySelector("[data-view=outline]").addEventListener("click", keys.l);
  showOutline();

  function field() {
    const [uid, frame] = current.dataset.field.split("/");
    openField(`${path}/fields/`, `${uid}/${frame}`, current.dataset.uid, {
      choose: (chosen) => select(find(chosen), false),
      // Decide inside the field, stay in it, and say what the cell is now.
      press: (key, chosen) => {
        if (key !== "u" && key !== "r") {
          if (!find(chosen)) return []; // the gallery has not loaded it, or its filter leaves it out
          select(find(chosen), false);
        }
        const before = current;
        keys[key]();
        return [before, current].map((cell) => ({ cell: cell.dataset.uid, label: labelOf(cell), field: cell.dataset.field }));
      },
    });
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-sign-off]") && waiting.size) {
      event.preventDefault();
      say(`${words.waiting} (${waiting.size})`, "waiting");
      send();
    }
  });

  for (const [uid, one] of waiting) {
    const cell = find(uid);
    if (cell) showWaiting(cell, one);
  }
  select(all()[0], false);
  showPast();
  send();
}
