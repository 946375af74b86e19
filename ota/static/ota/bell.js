// Keeps the bell's number up to date, and fills what hangs under it. Without it the bell leads to the list.
"use strict";

(() => {
  const EVERY = 30000; // ms

  class Bell {
    constructor(element) {
      this.element = element;
      this.count = element.querySelector("[data-unread]");
      this.said = element.querySelector("[data-said]");
      this.lines = element.querySelector("[data-lines]");
      this.shown = "";
      element.addEventListener("toggle", () => element.open && this.load());
      document.addEventListener("click", (event) => this.closeUnless(event.target));
      element.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
      document.addEventListener("visibilitychange", () => this.load());
      window.setInterval(() => this.load(), EVERY);
    }

    closeUnless(target) {
      if (!this.element.contains(target)) {
        this.element.open = false;
      }
    }

    close() {
      this.element.open = false;
      this.element.querySelector("summary").focus();
    }

    async load() {
      if (document.visibilityState === "hidden") {
        return;
      }
      try {
        const response = await fetch(this.element.dataset.bell, { redirect: "manual" });
        if (response.ok) {
          this.show(await response.text());
        }
        // Whoever has logged out may log in again in another tab; the next round tells.
      } catch {
        // The server is away; the next round tries again.
      }
    }

    show(html) {
      const page = new DOMParser().parseFromString(html, "text/html");
      const unread = page.querySelector("[data-count]").dataset.count;
      this.count.textContent = unread;
      this.count.hidden = !unread;
      this.said.textContent = unread ? `Notices, ${unread} new` : "Notices";
      const inside = document.activeElement && this.lines.contains(document.activeElement);
      // What is replaced is read aloud once more.
      if (this.element.open && !inside && html !== this.shown) {
        this.shown = html;
        this.lines.replaceChildren(...page.body.children);
      }
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("[data-bell]").forEach((element) => new Bell(element));
  });
})();
