// Where boxes stand: columns by the longest path of who dials whom, as few crossings as some
// sweeps give, ties by name. Pure, and the same for the same graph; no physics.
"use strict";
(function (ctk) {
  const SWEEPS = 8;
  const WIDTH = 190; // of a box
  const HEIGHT = 58;
  const ACROSS = 80; // between columns
  const BETWEEN = 16; // between boxes of a column
  const LANE = 8; // between a box and a link that passes it
  const MARGIN = 24;
  const MOST_COLUMNS = 6; // more do not fit a screen: neighbours share one

  // Links that close a circle, found by a walk in a fixed order, are turned round for the layout.
  function withoutCircles(keys, links) {
    const next = new Map(keys.map((key) => [key, []]));
    for (const link of links) if (link.src !== link.dst) next.get(link.src).push(link);
    const state = new Map(); // absent: not seen, 1: on the path, 2: done
    const forward = [];
    for (const root of keys) {
      if (state.has(root)) continue;
      state.set(root, 1);
      const path = [{ key: root, at: 0 }];
      while (path.length) {
        const top = path[path.length - 1];
        const link = next.get(top.key)[top.at];
        if (link === undefined) {
          state.set(top.key, 2);
          path.pop();
          continue;
        }
        top.at += 1;
        if (state.get(link.dst) === 1) {
          forward.push([link.dst, link.src]);
        } else {
          forward.push([link.src, link.dst]);
          if (!state.has(link.dst)) {
            state.set(link.dst, 1);
            path.push({ key: link.dst, at: 0 });
          }
        }
      }
    }
    return forward;
  }

  // The column of each box: one behind the last of those that dial it.
  function columnsOf(keys, pairs) {
    const before = new Map(keys.map((key) => [key, 0]));
    const next = new Map(keys.map((key) => [key, []]));
    for (const [src, dst] of pairs) {
      next.get(src).push(dst);
      before.set(dst, before.get(dst) + 1);
    }
    const column = new Map(keys.map((key) => [key, 0]));
    const ready = keys.filter((key) => before.get(key) === 0);
    for (let at = 0; at < ready.length; at += 1) {
      for (const dst of next.get(ready[at])) {
        column.set(dst, Math.max(column.get(dst), column.get(ready[at]) + 1));
        before.set(dst, before.get(dst) - 1);
        if (before.get(dst) === 0) ready.push(dst);
      }
    }
    const last = Math.max(0, ...column.values());
    if (last >= MOST_COLUMNS) {
      for (const [key, at] of column) column.set(key, Math.round((at * (MOST_COLUMNS - 1)) / last));
    }
    return column;
  }

  // Order each column by where its neighbours stand, to and fro.
  function ordered(columns, pairs) {
    const beside = new Map();
    for (const column of columns) for (const key of column) beside.set(key, []);
    for (const [src, dst] of pairs) {
      beside.get(src).push(dst);
      beside.get(dst).push(src);
    }
    const place = new Map();
    const number = () => {
      for (const column of columns) {
        column.forEach((key, at) => place.set(key, column.length > 1 ? at / (column.length - 1) : 0.5));
      }
    };
    number();
    for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
      const order = sweep % 2 ? [...columns.keys()].reverse() : [...columns.keys()];
      for (const at of order) {
        const mean = new Map(columns[at].map((key) => {
          const all = beside.get(key);
          const sum = all.reduce((total, other) => total + place.get(other), 0);
          return [key, all.length ? sum / all.length : place.get(key)];
        }));
        columns[at].sort((one, other) => mean.get(one) - mean.get(other) || ctk.compareText(one, other));
        number();
      }
    }
    return columns;
  }

  // Boxes that at least half of the others dial and that nothing fails at stand on a rail: DNS,
  // metrics. Their links would hide all others.
  function railOf(graph) {
    const callers = new Map();
    const failing = new Set();
    for (const link of graph.links.values()) {
      if (link.src === link.dst) continue;
      callers.set(link.dst, (callers.get(link.dst) || 0) + 1);
      if (ctk.failedOf(link.sums)) failing.add(link.dst);
    }
    const dialling = new Set([...graph.links.values()].map((link) => link.src)).size;
    return new Set([...graph.boxes.keys()].filter(
      (key) => !failing.has(key) && (callers.get(key) || 0) >= Math.max(4, dialling / 2),
    ));
  }

  // Place every box. `earlier`, a layout of the same page, keeps what it placed where it is.
  function layout(graph, earlier) {
    const rail = earlier ? new Set(earlier.rail) : railOf(graph);
    const keys = [...graph.boxes.keys()].filter((key) => !rail.has(key)).sort(ctk.compareText);
    const links = [...graph.links.values()].filter((link) => !rail.has(link.src) && !rail.has(link.dst))
      .sort((one, other) => ctk.compareText(one.key, other.key));
    const pairs = withoutCircles(keys, links);
    const columnAt = columnsOf(keys, pairs);
    let columns;
    if (earlier) {
      const kept = new Set(earlier.columns.flat());
      columns = earlier.columns.map((column) => [...column]);
      for (const key of keys) {
        if (kept.has(key)) continue;
        const at = Math.min(columnAt.get(key), Math.max(columns.length - 1, 0));
        (columns[at] = columns[at] || []).push(key);
      }
    } else {
      columns = [];
      for (const key of keys) (columns[columnAt.get(key)] = columns[columnAt.get(key)] || []).push(key);
      columns = ordered(Array.from(columns, (column) => column || []), pairs);
    }
    const places = new Map();
    const tallest = Math.max(0, ...columns.map((column) => column.length));
    const height = tallest * (HEIGHT + BETWEEN) - BETWEEN;
    columns.forEach((column, at) => {
      const own = column.length * (HEIGHT + BETWEEN) - BETWEEN;
      const top = earlier && earlier.tops[at] !== undefined ? earlier.tops[at] : MARGIN + (height - own) / 2;
      column.forEach((key, row) => {
        places.set(key, { x: MARGIN + at * (WIDTH + ACROSS), y: top + row * (HEIGHT + BETWEEN) });
      });
    });
    const tops = columns.map((column) => (column.length ? places.get(column[0]).y : MARGIN));
    const railX = MARGIN + columns.length * (WIDTH + ACROSS);
    const onRail = [...rail].sort(ctk.compareText);
    onRail.forEach((key, row) => places.set(key, { x: railX, y: MARGIN + row * (HEIGHT + BETWEEN) }));
    for (const key of places.keys()) if (!graph.boxes.has(key)) places.delete(key);
    const bottom = Math.max(0, ...[...places.values()].map((place) => place.y + HEIGHT));
    return {
      columns, tops, rail: onRail, places,
      width: railX + (onRail.length ? WIDTH + MARGIN : 0),
      height: bottom + MARGIN,
    };
  }

  // How high a link passes each column between its ends: in a straight line where there is no box,
  // else in the nearest gap between boxes, above or below them all.
  function lanesOf(from, to, places) {
    const between = new Map();
    for (const place of places.values()) {
      if (place.x <= from.x || place.x >= to.x) continue;
      if (!between.has(place.x)) between.set(place.x, []);
      between.get(place.x).push(place.y);
    }
    const columns = [...between].sort((one, other) => one[0] - other[0]);
    const steps = to.x - from.x;
    return columns.map(([x, tops]) => {
      const straight = from.y + ((to.y - from.y) * (x - from.x)) / steps + HEIGHT / 2;
      const isFree = (y) => tops.every((top) => y <= top - LANE + 1 || y >= top + HEIGHT + LANE - 1);
      const lanes = [straight, ...tops.flatMap((top) => [top - LANE, top + HEIGHT + LANE])].filter(isFree);
      lanes.sort((one, other) => Math.abs(one - straight) - Math.abs(other - straight) || one - other);
      return { x, y: lanes[0] };
    });
  }

  // The curve of a link, past the boxes between its ends; one that goes back leaves below and comes
  // round.
  function curve(from, to, places) {
    const [x1, y1] = [from.x + WIDTH, from.y + HEIGHT / 2];
    const [x2, y2] = [to.x, to.y + HEIGHT / 2];
    if (x2 > x1) {
      const bend = (ax, ay, bx, by) => `C${(ax + bx) / 2},${ay} ${(ax + bx) / 2},${by} ${bx},${by}`;
      let [path, x, y] = [`M${x1},${y1}`, x1, y1];
      for (const lane of lanesOf(from, to, places)) {
        path += `${bend(x, y, lane.x, lane.y)}H${lane.x + WIDTH}`;
        [x, y] = [lane.x + WIDTH, lane.y];
      }
      return path + bend(x, y, x2, y2);
    }
    if (from === to) {
      const y = from.y + HEIGHT;
      return `M${from.x + WIDTH - 40},${y}c0,22 -60,22 -60,0`;
    }
    // Of the same column, or back: round the outside, so that it crosses no box beside it.
    const reach = x2 === from.x ? ACROSS * 0.6 : 60;
    if (x2 === from.x) return `M${x1},${y1}C${x1 + reach},${y1} ${x1 + reach},${y2} ${x1},${y2}`;
    return `M${x1},${y1}C${x1 + reach},${y1 + reach} ${x2 - reach},${y2 + reach} ${x2},${y2}`;
  }

  Object.assign(ctk, { layout, curve, BOX_WIDTH: WIDTH, BOX_HEIGHT: HEIGHT });
})((globalThis.ctk = globalThis.ctk || {}));
