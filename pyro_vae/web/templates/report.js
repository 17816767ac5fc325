"use strict";
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const at = (id) => document.getElementById(id);

  /* The bar of buttons has none that sends the figure elsewhere. Where there is no pointer that hovers, as on a telephone,
     dragging scrolls the page. */
  const buttons = [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]];
  const shared = { displaylogo: false, responsive: true, showSendToCloud: false, modeBarButtons: buttons };
  const touch = window.matchMedia("(hover: none)").matches;
  const plots = Object.entries(page.figures).map(([name, figure]) => {
    const place = at(`figure-${name}`), alone = !place.closest(".grid");
    const layout = touch ? { ...figure.layout, dragmode: false } : figure.layout;
    Plotly.newPlot(place, figure.data, layout, { ...shared, displayModeBar: alone && !touch ? "hover" : false });
    return place;
  });

  /* A row or a mean: the data URI of a picture, or [text, length of the bar] for each column. */
  const picture = (source, text) => {
    const image = document.createElement("img");
    image.src = source;
    image.alt = text;
    return image;
  };

  const cells = (columns, shown) => {
    const table = document.createElement("table");
    table.className = "cells";
    columns.forEach((column, i) => {
      const line = table.insertRow(), [text, share] = shown[i];
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = column;
      line.append(head);
      line.insertCell().textContent = text;
      const last = line.insertCell();
      if (share !== null) {
        const bar = document.createElement("span"), filled = document.createElement("span");
        bar.className = "bar";
        filled.style.width = `${100 * share}%`;
        bar.append(filled);
        last.append(bar);
      }
    });
    return table;
  };

  const captioned = (content, text) => {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    caption.textContent = text;
    figure.append(content, caption);
    return figure;
  };

  const isWide = (source) => typeof source === "string" && source.startsWith("data:image/svg");

  /* The map: hovering over a point, or the number of a row, shows the row. */
  const rows = page.map;
  if (rows) {
    const input = at("row"), shown = at("row-shown"), map = at("figure-map"), ring = page.figures.map.data.length - 1;
    const show = (row) => {
      const label = rows.labels ? `, label ${rows.labels[row]}` : "";
      const given = rows.given[row] ? `, ${rows.given[row]}` : "", name = `Row ${row}${label}${given}`;
      Plotly.restyle(map, { x: [[rows.x[row]]], y: [[rows.y[row]]] }, [ring]);
      const parts = rows.shown[row];
      if (!parts) {
        shown.textContent = `${name}: not kept in this file.`;
      } else if (rows.kind === "cells") {
        shown.replaceChildren(captioned(cells(rows.columns, parts[0]), name));
      } else {
        const both = document.createElement("div");
        both.className = isWide(parts[0]) ? "pictures wide" : "pictures";
        both.append(captioned(picture(parts[0], `${name}: data`), `${name}: data`));
        both.append(captioned(picture(parts[1], `${name}: reconstruction`), "its reconstruction"));
        shown.replaceChildren(both);
      }
    };
    const choose = () => {
      const row = Math.trunc(Number(input.value));
      if (input.value !== "" && row >= 0 && row < rows.x.length) show(row);
    };
    input.addEventListener("input", choose);
    for (const event of ["plotly_hover", "plotly_click"]) {
      map.on(event, ({ points }) => {
        if (typeof points[0].customdata !== "number") return;
        input.value = points[0].customdata;
        choose();
      });
    }
    choose();
  }

  /* The traversal: the slider's place along the latent that is chosen. */
  const path = page.traversal;
  if (path) {
    const latent = at("latent"), place = at("place"), text = at("place-text"), shown = at("traversal-shown");
    const strip = at("strip");
    const words = (line, step) => {
      const places = path.steps[step];
      const size = Math.abs(places), units = `standard deviation${size === 1 ? "" : "s"}`;
      const far = `${size} ${units} ${places < 0 ? "below" : "above"} the mean of the prior`;
      return `z${path.dims[line]} = ${path.values[line][step]}, ${places === 0 ? "the mean of the prior" : far}`;
    };
    const show = () => {
      const line = Number(latent.value), step = Number(place.value), what = path.shown[line][step];
      text.textContent = words(line, step);
      place.setAttribute("aria-valuetext", words(line, step));
      if (path.kind === "cells") {
        shown.replaceChildren(cells(path.columns, what));
      } else {
        shown.classList.toggle("wide", isWide(what));
        shown.replaceChildren(picture(what, `E[x | z] at ${words(line, step)}`));
      }
    };
    const showStrip = () => {
      if (path.kind === "cells") return;
      const line = Number(latent.value), last = path.steps.length - 1;
      const steps = [0, 1, 2, 3, 4, 5, 6].map((i) => Math.round((i * last) / 6));
      strip.replaceChildren(
        ...steps.map((step) =>
          captioned(picture(path.shown[line][step], `E[x | z] at ${words(line, step)}`), `${path.values[line][step]}`)
        )
      );
    };
    place.addEventListener("input", show);
    latent.addEventListener("change", () => { show(); showStrip(); });
    show();
    showStrip();
  }

  /* On paper a figure is as wide as the page, or half of it. */
  const onPaper = (width) => plots.forEach((plot) => {
    Plotly.relayout(plot, { width: width && (plot.closest(".grid") ? width / 2 - 20 : width), autosize: !width });
  });
  window.addEventListener("beforeprint", () => onPaper(640));
  window.addEventListener("afterprint", () => onPaper(null));
})();
