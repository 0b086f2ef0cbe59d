// Drop, choose or paste an image; it is sent to /classify, and the answer is shown. Names of classes and messages come from
// files and are never read as HTML: they go through textContent only.

const $ = (id) => document.getElementById(id);
const TOP = 5;
let asked = 0; // answers to an image before the last one come too late

async function classify(file) {
  const turn = ++asked;
  $("error").hidden = $("answer").hidden = true;
  $("status").textContent = `Asking about ${file.name || "the image"} …`;
  show(file);
  const form = new FormData();
  form.append("file", file);
  let answer;
  try {
    const response = await fetch(`/classify?top=${TOP}`, { method: "POST", body: form });
    answer = await response.json();
  } catch {
    answer = { error: "the service does not answer", expected: "it to run, and the image not to change meanwhile" };
  }
  if (turn !== asked) return;
  if (answer.error) fail(answer);
  else succeed(answer);
}

function succeed({ classes, image, batch, milliseconds }) {
  $("classes").replaceChildren(...classes.map((entry) => {
    const percent = `${(100 * entry.probability).toFixed(1)} %`;
    const bar = element("progress", "");
    bar.value = entry.probability;
    bar.setAttribute("aria-label", entry.class);
    const row = element("li", "");
    row.append(element("span", entry.class, "name"), element("span", percent, "share"), bar);
    return row;
  }));
  $("answer").hidden = false;
  const company = batch === 1 ? "alone" : `with ${batch - 1} other${batch === 2 ? "" : "s"}`;
  $("status").textContent =
    `${classes[0].class}. ${image.format}, ${image.width} × ${image.height} pixels, ` +
    `${milliseconds.total.toFixed(0)} ms, classified ${company}`;
}

function fail({ error, expected }) {
  $("status").textContent = "";
  $("preview").hidden = true;
  $("error").replaceChildren(element("p", sentence(error)), element("p", `Expected: ${expected}.`));
  $("error").hidden = false;
}

function show(file) {
  URL.revokeObjectURL($("preview").src);
  $("preview").src = URL.createObjectURL(file);
  $("preview").alt = `Preview of ${file.name || "the image"}`;
  $("preview").hidden = false;
}

// Formats that the service reads and the browser does not, such as TIFF.
$("preview").addEventListener("error", () => { $("preview").hidden = true; });

function element(tag, text, name) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

$("file").addEventListener("change", () => {
  if ($("file").files.length) classify($("file").files[0]);
  $("file").value = ""; // the same file can be chosen again
});
// Anywhere on the page: a file that misses the box would otherwise replace the page.
document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) classify(file);
  else fail({ error: "what was dropped is no file", expected: "an image file; from another page, save it first" });
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) classify(file);
});

try {
  const model = await (await fetch("/model")).json();
  const names = model.classes.slice(0, 12).join(", ") + (model.classes.length > 12 ? ", …" : "");
  $("model").textContent = `${model.model} knows ${model.classes.length} classes: ${names}`;
} catch {
  $("model").textContent = "The service does not answer.";
}
