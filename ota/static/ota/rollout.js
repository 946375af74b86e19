// Keeps a rollout's page, or a task's, up to date without reloading. The pages work without it too.
"use strict";

(() => {
  const FIRST_RETRY = 1000; // ms
  const LONGEST_RETRY = 15000; // ms
  const AFTER_FAILURE = 5000; // ms; a server that cannot answer is not asked twice a second
  const PATIENCE = 5000; // ms; a page that answers later than this tells no reason
  const SILENCE = 75000; // ms; the server speaks every 30 s, so after this the line is dead
  const LOST = "Connection lost, trying again…";
  const REFUSED = "You may not watch this any more. Load the page again to log in.";

  // One websocket that comes back by itself.
  class Connection {
    constructor(address, handlers) {
      this.address = address;
      this.handlers = handlers;
      this.attempts = 0;
      this.open();
    }

    open() {
      const url = new URL(this.address(), window.location.href);
      url.protocol = url.protocol.replace("http", "ws");
      this.socket = new WebSocket(url);
      this.socket.addEventListener("open", () => this.connected());
      this.socket.addEventListener("message", (event) => this.received(event));
      this.socket.addEventListener("close", (event) => this.closed(event));
      this.listen();
    }

    connected() {
      this.attempts = 0;
      this.handlers.state("");
    }

    received(event) {
      this.listen();
      const update = JSON.parse(event.data);
      this.handlers.message(update);
      if (update.token) {
        this.send({ seen: update.token });
      }
    }

    async closed(event) {
      window.clearTimeout(this.silence);
      this.handlers.state(LOST);
      if (event.code === 4401 || event.code === 4403 || (await this.isPageRefused())) {
        this.handlers.state(REFUSED);
      } else {
        this.retry();
      }
    }

    // A websocket that is refused at once gives no reason; the page itself tells one.
    async isPageRefused() {
      try {
        const signal = AbortSignal.timeout(PATIENCE);
        const page = await fetch(window.location.href, { method: "HEAD", redirect: "manual", signal });
        return page.type === "opaqueredirect" || page.status === 403;
      } catch {
        return false;
      }
    }

    // The first try comes within 1.5 s; jitter keeps browsers apart after a restart.
    retry() {
      const pause = Math.min(FIRST_RETRY * 2 ** this.attempts, LONGEST_RETRY / 1.5);
      this.attempts += 1;
      window.setTimeout(() => this.open(), pause * (1 + Math.random() / 2));
    }

    listen() {
      window.clearTimeout(this.silence);
      this.silence = window.setTimeout(() => this.socket.close(), SILENCE);
    }

    get isOpen() {
      return this.socket.readyState === WebSocket.OPEN;
    }

    send(message) {
      if (this.isOpen) {
        this.socket.send(JSON.stringify(message));
      }
    }
  }

  function showConnection(root, text) {
    const line = root.querySelector("[data-connection]");
    line.textContent = text;
    line.hidden = !text;
  }

  // Touches the page only where something differs, so that nothing flickers and selections stay.
  function setText(element, text) {
    if (element.textContent !== text) {
      element.textContent = text;
    }
  }

  function shown(value) {
    return typeof value === "number" ? value.toLocaleString("en") : String(value);
  }

  function fill(element, values) {
    for (const field of element.querySelectorAll("[data-field]")) {
      if (!field.closest("[data-targets]") || element.matches("li")) {
        setText(field, String(values[field.dataset.field] ?? ""));
      }
    }
  }

  function sum(counts, statuses) {
    return statuses.split(" ").reduce((total, status) => total + (counts[status] || 0), 0);
  }

  // What somebody has opened, has selected or is writing in stays as it is.
  function isInUse(part) {
    const selection = document.getSelection();
    const isSelected = !selection.isCollapsed && selection.containsNode(part, true);
    const writes = part.contains(document.activeElement) && document.activeElement.matches("input, select");
    return isSelected || writes || part.querySelector("details[open]") !== null;
  }

  // What has the focus gives it to its like.
  function replace(part, replacement) {
    const focused = part.contains(document.activeElement) && document.activeElement;
    part.replaceWith(document.adoptNode(replacement));
    if (focused) {
      const like = [...replacement.querySelectorAll(focused.tagName)].find((one) => one.isEqualNode(focused));
      like?.focus({ preventScroll: true });
    }
  }

  // An error or the way to log in is not taken for the page.
  async function freshPage() {
    const response = await fetch(window.location.href, { credentials: "same-origin" });
    if (!response.ok || response.redirected) {
      throw new Error("not the page");
    }
    return new DOMParser().parseFromString(await response.text(), "text/html");
  }

  // Those parts of a page that only the server can render: fetched with the page when something
  // happened. What is in use is kept, and fetched when nobody uses it any more.
  class Parts {
    constructor(root, connection, pause) {
      this.root = root;
      this.connection = connection;
      this.pause = pause;
      this.kept = [];
      this.hasFailed = false;
      this.isWanted = false;
      this.timer = null;
      root.addEventListener("toggle", () => this.freed(), true);
      root.addEventListener("focusout", () => this.freed());
      document.addEventListener("selectionchange", () => this.freed());
    }

    // What could not be fetched is asked for again with the next message.
    told(isNews) {
      if (isNews || this.hasFailed) {
        this.fetchSoon(this.hasFailed ? AFTER_FAILURE : this.pause);
      }
    }

    freed() {
      if (this.kept.some((part) => !isInUse(part))) {
        this.fetchSoon(0);
      }
    }

    fetchSoon(pause) {
      this.isWanted = true;
      this.timer ??= window.setTimeout(() => this.fetch(), pause);
    }

    async fetch() {
      this.isWanted = false;
      try {
        this.take(await freshPage());
        this.hasFailed = false;
      } catch {
        this.hasFailed = true;
      }
      if (this.connection.isOpen) {
        showConnection(this.root, this.hasFailed ? LOST : "");
      }
      this.timer = null;
      if (this.isWanted) {
        this.told(true);
      }
    }

    take(fresh) {
      this.root.dataset.stamp = fresh.querySelector("[data-stamp]").dataset.stamp;
      const parts = [...this.root.querySelectorAll("[data-live]")];
      this.kept = parts.filter(isInUse);
      for (const part of parts) {
        const replacement = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
        if (replacement && !this.kept.includes(part)) {
          replace(part, replacement);
        }
      }
    }
  }

  class RolloutPage {
    constructor(root) {
      this.root = root;
      this.body = root.querySelector("[data-tasks]");
      this.template = root.querySelector("[data-task-template]");
      this.view = { status: root.dataset.status, page: Number(root.dataset.page) };
      this.pages = 1;
      this.connection = new Connection(() => this.address(), {
        message: (message) => this.show(message),
        state: (text) => showConnection(root, text),
      });
      this.parts = new Parts(root, this.connection, 500);
      root.addEventListener("click", (event) => this.clicked(event));
      window.addEventListener("popstate", () => this.went());
    }

    query() {
      return "?" + new URLSearchParams(this.view);
    }

    address() {
      return this.root.dataset.socket + this.query();
    }

    // Links to other pages and filters are followed over the websocket, while there is one.
    clicked(event) {
      const link = event.target.closest("a[data-filter], a[data-turn]");
      const isPlain = !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0;
      if (!link || !isPlain || !this.connection.isOpen) {
        return;
      }
      event.preventDefault();
      if (link.dataset.turn) {
        this.view.page += Number(link.dataset.turn);
      } else {
        this.view = { status: link.dataset.filter, page: 1 };
      }
      window.history.pushState(null, "", this.query());
      this.connection.send(this.view);
    }

    went() {
      const query = new URLSearchParams(window.location.search);
      this.view = { status: query.get("status") || "", page: Number(query.get("page")) || 1 };
      this.connection.send(this.view);
    }

    show(message) {
      if (message.type === "page") {
        this.view = { status: message.status, page: message.page };
        this.showTasks(message.tasks);
      } else if (message.type === "changes") {
        message.tasks.forEach((task) => this.showTask(task, this.row(task.id)));
      } else {
        return;
      }
      this.pages = message.pages;
      this.showRollout(message);
      this.showWaves(message.waves);
      this.parts.told(message.stamp !== this.root.dataset.stamp);
      this.showFilters(message.counts);
      this.showPages();
    }

    row(id) {
      return this.body.querySelector(`tr[data-task="${Number(id)}"]`);
    }

    showTasks(tasks) {
      const rows = tasks.map((task) => {
        const row = this.row(task.id) || this.template.content.querySelector("tr").cloneNode(true);
        this.showTask(task, row);
        return row;
      });
      const isSame = rows.length === this.body.children.length && rows.every((row, place) => row === this.body.children[place]);
      if (!isSame) {
        this.body.replaceChildren(...rows);
      }
      this.root.querySelector("[data-empty]").hidden = rows.length > 0;
    }

    showTask(task, row) {
      if (!row) {
        return;
      }
      row.dataset.task = task.id;
      fill(row, task);
      for (const link of row.querySelectorAll("a[data-link]")) {
        link.setAttribute("href", task[link.dataset.link]);
      }
      row.querySelector(".tag").className = "tag " + task.colour;
      this.showProgress(task, row.querySelector("progress"));
      this.showTargets(task.targets, row.querySelector("[data-targets]"));
    }

    showProgress(task, progress) {
      progress.value = task.percent || 0;
      progress.dataset.colour = task.colour;
      progress.setAttribute("aria-label", "Progress of " + task.gateway_sn);
    }

    showTargets(targets, list) {
      while (list.children.length > targets.length) {
        list.lastElementChild.remove();
      }
      targets.forEach((target, place) => {
        const blank = this.template.content.querySelector("[data-targets] li");
        const item = list.children[place] || list.appendChild(blank.cloneNode(true));
        fill(item, target);
        item.querySelector("[data-flag]").toggleAttribute("data-on", target.confirmed);
      });
    }

    showRollout({ rollout, counts, shares }) {
      for (const element of this.root.querySelectorAll("[data-rollout]")) {
        setText(element, rollout[element.dataset.rollout]);
      }
      this.root.querySelector('[data-rollout="status_label"]').className = "tag " + rollout.colour;
      for (const element of this.root.querySelectorAll("[data-when]")) {
        element.hidden = element.dataset.when !== rollout.status;
      }
      for (const part of this.root.querySelectorAll("[data-part]")) {
        part.style.flexGrow = sum(shares, part.dataset.part);
      }
      const cancel = this.root.querySelector("[data-cancel]");
      if (cancel) {
        cancel.hidden = !counts.pending;
        setText(cancel.querySelector("[data-part-number]"), shown(counts.pending));
      }
    }

    showWaves(waves) {
      for (const wave of waves) {
        const row = this.root.querySelector(`tr[data-wave="${Number(wave.number)}"]`);
        for (const cell of row ? row.querySelectorAll("[data-wave-field]") : []) {
          setText(cell, shown(wave[cell.dataset.waveField]));
        }
      }
    }

    showFilters(counts) {
      for (const link of this.root.querySelectorAll("a[data-filter]")) {
        const count = sum(counts, link.dataset.statuses);
        const isChosen = link.dataset.filter === this.view.status;
        setText(link.querySelector("b"), shown(count));
        link.hidden = !count && !isChosen && link.dataset.filter !== "";
        link.setAttribute("aria-current", String(isChosen));
      }
    }

    showPages() {
      const { page, status } = this.view;
      this.root.querySelector("[data-pages]").hidden = this.pages === 1;
      setText(this.root.querySelector("[data-page-number]"), String(page));
      setText(this.root.querySelector("[data-page-count]"), String(this.pages));
      for (const link of this.root.querySelectorAll("a[data-turn]")) {
        const to = page + Number(link.dataset.turn);
        link.hidden = to < 1 || to > this.pages;
        link.setAttribute("href", "?" + new URLSearchParams({ status, page: to }));
      }
    }
  }

  // A task's page is fetched again when the task changed: its history has no rows to patch.
  class TaskPage {
    constructor(root) {
      this.root = root;
      this.connection = new Connection(() => root.dataset.socket, {
        message: (message) => this.changed(message),
        state: (text) => showConnection(root, text),
      });
      this.parts = new Parts(root, this.connection, 1000);
    }

    // What is told once more now and then is shown already, most of the time.
    changed(message) {
      const [task] = message.tasks || [];
      this.parts.told(Boolean(task) && (message.type === "changes" || !this.shows(task)));
    }

    shows(task) {
      return JSON.stringify(task) === JSON.stringify(JSON.parse(this.root.dataset.stamp));
    }
  }

  const rollout = document.querySelector("[data-ota-rollout][data-socket]");
  const task = document.querySelector("[data-ota-task][data-socket]");
  if (rollout) {
    new RolloutPage(rollout);
  } else if (task) {
    new TaskPage(task);
  }
})();
