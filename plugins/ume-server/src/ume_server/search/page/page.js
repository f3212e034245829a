"use strict";
const $ = (id) => document.getElementById(id);
let media = null; // {kind, url} of the picture or clip to look for
let running = null; // the search that is under way
let last = null; // what was asked, for filters that change afterwards
const NAMES = { gen: "gen (thinks first)", fused: "both (thinks first)" };

function option(select, value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  select.append(made);
}

async function about() {
  const found = await (await fetch("about")).json();
  $("folder").textContent = found.folder;
  $("about").textContent = `${found.items} items · ${found.model}`;
  document.title = `Search ${found.folder}`;
  for (const mode of found.modes) {
    option($("mode"), mode, NAMES[mode] || mode);
  }
  for (const kind of found.kinds) option($("kind"), kind, kind);
  for (const folder of found.folders) option($("under"), folder, folder);
}

function choose(file) {
  if (!file) return;
  const kind = file.type.startsWith("video/") ? "video" : "image";
  const reader = new FileReader();
  reader.onload = () => {
    media = { kind, url: reader.result };
    $("preview").hidden = kind !== "image";
    $("clip").hidden = kind !== "video";
    $(kind === "image" ? "preview" : "clip").src = reader.result;
    $("named").textContent = file.name || "pasted";
    $("chosen").hidden = false;
    search();
  };
  reader.readAsDataURL(file);
}

function clear() {
  media = null;
  $("chosen").hidden = true;
  $("preview").removeAttribute("src");
  $("clip").removeAttribute("src");
  $("file").value = "";
  $("text").focus();
}

function search(like) {
  const ask = like ? { like } : { text: $("text").value };
  if (!like && media) ask[media.kind] = media.url;
  if (!like && !media && !ask.text.trim()) {
    $("status").textContent = "Type words, or add a picture or clip.";
    return;
  }
  last = ask;
  run(ask);
}

async function run(ask) {
  if (running) running.abort();
  const mine = (running = new AbortController());
  const least = Number($("threshold").value);
  const body = { ...ask, mode: $("mode").value, kind: $("kind").value || null,
    under: $("under").value || null, threshold: least > -1 ? least : null };
  $("status").textContent = "Searching…";
  $("results").setAttribute("aria-busy", "true");
  $("thinking").textContent = "";
  $("thought").hidden = body.mode === "disc";
  try {
    const answer = await fetch("search", { method: "POST", signal: mine.signal,
      headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    for await (const [name, data] of events(answer)) {
      if (name === "token") $("thinking").textContent += data.text;
      else if (name === "error") throw new Error(data.message);
      else if (name === "results") show(data);
    }
  } catch (error) {
    if (error.name !== "AbortError") $("status").textContent = error.message;
  } finally {
    if (running === mine) $("results").removeAttribute("aria-busy");
  }
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const blocks = held.split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const name = lines.find((line) => line.startsWith("event: "));
      const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
      if (name) yield [name.slice(7), JSON.parse(data.join("\n"))];
    }
  }
}

function show(found) {
  if (found.summary) $("thinking").textContent = `${found.thinking}\n→ ${found.summary}`;
  $("results").replaceChildren(...found.results.map(card));
  const count = found.results.length;
  const below = found.left_out ? `, ${found.left_out} below the least score` : "";
  $("status").textContent = count ? `${count} results${below}.` : `Nothing found${below}.`;
}

function card(hit) {
  const made = document.createElement("li");
  made.className = "card";
  made.dataset.name = hit.name;
  made.append(shown(hit));
  const words = document.createElement("div");
  words.className = "words";
  const name = document.createElement("h2");
  name.textContent = hit.name;
  const meter = document.createElement("meter");
  Object.assign(meter, { min: -1, max: 1, value: hit.score });
  meter.setAttribute("aria-label", `Score of ${hit.name}: ${hit.score.toFixed(3)}`);
  const score = document.createElement("span");
  score.className = "soft";
  score.textContent = `${hit.score.toFixed(3)} · ${hit.kind}`;
  words.append(name, meter, score);
  if (hit.summary) {
    const summary = document.createElement("p");
    summary.className = "soft";
    summary.textContent = hit.summary;
    words.append(summary);
  }
  if (!hit.gone) {
    const more = document.createElement("button");
    more.type = "button";
    more.textContent = "More like this";
    more.setAttribute("aria-label", `More like ${hit.name}`);
    more.addEventListener("click", () => {
      window.scrollTo({ top: 0 });
      search(hit.name);
    });
    words.append(more);
  }
  made.append(words);
  return made;
}

function shown(hit) {
  if (hit.gone || hit.kind === "text") {
    const text = document.createElement("div");
    text.className = "text";
    text.textContent = hit.gone ? "This file is not there any more." : hit.text;
    text.tabIndex = 0; // it scrolls, so the keyboard must reach it
    text.setAttribute("role", "region");
    text.setAttribute("aria-label", hit.name);
    return text;
  }
  const image = document.createElement("img");
  image.loading = "lazy";
  image.alt = hit.summary || hit.name;
  image.src = `thumbnail?path=${encodeURIComponent(hit.name)}`;
  return image;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
$("file").addEventListener("change", () => choose($("file").files[0]));
$("clear").addEventListener("click", clear);
for (const id of ["mode", "kind", "under"]) {
  $(id).addEventListener("change", () => last && run(last));
}
$("threshold").addEventListener("input", () => {
  const least = Number($("threshold").value);
  $("least").textContent = least > -1 ? least.toFixed(2) : "any";
});
$("threshold").addEventListener("change", () => last && run(last));
document.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") choose(event.dataTransfer.files[0]);
  });
}
about();
