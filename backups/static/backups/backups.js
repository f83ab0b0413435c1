/* The pages of backups: the trend of size, and the page that follows what runs. */
"use strict";

(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const written = (bytes) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let index = 0;
    let size = bytes;
    while (size >= 1024 && index < units.length - 1) {
      size /= 1024;
      index += 1;
    }
    return `${size >= 100 || index === 0 ? size.toFixed(0) : size.toFixed(1)} ${units[index]}`;
  };

  const dress = (chart) => {
    chart.data.datasets[0].borderColor = colour("--zt-line-1");
    chart.data.datasets[0].pointBackgroundColor = colour("--zt-line-1");
    const { x, y } = chart.options.scales;
    x.ticks.color = colour("--zt-axis");
    y.ticks.color = colour("--zt-axis");
    y.grid.color = colour("--zt-grid");
    chart.update("none");
  };

  const draw = (canvas) => {
    const points = JSON.parse(canvas.parentElement.querySelector("script[type='application/json']").textContent);
    const isShort = points.at[points.at.length - 1] - points.at[0] < 3 * 86400 * 1000;
    const form = isShort ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" };
    const day = (milliseconds) => new Date(milliseconds).toLocaleString("en-GB", form);
    const full = (milliseconds) => new Date(milliseconds).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
    const chart = new Chart(canvas, {
      type: "line",
      data: {
        datasets: [{
          label: "stored",
          data: points.at.map((at, index) => ({ x: at, y: points.stored[index] })),
          borderWidth: 1.75,
          pointRadius: points.at.length > 12 ? 0 : 2,
          pointHitRadius: 12,
          tension: 0,
        }],
      },
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
              title: (items) => full(items[0].parsed.x),
              label: (item) => `stored ${written(item.parsed.y)} of ${written(points.plain[item.dataIndex])}`,
            },
          },
        },
        scales: {
          x: { type: "linear", min: points.at[0], max: points.at[points.at.length - 1], border: { display: false }, grid: { display: false }, ticks: { maxTicksLimit: 3, maxRotation: 0, callback: day }, afterBuildTicks: (axis) => { axis.ticks = [0.12, 0.5, 0.88].map((part) => ({ value: axis.min + part * (axis.max - axis.min) })); } },
          y: { beginAtZero: true, border: { display: false }, ticks: { maxTicksLimit: 3, callback: written } },
        },
      },
    });
    dress(chart);
    return chart;
  };

  const drawAll = () => {
    for (const canvas of document.querySelectorAll("canvas[data-trend]")) {
      if (Chart.getChart(canvas) === undefined) {
        draw(canvas);
      }
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    drawAll();
    new MutationObserver(() => {
      for (const canvas of document.querySelectorAll("canvas[data-trend]")) {
        const chart = Chart.getChart(canvas);
        if (chart !== undefined) {
          dress(chart);
        }
      }
    }).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
  });
  document.addEventListener("htmx:load", drawAll);

  /* Nobody loses what he is doing: an open dialog, a ticked row or a typed word keeps the page as it is. */
  const isBusy = () => {
    const dialog = document.getElementById("modal-content");
    const here = document.activeElement;
    return (dialog !== null && dialog.checkVisibility())
      || document.querySelector("#changelist .action-select:checked") !== null
      || (here !== null && here.matches("input, textarea, select"));
  };

  document.addEventListener("zt-backups-moved", () => {
    const part = document.getElementById("zt-live");
    if (part === null || isBusy()) {
      return;
    }
    if (part.dataset.reload === "page") {
      window.location.reload();
      return;
    }
    window.htmx.ajax("GET", window.location.href, { target: "#changelist", select: "#changelist", swap: "outerHTML" });
  });
})();
