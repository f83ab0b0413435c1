/* The page of a deployment: both releases as charts, the log as it is written, and buttons that follow the state. */
"use strict";

(() => {
  const POLL_MS = 2000;
  const TABLE_ROWS = 12;
  const MOST_LOG = 400000;
  const SIDES = {
    errors: { new: "new_errors", old: "old_errors", least: 1 },
    p95: { new: "new_p95", old: "old_p95", least: 10 },
  };

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const json = async (url) => {
    const response = await fetch(url, { headers: { "HX-Current-URL": window.location.href }, credentials: "same-origin" });
    // The session has ended: the live part leads to the login by itself.
    return response.ok && response.headers.get("HX-Redirect") === null ? response.json() : null;
  };
  const time = (ms) => new Date(ms).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const written = (value, unit) => {
    if (value === null || value === undefined) {
      return "–";
    }
    const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
    return `${value.toLocaleString("en-GB", { maximumFractionDigits: digits })} ${unit}`;
  };

  /* Where the share of the new release changed. */
  const steps = {
    id: "zt-steps",
    afterDatasetsDraw(chart) {
      const { ctx, chartArea, scales } = chart;
      ctx.save();
      ctx.strokeStyle = colour("--zt-axis");
      ctx.fillStyle = colour("--zt-axis");
      ctx.globalAlpha = 0.6;
      ctx.setLineDash([2, 3]);
      ctx.font = "11px sans-serif";
      for (const { at, permille } of chart.options.changes ?? []) {
        const x = scales.x.getPixelForValue(at);
        ctx.beginPath();
        ctx.moveTo(x, chartArea.top);
        ctx.lineTo(x, chartArea.bottom);
        ctx.stroke();
        ctx.fillText(`${permille / 10} %`, Math.min(x + 3, chartArea.right - 34), chartArea.top + 10);
      }
      ctx.restore();
    },
  };

  const changesOf = (points) => {
    const found = [];
    let last = null;
    points.at.forEach((at, index) => {
      const permille = points.permille[index];
      if (permille !== null && permille !== last) {
        found.push({ at, permille });
        last = permille;
      }
    });
    return found;
  };

  class SideChart {
    constructor(figure) {
      this.figure = figure;
      this.sides = SIDES[figure.dataset.side];
      this.unit = figure.dataset.unit;
      const line = (label, dash) => ({
        label, data: [], borderWidth: 2, borderDash: dash, pointHitRadius: 12, tension: 0, spanGaps: false,
        pointRadius: (context) => {
          const own = context.dataset.data;
          const alone = (index) => own[index] === undefined || own[index].y === null;
          return alone(context.dataIndex - 1) && alone(context.dataIndex + 1) ? 2 : 0;
        },
      });
      this.chart = new Chart(figure.querySelector("canvas"), {
        type: "line",
        data: { datasets: [line("new", []), line("old", [5, 4])] },
        plugins: [steps],
        options: {
          animation: false,
          responsive: true,
          maintainAspectRatio: false,
          parsing: false,
          interaction: { mode: "index", intersect: false },
          plugins: {
            legend: { display: false },
            tooltip: {
              displayColors: false,
              callbacks: {
                title: (items) => time(items[0].parsed.x),
                label: (item) => `${item.dataset.label}: ${written(item.parsed.y, this.unit)}`,
              },
            },
          },
          scales: {
            x: {
              type: "linear", border: { display: false }, grid: { display: false },
              ticks: { maxRotation: 0, callback: (value) => time(value).slice(0, 5) },
              afterBuildTicks: (axis) => {
                axis.ticks = [0.1, 0.5, 0.9].map((part) => ({ value: axis.min + part * (axis.max - axis.min) }));
              },
            },
            y: {
              beginAtZero: true, suggestedMax: this.sides.least, border: { display: false },
              ticks: { maxTicksLimit: 4, callback: (value) => written(value, this.unit) },
            },
          },
        },
      });
      this.colours();
    }

    colours() {
      const { x, y } = this.chart.options.scales;
      this.chart.data.datasets.forEach((dataset, index) => {
        dataset.borderColor = colour(`--zt-line-${index + 1}`);
        dataset.backgroundColor = dataset.borderColor;
      });
      x.ticks.color = colour("--zt-axis");
      y.ticks.color = colour("--zt-axis");
      y.grid.color = colour("--zt-grid");
      this.chart.update("none");
    }

    draw(points) {
      const values = [points[this.sides.new], points[this.sides.old]];
      values.forEach((list, index) => {
        this.chart.data.datasets[index].data = points.at.map((at, position) => ({ x: at, y: list[position] }));
      });
      const isKnown = values.some((list) => list.some((value) => value !== null));
      if (points.at.length > 0) {
        const last = points.at[points.at.length - 1];
        Object.assign(this.chart.options.scales.x, { min: points.at[0], max: Math.max(last, points.at[0] + 20000) });
      }
      this.chart.options.changes = changesOf(points);
      this.chart.update("none");
      this.figure.querySelector("[data-empty]").hidden = isKnown;
      this.chart.canvas.style.visibility = isKnown ? "visible" : "hidden";
      this.tell(points, values);
    }

    /* What the picture shows, for whoever does not see it. */
    tell(points, values) {
      const newest = values.map((list) => list.filter((value) => value !== null).at(-1) ?? null);
      const words = newest.every((value) => value === null)
        ? ""
        : `new ${written(newest[0], this.unit)} · old ${written(newest[1], this.unit)}`;
      this.figure.querySelector("[data-now]").textContent = words;
      const table = document.createElement("table");
      table.createCaption().textContent = words;
      const head = table.createTHead().insertRow();
      for (const title of ["time", "new", "old"]) {
        const cell = document.createElement("th");
        cell.scope = "col";
        cell.textContent = title;
        head.append(cell);
      }
      const body = table.createTBody();
      const step = Math.max(1, Math.floor(points.at.length / TABLE_ROWS));
      for (let index = points.at.length - 1; index >= 0; index -= step) {
        const row = body.insertRow();
        row.insertCell().textContent = time(points.at[index]);
        values.forEach((list) => {
          row.insertCell().textContent = written(list[index], this.unit);
        });
      }
      this.figure.querySelector("[data-table]").replaceChildren(table);
    }
  }

  /* --- both releases ---------------------------------------------------------------------------- */

  const startPoints = (section) => {
    const charts = [...section.querySelectorAll("[data-side]")].map((figure) => new SideChart(figure));
    let measured = {};
    let last = "";

    const showMeasured = () => {
      for (const [stage, percent] of Object.entries(measured)) {
        const place = document.querySelector(`[data-stage="${stage}"] [data-measured]`);
        if (place !== null) {
          place.textContent = `, answered ${percent} % of the requests`;
        }
      }
    };
    const poll = async () => {
      if (document.hidden) {
        return false;
      }
      const points = await json(section.dataset.url).catch(() => null);
      if (points === null) {
        return false;
      }
      const text = JSON.stringify(points);
      if (text !== last) {
        last = text;
        measured = points.stages;
        charts.forEach((chart) => chart.draw(points));
      }
      showMeasured();
      return points.over;
    };
    const repeat = async () => {
      if (!(await poll())) {
        window.setTimeout(repeat, POLL_MS);
      }
    };
    document.addEventListener("htmx:afterSettle", showMeasured);
    new MutationObserver(() => charts.forEach((chart) => chart.colours())).observe(document.documentElement, {
      attributes: true,
      attributeFilter: ["class"],
    });
    repeat();
  };

  /* --- the log ---------------------------------------------------------------------------------- */

  const startLog = (section) => {
    const text = document.getElementById("zt-log-text");
    const name = section.querySelector("[data-log-name]");
    const note = section.querySelector("[data-log-note]");
    let url = "";
    let offset = 0;
    let isDone = true;
    let isChosen = false;
    let timer = 0;

    const read = async () => {
      const mine = url;
      const answer = await json(`${url}?offset=${offset}`).catch(() => null);
      if (mine !== url || answer === null) {
        return;
      }
      const isAtEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 24;
      if (answer.skipped) {
        text.textContent = "";
      }
      if (answer.text !== "") {
        text.textContent = (text.textContent + answer.text).slice(-MOST_LOG);
        if (isAtEnd) {
          text.scrollTop = text.scrollHeight;
        }
      }
      offset = answer.offset;
      isDone = !answer.running && answer.text === "";
      note.textContent = answer.note;
    };
    const repeat = async () => {
      window.clearTimeout(timer);
      if (url !== "" && !isDone && !document.hidden) {
        await read();
      }
      timer = window.setTimeout(repeat, isDone ? POLL_MS : 1000);
    };
    const show = (address, title) => {
      if (address === url) {
        return;
      }
      [url, offset, isDone] = [address, 0, false];
      text.textContent = "";
      name.textContent = title;
      section.hidden = false;
      repeat();
    };
    const follow = () => {
      const current = document.getElementById("zt-deployment")?.dataset.step ?? "";
      const row = current === "" || isChosen ? null : document.querySelector(`[data-run="${current}"]`);
      if (row !== null) {
        show(row.querySelector("[data-log]").dataset.log, row.querySelector("[data-run-name]").textContent);
      }
    };
    document.addEventListener("click", (event) => {
      const button = event.target.closest("[data-log]");
      if (button !== null) {
        isChosen = true;
        show(button.dataset.log, button.closest("[data-run]").querySelector("[data-run-name]").textContent);
        button.blur();
        section.scrollIntoView({ block: "nearest" });
      }
    });
    document.addEventListener("htmx:afterSettle", follow);
    follow();
  };

  /* What somebody has unfolded stays so when the part is replaced. */
  const keepUnfolded = () => {
    let isOpen = false;
    document.addEventListener("toggle", (event) => {
      if (event.target.id === "zt-verdict-numbers" && event.target.isConnected) {
        isOpen = event.target.open;
      }
    }, true);
    document.addEventListener("htmx:afterSettle", () => {
      const numbers = document.getElementById("zt-verdict-numbers");
      if (numbers !== null && isOpen) {
        numbers.open = true;
      }
    });
  };

  /* --- buttons ---------------------------------------------------------------------------------- */

  /* Nobody loses what he is doing: an open dialog or a typed word keeps the page as it is. */
  const isBusy = () => {
    const dialog = document.getElementById("modal-content");
    const here = document.activeElement;
    return (dialog !== null && dialog.checkVisibility()) || (here !== null && here.matches("input, textarea, select"));
  };

  const startButtons = () => {
    const now = () => document.getElementById("zt-deployment").dataset;
    let shown = now().possible;
    document.addEventListener("htmx:afterSettle", (event) => {
      if (event.target.id !== "zt-live" || now().possible === shown || isBusy()) {
        return;
      }
      const bar = document.querySelector("#main [x-data*='showActions']");
      if (now().over === "yes" || bar === null) {
        window.location.reload();
        return;
      }
      shown = now().possible;
      window.htmx.ajax("GET", window.location.href, {
        target: bar, select: "#main [x-data*='showActions']", swap: "outerHTML",
      });
    });
  };

  document.addEventListener("DOMContentLoaded", () => {
    const points = document.getElementById("zt-points");
    const log = document.getElementById("zt-log");
    if (points !== null) {
      startPoints(points);
    }
    if (log !== null) {
      startLog(log);
    }
    if (document.querySelector(".zt-deployment-live") !== null) {
      startButtons();
      keepUnfolded();
    }
  });
})();
