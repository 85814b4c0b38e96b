for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg"), cursor = chart.querySelector(".cursor"), now = chart.querySelector(".now");
  const last = now.textContent;
  const series = [...svg.querySelectorAll("desc")].map((desc) => ({
    name: desc.dataset.name,
    points: desc.textContent.split("|").map((point) => point.split(";")),
  }));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const near = series.map(({ name, points }) => [
      name,
      points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best)),
    ]);
    cursor.setAttribute("x1", near[0][1][0]);
    cursor.setAttribute("x2", near[0][1][0]);
    cursor.style.visibility = "visible";
    now.classList.add("at");
    const values = near.map(([name, point]) => (near.length > 1 ? `${name} ${point[2]}` : point[2]));
    now.textContent = `step ${near[0][1][1]}: ${values.join(", ")}`;
  });
  svg.addEventListener("pointerleave", () => {
    cursor.style.visibility = "hidden";
    now.classList.remove("at");
    now.textContent = last;
  });
}
