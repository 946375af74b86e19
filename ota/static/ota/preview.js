// The preview of a rollout follows its choices, and its button works once.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("rollout-form");
  const update = form.querySelector('button[value="preview"]');

  for (const field of form.querySelectorAll("[data-decisive]")) {
    field.addEventListener("change", () => form.requestSubmit(update));
  }

  // After the browser has gathered the form's data: a disabled button would not be sent.
  form.addEventListener("submit", (event) => {
    if (event.submitter && "once" in event.submitter.dataset) {
      setTimeout(() => (event.submitter.disabled = true));
    }
  });

  // The page may come back from the browser's memory, as it was left.
  window.addEventListener("pageshow", () => {
    for (const button of form.querySelectorAll("[data-once]")) button.disabled = false;
  });
});
