// Asks for the page again and puts what is new into the place of what was there.
"use strict";

const PAUSE = 2000; // in ms, and longer where the page takes long to make: training comes first
let tag = null;

function carryOver(before, after) {
  const were = before.querySelectorAll("details");
  after.querySelectorAll("details").forEach((one, i) => { if (were[i]) one.open = were[i].open; });
}

function show(page) {
  const before = document.querySelector("main");
  const after = document.adoptNode(page.querySelector("main"));
  const scrolled = [...before.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
  const focused = document.activeElement.getAttribute("href");
  carryOver(before, after);
  document.title = page.title;
  const [old, fresh] = [[...before.children], [...after.children]];
  if (old.length !== fresh.length) before.replaceChildren(...fresh);
  else old.forEach((part, i) => { if (!part.isEqualNode(fresh[i])) part.replaceWith(fresh[i]); });
  document.querySelectorAll("main .scroll").forEach((box, i) => { box.scrollLeft = scrolled[i] ?? 0; });
  const link = [...document.links].find((one) => one.getAttribute("href") === focused);
  if (focused !== null && link !== document.activeElement) link?.focus({ preventScroll: true });
}

async function look() {
  const began = performance.now();
  try {
    if (!document.hidden) {
      const headers = tag ? { "If-None-Match": tag } : {};
      const answer = await fetch(location.pathname, { headers, cache: "no-store" });
      if (answer.status === 200) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        tag = answer.headers.get("ETag");
        show(page);
      }
      document.querySelector(".lost").hidden = answer.status === 200 || answer.status === 304;
    }
  } catch {
    document.querySelector(".lost").hidden = false;
  }
  setTimeout(look, Math.max(PAUSE, 5 * (performance.now() - began)));
}

setTimeout(look, PAUSE);
