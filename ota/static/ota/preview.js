// The preview of a rollout follows its choices, and gives the focus back to the one that was made.
"use strict";

const CHOSEN = "preview.chosen";

document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("rollout-form");
  const update = form.querySelector('button[value="preview"]');
  const chosen = sessionStorage.getItem(CHOSEN);
  sessionStorage.removeItem(CHOSEN);

  for (const field of form.querySelectorAll("[data-decisive]")) {
    field.addEventListener("change", () => {
      sessionStorage.setItem(CHOSEN, field.name);
      form.requestSubmit(update);
    });
    if (field.name === chosen) {
      field.focus();
    }
  }
});
