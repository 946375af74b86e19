// Adds a package: its bytes travel while the form is filled in, and go on after whatever cut them off.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const $ = (id) => document.getElementById(id);
  const form = $("package-form");
  const chosen = form.elements.upload;
  const PIECE = Number(form.dataset.piece);
  const PAUSES = [1, 2, 4, 8, 15, 30]; // s between tries; the last one for ever
  const WINDOW = 10_000; // ms over which the speed is told
  const LOST = "Connection lost, trying again…";

  let run = null; // the upload that is under way
  let isWanted = false; // "Add package" was pressed before the end

  // Words

  const UNITS = ["bytes", "KiB", "MiB", "GiB"];
  const size = (bytes) => {
    const step = Math.min(3, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
    return `${(bytes / 1024 ** step).toFixed(step > 1 ? 1 : 0)} ${UNITS[step]}`;
  };
  const time = (seconds) => {
    if (seconds < 60) return `${Math.ceil(seconds)} s`;
    if (seconds < 3600) return `${Math.ceil(seconds / 60)} min`;
    return `${Math.floor(seconds / 3600)} h ${Math.ceil((seconds % 3600) / 60)} min`;
  };
  const state = (words, kind = "quiet") => {
    $("upload-state").textContent = words;
    $("upload-state").className = kind;
  };
  const fail = (words) => {
    $("upload-error").textContent = words;
    $("upload-error").hidden = !words;
  };
  const show = (part) => {
    for (const id of ["upload-here", "upload-run", "upload-drop"]) $(id).hidden = id !== part;
  };

  // Requests

  class Refused extends Error {
    constructor(words, status) {
      super(words);
      this.status = status;
    }
  }
  // Read anew each time: a login in another tab changes it.
  const token = () => document.cookie.match(/(?:^|; )csrftoken=([^;]+)/)?.[1] ?? form.elements.csrfmiddlewaretoken.value;
  const ask = async (url, method, { headers = {}, body } = {}) => {
    const answer = await fetch(url, {
      method,
      body,
      headers: { "Tus-Resumable": "1.0.0", "X-CSRFToken": token(), ...headers },
    });
    if (answer.ok) return answer.status === 204 ? null : answer.json();
    const isPlain = answer.headers.get("Content-Type")?.startsWith("text/plain");
    throw new Refused(isPlain ? await answer.text() : `The server refused this (${answer.status}).`, answer.status);
  };
  const base64 = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));
  const announce = (file) =>
    ask(form.dataset.create, "POST", {
      headers: {
        "Upload-Length": String(file.size),
        "Upload-Metadata": `filename ${base64(file.name)},lastmodified ${base64(String(file.lastModified))}`,
      },
    });
  const sign = (bucket, request) =>
    ask(bucket.sign, "POST", { headers: { "Content-Type": "application/json" }, body: JSON.stringify(request) });

  // What a failure means: the words to show, and whether another try can help.
  const judge = (error) => {
    const piece = error.originalResponse; // the answer to a piece that came here
    if (!piece && !(error instanceof Refused)) {
      // Another try gets new addresses: these may have expired while the computer slept.
      return { again: true, words: error.status ? `The bucket refused a part (${error.message}), trying again…` : LOST };
    }
    const status = piece ? piece.getStatus() : error.status;
    const isPlain = piece?.getHeader("Content-Type")?.startsWith("text/plain");
    const words = isPlain ? piece.getBody() : error.message;
    if (status === 401) return { again: true, words: "You were logged out. Log in again in another tab, and the upload goes on." };
    if (status === 507) return { again: true, words };
    const again = status < 400 || status >= 500 || [409, 423, 429].includes(status);
    return { again, words: again ? LOST : words };
  };

  // One upload

  const begin = async (file) => {
    fail("");
    run = { file, tries: 0, most: 0, samples: [], isPaused: false, timer: 0 };
    $("upload-pause").textContent = "Pause";
    $("upload-name").textContent = file.name;
    progress(0);
    state("Looking for what is here already…");
    show("upload-run");
    await attempt(run);
  };

  // Each try asks anew where the upload stands: the last answer may have been lost on the way.
  const attempt = async (mine) => {
    clearTimeout(mine.timer);
    mine.timer = 0;
    mine.uppy?.destroy();
    mine.uppy = null;
    try {
      mine.way = await announce(mine.file);
      if (mine !== run || mine.isPaused) return;
      take(mine.way.id);
      if (mine.way.complete) return end(mine);
      load(mine);
      state("Uploading…");
      await mine.uppy.upload();
    } catch (error) {
      stumble(mine, error);
    }
  };

  const take = (id) => {
    chosen.value = id;
    const row = document.querySelector(`[data-upload="${id}"]`);
    if (row) row.hidden = true; // it is the one that is under way
  };

  const load = (mine) => {
    const { bucket, url } = mine.way;
    mine.uppy = new Uppy.Uppy();
    if (bucket) {
      mine.uppy.use(Uppy.AwsS3, {
        shouldUseMultipart: true,
        getChunkSize: () => PIECE,
        signRequest: (request) => sign(bucket, request),
      });
    } else {
      mine.uppy.use(Uppy.Tus, {
        chunkSize: PIECE,
        retryDelays: [], // tried again here, for both ways alike
        storeFingerprintForResuming: false,
        allowedMetaFields: [],
        onBeforeRequest: (request) => request.setHeader("X-CSRFToken", token()),
      });
    }
    mine.id = mine.uppy.addFile({ name: mine.file.name, type: mine.file.type, data: mine.file });
    const place = bucket ? { s3Multipart: { key: bucket.key, uploadId: bucket.uploadId } } : { tus: { uploadUrl: url } };
    mine.uppy.setFileState(mine.id, place);
    mine.uppy.on("upload-progress", (_, { bytesUploaded }) => mine === run && move(mine, bytesUploaded));
    mine.uppy.on("upload-success", () => finish(mine));
    mine.uppy.on("upload-error", (_, error) => stumble(mine, error));
  };

  const finish = async (mine) => {
    try {
      if (mine.way.bucket) await ask(mine.way.bucket.finish, "POST");
      if (mine === run) end(mine);
    } catch (error) {
      stumble(mine, error);
    }
  };

  const stumble = (mine, error) => {
    if (mine !== run || mine.isPaused) return;
    const { again, words } = judge(error);
    if (!again) return stop(words);
    state(words, "lost");
    progress($("upload-bar").value); // no speed, no time left
    mine.samples = [];
    const pause = PAUSES[Math.min(mine.tries, PAUSES.length - 1)];
    mine.tries += 1;
    clearTimeout(mine.timer);
    mine.timer = setTimeout(() => attempt(mine), pause * 1000);
  };

  const end = (mine) => {
    run = null;
    for (const [mark, value] of [["name", mine.file.name], ["size", size(mine.file.size)]]) {
      $("upload-here").querySelector(`[data-${mark}]`).textContent = value;
    }
    $("upload-here").querySelector("[data-discard]").dataset.discard = mine.way.url;
    show("upload-here");
    if (isWanted) form.requestSubmit();
  };

  const stop = (words) => {
    run = null;
    chosen.value = "";
    unwant();
    fail(words);
    show("upload-drop");
  };

  const cancel = async () => {
    const mine = run;
    run = null;
    clearTimeout(mine.timer);
    mine.uppy?.pauseAll(); // its own way to cancel would ask for the same once more
    stop("");
    if (mine.way) await discard(mine.way.url);
  };

  const discard = async (url) => {
    try {
      await ask(url, "DELETE");
    } catch (error) {
      if (error.status !== 404) fail(`It could not be discarded: ${error.message}`);
    }
  };

  // Figures

  const progress = (percent) => {
    $("upload-bar").value = percent;
    $("upload-percent").textContent = `${Math.floor(percent)} %`;
    $("upload-figures").textContent = "";
  };

  const move = (mine, bytes) => {
    const now = performance.now();
    const total = mine.file.size;
    if (bytes > mine.most) [mine.most, mine.tries] = [bytes, 0];
    // What was here before, or is sent once more, is no speed.
    if (bytes < (mine.samples.at(-1)?.bytes ?? 0) || !mine.samples.length) mine.samples = [];
    mine.samples.push({ now, bytes });
    while (mine.samples.length > 2 && now - mine.samples[0].now > WINDOW) mine.samples.shift();
    progress((bytes / total) * 100);
    const first = mine.samples[0];
    const speed = now - first.now > 500 ? ((bytes - first.bytes) / (now - first.now)) * 1000 : 0;
    const parts = [`${size(bytes)} of ${size(total)}`];
    if (speed > 0) parts.push(`${size(speed)}/s`, `${time((total - bytes) / speed)} left`);
    $("upload-figures").textContent = parts.join(" · ");
  };

  // What people do

  const unwant = () => {
    isWanted = false;
    $("package-hint").textContent = "";
  };

  $("upload-file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = ""; // so that the same file can be chosen again
    if (file) begin(file);
  });

  const drop = $("upload-drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
    });
  }
  drop.addEventListener("drop", (event) => {
    const [file] = event.dataTransfer.files;
    if (file) begin(file);
  });

  // A file that misses the place would otherwise be opened instead of this page.
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());

  $("upload-pause").addEventListener("click", () => {
    run.isPaused = !run.isPaused;
    run.samples = [];
    $("upload-pause").textContent = run.isPaused ? "Resume" : "Pause";
    if (run.isPaused) {
      clearTimeout(run.timer);
      run.uppy?.pauseAll();
      state("Paused.");
    } else if (run.uppy && !run.uppy.getFile(run.id).error) {
      run.uppy.resumeAll();
      state("Uploading…");
    } else attempt(run);
  });
  $("upload-cancel").addEventListener("click", cancel);
  window.addEventListener("online", () => run && run.timer && !run.isPaused && attempt(run));

  for (const button of form.querySelectorAll("[data-discard]")) {
    button.addEventListener("click", async () => {
      const row = button.closest("[data-upload]");
      if (row) row.remove();
      else stop("");
      await discard(button.dataset.discard);
    });
  }

  form.addEventListener("submit", (event) => {
    if (chosen.value && !run) {
      setTimeout(() => ($("package-add").disabled = true)); // after the browser has gathered the data
      return;
    }
    event.preventDefault();
    if (!run) {
      fail("Choose a file first.");
      $("upload-file").focus();
      return;
    }
    isWanted = true;
    $("package-hint").textContent = "It is added by itself as soon as the upload ends; keep this page open.";
  });

  window.addEventListener("beforeunload", (event) => run && event.preventDefault());
  window.addEventListener("pageshow", () => ($("package-add").disabled = false));
});
