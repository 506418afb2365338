"use strict";
// Refreshes the page in place: what is read, focused or unfolded stays so. Without it the page is
// the same, and its link loads it again.
(() => {
  const EVERY = 5000, TIMEOUT = 20000;
  const pause = document.getElementById("pause"), live = document.getElementById("live");

  function morph(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
      old.replaceWith(fresh);
    } else if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
    } else {
      attributes(old, fresh);
      const was = [...old.childNodes], is = [...fresh.childNodes];
      is.forEach((node, n) => (n < was.length ? morph(was[n], node) : old.append(node)));
      was.slice(is.length).forEach((node) => node.remove());
    }
  }

  function attributes(old, fresh) {
    const kept = (name) => name === "open" && old.nodeName === "DETAILS";
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !kept(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (!kept(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
  }

  function say(text) {
    if (live.textContent !== text) live.textContent = text;
  }

  async function refresh() {
    const options = { cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(TIMEOUT) };
    const response = await fetch("./", options);
    if (!response.ok) throw new Error(`status ${response.status}`);
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const part of ["main", "#status", ".about", "title", "link[rel=icon]"]) {
      const old = document.querySelector(part), now = fresh.querySelector(part);
      if (old && now) morph(old, now);
    }
  }

  let paused = false;
  async function turn() {
    if (!paused && !document.hidden) {
      try {
        await refresh();
        say("");
      } catch {
        say("No response from the daemon: this is its last state.");
      }
    }
    setTimeout(turn, EVERY);
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
  });
  setTimeout(turn, EVERY);
})();
