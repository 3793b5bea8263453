// The timeline: bytes, connections and failures over the span, gaps hatched; dragging picks a span.
"use strict";
(function (ctk) {
  const { html, useLayoutEffect, useRef, useState } = htmPreact;
  const HEIGHT = 86;
  const TIMES = 24; // below the last chart
  const ROOM = 8; // below the others, for the lower half of a 0

  function secondsOf(text) {
    return new Date(text).getTime() / 1000;
  }

  function hatch(context, colour) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 8;
    const draw = tile.getContext("2d");
    draw.strokeStyle = colour;
    draw.lineWidth = 1.5;
    draw.beginPath();
    for (const start of [-8, 0, 8]) {
      draw.moveTo(start, 8);
      draw.lineTo(start + 8, 0);
    }
    draw.stroke();
    return context.createPattern(tile, "repeat");
  }

  // The spans that were not recorded, or not wholly, within [from, to] in seconds.
  function hatched(doc, from, to) {
    const spans = doc.trust.gaps.map((gap) => [secondsOf(gap.since), secondsOf(gap.until)]);
    return spans.filter(([since, until]) => until >= from && since <= to);
  }

  function drawGaps(doc, colour) {
    return (plot) => {
      const { ctx, bbox } = plot;
      const [from, to] = [plot.scales.x.min, plot.scales.x.max];
      ctx.save();
      ctx.fillStyle = hatch(ctx, colour);
      for (const [since, until] of hatched(doc, from, to)) {
        const left = plot.valToPos(Math.max(since, from), "x", true);
        const right = plot.valToPos(Math.min(until, to), "x", true);
        ctx.fillRect(left, bbox.top, Math.max(right - left, 4), bbox.height);
      }
      ctx.restore();
    };
  }

  function Chart({ doc, series, title, values, colour, format, onSpan, width, last }) {
    const place = useRef(null);
    useLayoutEffect(() => {
      const style = getComputedStyle(document.documentElement);
      const text = style.getPropertyValue("--quiet").trim();
      const grid = style.getPropertyValue("--line").trim();
      const start = secondsOf(series.start);
      const times = values.map((_, at) => start + at * series.step_s);
      // A step lasts to its end: the last one is drawn as wide as the others.
      times.push(start + values.length * series.step_s);
      const drawn = [...values, null];
      const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "11px system-ui" };
      const bars = uPlot.paths.bars({ size: [1, Infinity], align: 1 });
      const ink = style.getPropertyValue(colour).trim();
      const plot = new uPlot({
        width, height: last ? HEIGHT : HEIGHT - TIMES + ROOM, padding: [6, 30, 0, 0], // half of the last time's label
        legend: { show: false },
        cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false }, sync: { key: "timeline" } },
        scales: { x: { time: true, range: [times[0], times[times.length - 1]] }, y: { range: (_, low, high) => [0, high || 1] } },
        axes: [
          { ...axis, space: 80, size: last ? TIMES : ROOM, values: !last ? (_, splits) => splits.map(() => "") : (_, splits) => splits.map((at) => {
            const moment = new Date(at * 1000);
            const clock = `${String(moment.getHours()).padStart(2, "0")}:${String(moment.getMinutes()).padStart(2, "0")}`;
            if (series.step_s >= 3600) return `${moment.getMonth() + 1}-${moment.getDate()} ${clock}`;
            return series.step_s >= 60 ? clock : `${clock}:${String(moment.getSeconds()).padStart(2, "0")}`;
          }) },
          { ...axis, size: 62, splits: (self) => [0, self.scales.y.max / 2, self.scales.y.max], values: (_, splits) => splits.map((at) => format(Math.round(at))) },
        ],
        series: [{}, { paths: bars, fill: ink, stroke: ink, width: 0, points: { show: false } }],
        hooks: {
          drawClear: [drawGaps(doc, text)],
          setSelect: [(self) => {
            const { left, width: wide } = self.select;
            if (wide < 4) return;
            const [since, until] = [self.posToVal(left, "x"), self.posToVal(left + wide, "x")];
            self.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
            onSpan(new Date(since * 1000).toISOString(), new Date(until * 1000).toISOString());
          }],
        },
      }, [times, drawn], place.current);
      return () => plot.destroy();
    }, [doc, series, values, width, colour, last, ctk.darkNow()]);
    return html`<figure class="chart"><figcaption>${title}</figcaption><div ref=${place} aria-hidden="true"></div></figure>`;
  }

  function bytesOfSteps(columns) {
    return columns.bytes_out.map((out, at) => {
      const back = columns.bytes_in[at];
      return out === null && back === null ? null : (out || 0) + (back || 0);
    });
  }

  function failedOfSteps(columns) {
    return columns.refused.map((refused, at) => refused + columns.unreplied[at]);
  }

  // As wide as its place, which changes with the window and the panel beside it.
  function Timeline({ doc, columns, title, onSpan }) {
    const place = useRef(null);
    const [width, setWidth] = useState(0);
    // At once, not with the next frame: who takes a picture of the page without a screen gets none.
    useLayoutEffect(() => {
      if (place.current === null) return undefined;
      setWidth(Math.floor(place.current.getBoundingClientRect().width));
      const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
      observer.observe(place.current);
      return () => observer.disconnect();
    }, [columns === null]);
    if (!columns || !columns.connections || !doc.series.start) return null;
    const each = [
      ["bytes", bytesOfSteps(columns), "--bytes", ctk.scaled],
      ["connections", columns.connections, "--connections", ctk.counted],
      ["failures", failedOfSteps(columns), "--failed", ctk.counted],
    ];
    const drawn = each.filter(([name, values]) => name !== "bytes" || values.some((value) => value !== null));
    return html`<div class="timeline" role="group" aria-label=${title} ref=${place}>
      ${width > 0 && drawn.map(
        ([name, values, colour, format], at) => html`<${Chart} key=${name} doc=${doc} series=${doc.series} title=${name}
          values=${values} colour=${colour} format=${format} onSpan=${onSpan} width=${width} last=${at === drawn.length - 1} />`)}
    </div>`;
  }

  // A line of small bars, as wide as a cell.
  function Spark({ values, failing }) {
    const most = Math.max(...values.map((value) => value || 0), 1);
    const width = 100 / values.length;
    return html`<svg class=${failing ? "spark failing" : "spark"} viewBox="0 0 100 20" preserveAspectRatio="none" aria-hidden="true">
      ${values.map((value, at) => value ? html`<rect x=${at * width} width=${Math.max(width - 0.3, 0.6)}
        y=${20 - Math.max((20 * value) / most, 2)} height=${Math.max((20 * value) / most, 2)} />` : null)}
    </svg>`;
  }

  // The columns of several edges added up; null where none of them has steps of its own.
  function addedUp(doc, edges) {
    let sum = null;
    for (const edge of edges) {
      const columns = doc.series.edges[String(edge.place)];
      if (columns === undefined) continue;
      if (sum === null) {
        sum = Object.fromEntries(ctk.SUM_KEYS.map((key) => [key, [...columns[key]]]));
        continue;
      }
      for (const key of ctk.SUM_KEYS) {
        columns[key].forEach((value, at) => {
          if (value !== null) sum[key][at] = (sum[key][at] || 0) + value;
        });
      }
    }
    return sum;
  }

  Object.assign(ctk, { Timeline, Spark, addedUp, bytesOfSteps, failedOfSteps });
})((globalThis.ctk = globalThis.ctk || {}));
