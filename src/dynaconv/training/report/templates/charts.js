// Curves: a line at the epoch under the pointer, or at the one that the arrow keys choose, and its values as text.

for (const figure of document.querySelectorAll(".chart")) {
  const { xs, texts } = content.charts[figure.dataset.chart];
  const svg = figure.querySelector("svg[tabindex]");
  const line = svg.querySelector(".at");
  let place = -1;

  const choose = (found, event) => {
    place = found;
    line.setAttribute("x1", xs[place]);
    line.setAttribute("x2", xs[place]);
    line.setAttribute("visibility", "visible");
    say(figure, texts[place], event);
    return texts[place];
  };

  followPointer(svg, (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    let nearest = 0;
    xs.forEach((at, index) => { if (Math.abs(at - x) < Math.abs(xs[nearest] - x)) nearest = index; });
    return choose(nearest, event);
  });

  svg.addEventListener("keydown", (event) => {
    const last = xs.length - 1;
    const to = { ArrowRight: place + 1, ArrowLeft: Math.max(place, 1) - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(clamp(to, 0, last), event);
  });
}
