"use strict";
// Follows a package whose bytes are being read, and shows its page anew once that has ended.

const LOOK_AGAIN = 2000; // milliseconds

const checking = document.querySelector("[data-package-state]");
const form = document.querySelector("#firmwarepackage_form");
const typed = () => new URLSearchParams(new FormData(form)).toString();
const untouched = checking && form && typed();

async function hasEnded() {
  try {
    const reply = await fetch(checking.dataset.packageState, { redirect: "manual" });
    if (reply.status !== 200) return reply.status !== 0 && reply.status < 500; // 404: deleted
    return (await reply.json()).state !== "checking";
  } catch {
    return false; // the server is away, or the page is being left
  }
}

async function follow() {
  if (!(await hasEnded())) {
    setTimeout(follow, LOOK_AGAIN);
  } else if (!form || typed() === untouched) {
    location.reload();
  } else {
    checking.querySelector("[data-package-ended]").hidden = false;
  }
}

if (checking) setTimeout(follow, LOOK_AGAIN);
