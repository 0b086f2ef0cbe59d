// What charts and maps share: the page's numbers, a tip beside the pointer, and the line below a figure that says the same
// to everybody. Names come from data and are never read as HTML: they go through textContent only.

const content = JSON.parse(document.getElementById("content").textContent);
const tip = document.getElementById("tip");
const spoken = document.getElementById("spoken");

// Screen readers speak what a key or a tap asked for; a pointer that only passes would flood them.
function say(figure, text, event) {
  figure.querySelector(".readout").textContent = text;
  if (event.type !== "pointermove") spoken.textContent = text;
}

function showTip(x, y, text) {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 16 + width > innerWidth ? x - 16 - width : x + 16;
  const top = y + 16 + height > innerHeight ? y - 12 - height : y + 16;
  tip.style.left = `${Math.max(4, Math.min(left, innerWidth - width - 4))}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function hideTip() {
  tip.hidden = true;
}

// Calls read(event) wherever the pointer is, finger or mouse; the tip goes when it leaves.
function followPointer(element, read) {
  const follow = (event) => {
    const text = read(event);
    if (text) showTip(event.clientX, event.clientY, text);
    else hideTip();
  };
  element.addEventListener("pointermove", follow);
  element.addEventListener("pointerdown", follow);
  for (const kind of ["pointerleave", "pointercancel", "blur"]) element.addEventListener(kind, hideTip);
}

addEventListener("scroll", hideTip, { passive: true, capture: true });
addEventListener("keydown", hideTip);

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
