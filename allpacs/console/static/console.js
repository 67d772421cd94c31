// What every page does: follow the store, submit choices, open dialogs, and notice that a session has ended.

const token = document.querySelector('meta[name="csrf"]').content;

/** Ask our server; a session that has ended is told to the reader, and to the caller by null. */
export async function ask(address, options = {}) {
  const headers = { Accept: "application/json", "X-CSRF-Token": token, ...options.headers };
  const answer = await fetch(address, { ...options, headers, credentials: "same-origin", redirect: "error" });
  if (answer.status === 401) {
    sessionEnded();
    return null;
  }
  return answer;
}

export function sessionEnded() {
  const dialog = document.getElementById("session-ended");
  if (!dialog.open) dialog.showModal();
}

document.body.addEventListener("htmx:responseError", (event) => {
  if (event.detail.xhr.status === 401) sessionEnded();
});

// An answer that refuses (another person was quicker, a text is too long, the page is of another session) is shown.
document.body.addEventListener("htmx:beforeSwap", (event) => {
  const status = event.detail.xhr.status;
  if (status === 403 || status === 409 || status === 422) {
    const page = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
    const fault = page.querySelector(".fault");
    if (!fault) return;
    event.detail.shouldSwap = false;
    let shown = event.detail.target.querySelector(":scope > .fault");
    if (!shown) {
      shown = document.createElement("p");
      shown.className = "fault";
      shown.setAttribute("role", "alert");
      event.detail.target.append(shown);
    }
    shown.textContent = fault.textContent;
  }
});

// A browser opens six connections to a server at most: a page that nobody sees gives its own back.
for (const element of document.querySelectorAll("[data-live]")) {
  const study = element.dataset.live;
  let { stamp } = element.dataset;
  let source = null;
  const follow = () => {
    source?.close();
    source = null;
    if (document.hidden) return;
    source = new EventSource(`/events?${new URLSearchParams({ study, stamp })}`);
    source.addEventListener("watching", (event) => (stamp = event.data));
    source.addEventListener("changed", (event) => {
      stamp = event.data;
      if ("liveReload" in element.dataset) {
        location.reload();
        return;
      }
      if (!study) {
        element.setAttribute("hx-get", location.pathname + location.search); // filters change the address
        window.htmx?.process(element);
      }
      element.dispatchEvent(new CustomEvent("changed-in-store"));
    });
  };
  // Not before htmx listens for what is dispatched: a change that is told at once would be lost.
  if (document.readyState === "complete") follow();
  else document.addEventListener("DOMContentLoaded", () => setTimeout(follow));
  document.addEventListener("visibilitychange", follow);
  addEventListener("pagehide", () => source?.close());
}

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-open]");
  if (opener) document.getElementById(opener.dataset.open).showModal();
  if (event.target.closest("[data-close]")) event.target.closest("dialog").close();
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});

// The address that is printed at start carries the token behind the #, which no server sees.
function takeToken() {
  const form = document.getElementById("token-form");
  if (!form || location.hash.length < 2) return;
  form.elements.token.value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname + location.search);
  form.requestSubmit();
}
addEventListener("hashchange", takeToken);
takeToken();
