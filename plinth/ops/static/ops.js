// What HTML cannot do by itself: times in the reader's zone, one tick for many, and a stop while nothing is looked at.
"use strict";

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
// As the server writes them, in UTC: year first, 24 hours.
const local = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });

function showTimes() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    time.title = `${at.toISOString()} (UTC)`;
    time.textContent = local.format(at);
  }
}

function showContact(there) {
  const said = there ? "" : "No contact with the service: what you see is not of now.";
  const place = document.getElementById("contact");
  if (place.textContent !== said) place.textContent = said; // a change is read aloud
}

// Without this script it would do nothing.
for (const box of document.querySelectorAll("[data-ticks]")) box.closest("label").hidden = false;

document.addEventListener("change", (event) => {
  const name = event.target.dataset.ticks;
  if (name) {
    for (const box of event.target.form.querySelectorAll(`input[type=checkbox][name=${name}]`)) {
      box.checked = event.target.checked;
    }
  }
});

// A second click sends no form again: it would run a schedule twice, or be told that nothing is left to change.
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("[data-sent]")) delete form.dataset.sent;
});

// A page that nothing shows asks for nothing.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden) event.preventDefault();
});
// What the reader has opened stays open.
let opened = [];
document.addEventListener("htmx:beforeSwap", () => {
  opened = [...document.querySelectorAll("details[open][id]")].map((details) => details.id);
});
document.addEventListener("htmx:afterSwap", () => {
  for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
  showTimes();
});
document.addEventListener("htmx:afterRequest", (event) => {
  // The job has been deleted, or the reader may not look any more: the page itself says so.
  if ([403, 404].includes(event.detail.xhr.status)) location.reload();
  showContact(event.detail.successful);
});

document.getElementById("zone").textContent = `Times are in ${zone}.`;
showTimes();
