// The preview of a rollout follows its choices.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("rollout-form");
  const update = form.querySelector('button[value="preview"]');

  for (const field of form.querySelectorAll("[data-decisive]")) {
    field.addEventListener("change", () => form.requestSubmit(update));
  }
});
