// Buttons with data-once work once, until their page is left.
"use strict";

document.addEventListener("submit", (event) => {
  const button = event.submitter;
  if (!button || !("once" in button.dataset)) {
    return;
  }
  if (button.dataset.once) {
    event.preventDefault();
  }
  button.dataset.once = "pressed";
  // After the browser has gathered the form's data: a disabled button would not be sent.
  setTimeout(() => (button.disabled = true));
});

// The page may come back from the browser's memory, as it was left.
window.addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("[data-once]")) {
    button.disabled = false;
    button.dataset.once = "";
  }
});
