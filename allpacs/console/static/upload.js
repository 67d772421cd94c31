// Uploads: the token goes in a header, so that the server can refuse before it reads; progress is shown.

import { sessionEnded } from "./console.js";

const form = document.getElementById("upload");
const files = document.getElementById("files");
const progress = document.getElementById("progress");
const fault = document.getElementById("upload-fault");
const drop = form.querySelector(".drop");

for (const kind of ["dragenter", "dragover"])
  drop.addEventListener(kind, (event) => (event.preventDefault(), drop.classList.add("over")));
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  files.files = event.dataTransfer.files;
  files.dispatchEvent(new Event("change"));
});
files.addEventListener("change", () => {
  const bytes = [...files.files].reduce((sum, file) => sum + file.size, 0);
  document.getElementById("chosen").textContent = `${files.files.length} · ${(bytes / 1e6).toFixed(1)} MB`;
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const button = form.querySelector("button.primary");
  const request = new XMLHttpRequest();
  request.open("POST", form.action);
  request.setRequestHeader("X-CSRF-Token", document.querySelector('meta[name="csrf"]').content);
  request.setRequestHeader("Accept", "text/html");
  request.upload.addEventListener("progress", (now) => (progress.value = (100 * now.loaded) / now.total));
  const end = (text) => {
    button.disabled = false;
    progress.hidden = true;
    fault.textContent = text;
  };
  request.addEventListener("error", () => end("⚠ " + (request.statusText || "network")));
  request.addEventListener("load", () => {
    if (request.status === 401) return end(""), sessionEnded();
    const page = new DOMParser().parseFromString(request.responseText, "text/html");
    const done = page.getElementById("uploaded");
    if (done) document.querySelector("main").replaceChildren(done);
    else end(page.querySelector(".fault")?.textContent ?? String(request.status));
  });
  button.disabled = true;
  progress.hidden = false;
  fault.textContent = "";
  request.send(new FormData(form));
});
