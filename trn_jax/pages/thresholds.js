"use strict";
// The slider of a threshold: numbers, lines and their description follow it.
for (const section of document.querySelectorAll("[data-thresholds]")) {
  const stored = JSON.parse(section.dataset.thresholds);
  const slider = section.querySelector("input[type=range]");
  const choice = section.querySelector("select");
  const output = section.querySelector("output");
  const drawing = section.querySelector("figure svg[role=img]");
  const lines = [...drawing.querySelectorAll("polyline")];
  const [left, bottom, right, top] = stored.corners;
  const guide = document.createElementNS("http://www.w3.org/2000/svg", "line");
  guide.setAttribute("class", "guide");
  guide.setAttribute("y1", top);
  guide.setAttribute("y2", bottom);
  drawing.append(guide);
  const measures = (step) => {
    const [named, hits, wanted, covered] =
      choice.value === "all" ? stored.all : stored.classes[Number(choice.value)];
    const share = (part, whole) => (whole ? part / whole : NaN);
    return {
      precision: share(hits[step], named[step]),
      recall: share(hits[step], wanted),
      F1: share(2 * hits[step], named[step] + wanted),
      coverage: share((covered ?? named)[step], stored.videos),
    };
  };
  const percent = (value) => (Number.isNaN(value) ? "-" : `${(100 * value).toFixed(1)} %`);
  const draw = () => {
    const steps = [...Array(Number(slider.max) + 1).keys()];
    ["precision", "recall", "F1", "coverage"].forEach((key, number) => {
      const points = steps
        .map((step) => [step / slider.max, measures(step)[key]])
        .filter(([, value]) => !Number.isNaN(value))
        .map(([x, y]) => [left + (right - left) * x, bottom - (bottom - top) * y]);
      lines[number]?.setAttribute("points", points.map((each) => each.join(",")).join(" "));
    });
  };
  const update = () => {
    const step = Number(slider.value);
    const found = measures(step);
    output.textContent = (step / slider.max).toFixed(2);
    for (const each of section.querySelectorAll("[data-measure]"))
      each.textContent = percent(found[each.dataset.measure]);
    const described = Object.entries(found).map(([key, value]) => `${key} ${percent(value)}`);
    slider.setAttribute("aria-valuetext", `${output.textContent}: ${described.join(", ")}`);
    const x = left + ((right - left) * step) / slider.max;
    guide.setAttribute("x1", x);
    guide.setAttribute("x2", x);
  };
  slider.addEventListener("input", update);
  choice.addEventListener("change", () => { draw(); update(); });
  section.querySelector(".controls").hidden = false;
  update();
}
