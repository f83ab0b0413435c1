/* The start page's figures and charts: one poll every two seconds, no animation, the theme's own Chart.js. */
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const settingsElement = document.getElementById("zt-chart-settings");
  const now = document.getElementById("zt-now");
  if (settingsElement === null || now === null) {
    return;
  }
  const settings = JSON.parse(settingsElement.textContent);
  const POLL_MS = 2000;
  const RELOAD_MS = 5 * 60 * 1000;
  const TABLE_ROWS = 12;
  const points = { at: [] };
  let loadedAt = 0;
  let last = "";

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const lineColours = ["--zt-line-1", "--zt-line-2"];

  const written = (value, config) => {
    if (value === null || value === undefined) {
      return "–";
    }
    const digits = Math.abs(value) >= 100 || config.whole ? 0 : Math.abs(value) >= 10 ? 1 : 2;
    const text = value.toLocaleString("en-GB", { maximumFractionDigits: digits });
    return config.unit === "" ? text : `${text} ${config.unit}`;
  };

  const clock = (milliseconds, isFull) => {
    const date = new Date(milliseconds);
    const time = { hour: "2-digit", minute: "2-digit" };
    const day = { day: "numeric", month: "short" };
    const isLong = settings.width * settings.points > 86400 * 3;
    if (isFull) {
      return date.toLocaleString("en-GB", { ...day, ...time });
    }
    return isLong ? date.toLocaleDateString("en-GB", day) : date.toLocaleTimeString("en-GB", time);
  };

  const span = () => {
    const end = points.at.length > 0 ? points.at[points.at.length - 1] + settings.width * 1000 : Date.now();
    return [end - settings.width * settings.points * 1000, end];
  };

  class LineChart {
    constructor(figure) {
      this.figure = figure;
      this.name = figure.dataset.chart;
      this.config = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
      const config = this.config;
      this.chart = new Chart(figure.querySelector("canvas"), {
        type: "line",
        data: {
          datasets: config.lines.map((line, index) => ({
            label: line.label,
            data: [],
            borderWidth: 1.75,
            borderDash: index === 0 ? [] : [5, 4],
            pointRadius: 0,
            pointHitRadius: 12,
            tension: 0,
            fill: index === 0 && config.lines.length === 1,
          })),
        },
        options: {
          animation: false,
          responsive: true,
          maintainAspectRatio: false,
          parsing: false,
          normalized: true,
          interaction: { mode: "index", intersect: false },
          plugins: {
            legend: { display: false },
            tooltip: {
              displayColors: false,
              callbacks: {
                title: (items) => clock(items[0].parsed.x, true),
                label: (item) => `${item.dataset.label}: ${written(item.parsed.y, config)}`,
              },
            },
          },
          scales: {
            x: {
              type: "linear",
              border: { display: false },
              grid: { display: false },
              ticks: { maxTicksLimit: 4, maxRotation: 0, autoSkip: true, callback: (value) => clock(value, false) },
              afterBuildTicks: (axis) => {
                axis.ticks = [0.1, 0.37, 0.64, 0.91].map((part) => ({ value: axis.min + part * (axis.max - axis.min) }));
              },
            },
            y: {
              beginAtZero: true,
              suggestedMax: config.unit === "%" ? 10 : 1,
              border: { display: false },
              ticks: { maxTicksLimit: 4, precision: config.whole ? 0 : undefined, callback: (value) => written(value, config) },
            },
          },
        },
      });
      this.legend();
      this.colours();
    }

    legend() {
      if (this.config.lines.length < 2) {
        return;
      }
      const legend = this.figure.querySelector("[data-legend]");
      legend.hidden = false;
      this.config.lines.forEach((line, index) => {
        const item = document.createElement("span");
        item.className = `zt-legend-item zt-legend-${index + 1}`;
        item.textContent = line.label;
        legend.append(item);
      });
    }

    colours() {
      const options = this.chart.options;
      this.chart.data.datasets.forEach((dataset, index) => {
        dataset.borderColor = colour(lineColours[index]);
        dataset.backgroundColor = colour("--zt-fill-1");
      });
      for (const axis of [options.scales.x, options.scales.y]) {
        axis.ticks.color = colour("--zt-axis");
      }
      options.scales.y.grid.color = colour("--zt-grid");
      this.chart.update("none");
    }

    values(line) {
      return (points[line.field] ?? []).map((value) => (value === null ? null : value * line.times));
    }

    draw() {
      const [begin, end] = span();
      Object.assign(this.chart.options.scales.x, { min: begin, max: end });
      let known = 0;
      this.config.lines.forEach((line, index) => {
        const values = this.values(line);
        known += values.filter((value) => value !== null).length;
        this.chart.data.datasets[index].data = points.at.map((at, position) => ({ x: at, y: values[position] }));
        // a value between two gaps has no line to be seen by
        this.chart.data.datasets[index].pointRadius = (context) => {
          const own = context.dataset.data;
          const alone = (position) => own[position] === undefined || own[position].y === null;
          return alone(context.dataIndex - 1) && alone(context.dataIndex + 1) ? 2 : 0;
        };
      });
      this.chart.update("none");
      this.figure.querySelector("[data-empty]").hidden = known > 0;
      this.tell();
    }

    /* What the picture shows, for whoever does not see it. */
    tell() {
      const cells = this.config.lines.map((line) => {
        const values = this.values(line);
        const known = values.filter((value) => value !== null);
        const newest = known.length > 0 ? known[known.length - 1] : null;
        return { line, values, newest, known };
      });
      const shown = cells.map((cell) => written(cell.newest, this.config));
      this.figure.querySelector("[data-now]").textContent = shown.join(" · ");
      const table = document.createElement("table");
      const caption = table.createCaption();
      caption.textContent = cells
        .map(({ line, known, newest }) =>
          known.length === 0
            ? `${line.label}: nothing measured`
            : `${line.label}: newest ${written(newest, this.config)}, lowest ${written(Math.min(...known), this.config)}, highest ${written(Math.max(...known), this.config)}`,
        )
        .join("; ");
      const head = table.createTHead().insertRow();
      for (const title of ["time", ...this.config.lines.map((line) => line.label)]) {
        const cell = document.createElement("th");
        cell.scope = "col";
        cell.textContent = title;
        head.append(cell);
      }
      const body = table.createTBody();
      const step = Math.max(1, Math.floor(points.at.length / TABLE_ROWS));
      for (let position = points.at.length - 1; position >= 0; position -= step) {
        if (cells.every((cell) => cell.values[position] === null)) {
          continue;
        }
        const row = body.insertRow();
        row.insertCell().textContent = clock(points.at[position], true);
        for (const cell of cells) {
          row.insertCell().textContent = written(cell.values[position], this.config);
        }
      }
      this.figure.querySelector("[data-table]").replaceChildren(table);
    }
  }

  const charts = [...document.querySelectorAll("[data-chart]")].map((figure) => new LineChart(figure));

  /* New points take the place of those of the same time; what left the span is forgotten. True if anything changed. */
  const merge = (fresh, isWhole) => {
    if (fresh.at === undefined || fresh.at.length === 0) {
      return false;
    }
    const before = JSON.stringify(points);
    const first = fresh.at[0];
    const kept = isWhole ? 0 : points.at.findIndex((at) => at >= first) === -1 ? points.at.length : points.at.findIndex((at) => at >= first);
    for (const [name, values] of Object.entries(fresh)) {
      const joined = [...(points[name] ?? []).slice(0, kept), ...values];
      points[name] = joined.slice(-settings.points);
    }
    return JSON.stringify(points) !== before;
  };

  const address = () => {
    const hasPoints = points.at.length > 0 && Date.now() - loadedAt < RELOAD_MS;
    if (!hasPoints) {
      return [settings.url, true];
    }
    if (!settings.grows) {
      return [`${settings.url}&points=none`, false];
    }
    // the newest two points may not have been complete
    const after = points.at[Math.max(0, points.at.length - 3)];
    return [`${settings.url}&after=${after}`, false];
  };

  const poll = async () => {
    if (document.hidden) {
      return;
    }
    const [url, isWhole] = address();
    let answer;
    try {
      const response = await fetch(url, { headers: { "HX-Current-URL": window.location.href }, credentials: "same-origin" });
      if (!response.ok || response.headers.get("HX-Redirect") !== null) {
        return; // the other live part says so, and leads to the login where the session has ended
      }
      answer = await response.json();
    } catch {
      return;
    }
    if (isWhole) {
      loadedAt = Date.now();
    }
    if (answer.html !== last && !now.contains(document.activeElement)) {
      last = answer.html;
      now.innerHTML = answer.html;
    }
    if (merge(answer.points, isWhole) || isWhole) {
      charts.forEach((chart) => chart.draw());
    }
  };

  new MutationObserver(() => charts.forEach((chart) => chart.colours())).observe(document.documentElement, {
    attributes: true,
    attributeFilter: ["class"],
  });
  document.addEventListener("visibilitychange", poll);
  const repeat = async () => {
    await poll();
    window.setTimeout(repeat, POLL_MS);
  };
  repeat();
});
