// The map: boxes are buttons over one picture of links. Direction is kept, width is log bytes,
// failure is colour, dashes and a count.
"use strict";
(function (ctk) {
  const { html, useEffect, useMemo, useRef, useState } = htmPreact;
  const ZOOMS = [0.25, 2];

  function widthOf(link, measured) {
    const weight = measured ? ctk.bytesOf(link.sums) || 0 : link.sums.connections;
    return 1 + Math.log2(1 + weight / (measured ? 1024 : 1)) * 0.25;
  }

  function boxTitle(box) {
    const failed = ctk.failedOf(box.in) + ctk.failedOf(box.out);
    const words = [`${box.kind} ${box.title}`];
    if (box.leaves.size > 1) words.push(`${box.leaves.size} inside`);
    words.push(`dials ${ctk.counted(box.out.connections)} connections, gets ${ctk.counted(box.in.connections)}`);
    if (failed) words.push(`${ctk.counted(failed)} failed`);
    return words.join(", ");
  }

  function Box({ box, place, selected, quiet, onSelect, onOpen, onWalk }) {
    const failed = ctk.failedOf(box.in) + ctk.failedOf(box.out);
    const namespace = box.title.length > box.name.length ? box.title.slice(0, -box.name.length - 1) : box.kind;
    const name = ["box", `kind-${box.kind}`];
    if (ctk.isFailing(box.in) || ctk.isFailing(box.out)) name.push("failing");
    if (selected) name.push("selected");
    if (quiet) name.push("quiet");
    const onKey = (event) => {
      if (event.key === "Enter" && box.opens && selected) {
        event.preventDefault();
        onOpen(box);
      } else if (event.key.startsWith("Arrow")) {
        event.preventDefault();
        onWalk(box, event.key.slice(5).toLowerCase());
      }
    };
    return html`<button type="button" class=${name.join(" ")} data-key=${box.key} title=${boxTitle(box)}
        style=${{ left: `${place.x}px`, top: `${place.y}px` }} aria-pressed=${selected ? "true" : "false"}
        onClick=${() => onSelect(box)} onDblClick=${() => box.opens && onOpen(box)} onKeyDown=${onKey}>
      <span class="what">${ctk.shortened(namespace, failed ? 15 : 26)}${box.leaves.size > 1 ? html` <i>×${box.leaves.size}</i>` : null}</span>
      <span class="name">${ctk.shortened(box.name, 19)}</span>
      <span class="moved">${ctk.counted(box.all.connections)} conn${box.all.connections === 1 ? "" : "s"}${ctk.bytesOf(box.all) === null ? "" : ` · ${ctk.scaled(ctk.bytesOf(box.all))}`}</span>
      ${failed ? html`<span class="badge">${ctk.counted(failed)} failed</span>` : null}
    </button>`;
  }

  // The nearest box in a direction, along links where there are any.
  function walk(graph, places, box, way) {
    const here = places.get(box.key);
    const linked = [...graph.links.values()]
      .filter((link) => (way === "right" ? link.src : way === "left" ? link.dst : null) === box.key)
      .sort(ctk.rankLink).map((link) => (way === "right" ? link.dst : link.src))
      .filter((key) => key !== box.key && places.has(key));
    if (linked.length) return linked[0];
    const ahead = { right: (p) => p.x > here.x, left: (p) => p.x < here.x,
      down: (p) => p.x === here.x && p.y > here.y, up: (p) => p.x === here.x && p.y < here.y }[way];
    const distance = (p) => Math.abs(p.x - here.x) * 2 + Math.abs(p.y - here.y);
    const found = [...places].filter(([, p]) => ahead(p)).sort((one, other) => distance(one[1]) - distance(other[1])
      || ctk.compareText(one[0], other[0]));
    return found.length ? found[0][0] : null;
  }

  // A count stands in the middle of a link to the next column, and where a longer one begins: there
  // is no box over it.
  function labelAt(from, to) {
    const [x, y] = [from.x + ctk.BOX_WIDTH, from.y + ctk.BOX_HEIGHT / 2];
    const [right, down] = [to.x - x, to.y - from.y];
    const part = right < 0 || right > ctk.BOX_WIDTH ? [Math.sign(right) * 40, down * 0.06] : [right / 2, down / 2];
    return { x: x + part[0], y: y + part[1] - 5 };
  }

  function Links({ links, places, rail, measured, selected, onLink }) {
    return [...links.values()].map((link) => {
      const touched = selected !== null && (link.src === selected || link.dst === selected || link.key === selected);
      const onRail = rail.has(link.src) || rail.has(link.dst);
      if (onRail && !touched) return null;
      const failed = ctk.failedOf(link.sums);
      const failing = ctk.isFailing(link.sums);
      const [from, to] = [places.get(link.src), places.get(link.dst)];
      if (!from || !to) return null;
      const name = ["link"];
      if (failing) name.push("failing");
      if (selected !== null) name.push(touched ? "touched" : "quiet");
      const path = ctk.curve(from, to, places);
      return html`<g key=${link.key} class=${name.join(" ")} onClick=${() => onLink(link)}>
        <path class="reach" d=${path} /><path d=${path} stroke-width=${widthOf(link, measured).toFixed(1)}
          marker-end=${failing ? "url(#arrow-failing)" : "url(#arrow)"} />
        ${failing || (failed && touched) ? html`<text ...${labelAt(from, to)}>${ctk.counted(failed)}</text>` : null}
      </g>`;
    });
  }

  function Map_({ graph, place, measured, selected, onSelect, onOpen, onLink, onMore, open, onClose }) {
    const view = useRef(null);
    const [zoom, setZoom] = useState(null);
    const rail = useMemo(() => new Set(place.rail), [place]);
    const fit = () => {
      const wide = view.current ? view.current.clientWidth : place.width;
      return Math.min(1, Math.max(ZOOMS[0], wide / place.width));
    };
    useEffect(() => setZoom(fit()), []);
    const scale = zoom === null ? 1 : zoom;
    const turn = (by) => setZoom(Math.min(ZOOMS[1], Math.max(ZOOMS[0], scale * by)));
    const onWalk = (box, way) => {
      const next = walk(graph, place.places, box, way);
      if (next === null) return;
      onSelect(graph.boxes.get(next));
      const button = view.current.querySelector(`[data-key="${CSS.escape(next)}"]`);
      if (button) button.focus();
    };
    const near = useMemo(() => {
      if (selected === null) return null;
      const keys = new Set([selected]);
      for (const link of graph.links.values()) {
        if (link.key === selected || link.src === selected || link.dst === selected) {
          keys.add(link.src);
          keys.add(link.dst);
        }
      }
      return keys;
    }, [graph, selected]);
    const more = graph.more;
    return html`<div class="map">
      <div class="tools">
        <button type="button" onClick=${() => turn(1.25)} aria-label="Larger">+</button>
        <button type="button" onClick=${() => turn(0.8)} aria-label="Smaller">−</button>
        <button type="button" onClick=${() => setZoom(fit())}>Fit</button>
        ${[...open].sort(ctk.compareText).map((key) => html`<button type="button" class="chip" data-key=${key} onClick=${() => onClose(key)}
          title="Close it: show it as one box">${ctk.shortened(key.slice(key.indexOf(":") + 1), 40)} ×</button>`)}
        ${more.boxes.length || more.links.length ? html`<button type="button" class="more" onClick=${onMore}>
          +${ctk.counted(more.boxes.length)} boxes, ${ctk.counted(more.links.length)} links more: ${" "}
          ${ctk.counted(more.sums.connections)} connections</button>` : null}
      </div>
      <div class="view" ref=${view} tabindex="-1">
        <div class="sheet" style=${{ width: `${place.width * scale}px`, height: `${place.height * scale}px` }}>
          <div class="scaled" style=${{ transform: `scale(${scale})`, width: `${place.width}px`, height: `${place.height}px` }}>
            <svg width=${place.width} height=${place.height} aria-hidden="true">
              <defs>${["arrow", "arrow-failing"].map((id) => html`<marker id=${id} viewBox="0 0 8 8" refX="7" refY="4"
                markerWidth="9" markerHeight="9" markerUnits="userSpaceOnUse" orient="auto"><path d="M0,0L8,4L0,8z" /></marker>`)}</defs>
              <${Links} links=${graph.links} places=${place.places} rail=${rail} measured=${measured} selected=${selected} onLink=${onLink} />
            </svg>
            ${place.rail.length ? html`<span class="rail" style=${{ left: `${place.width - ctk.BOX_WIDTH - 24}px` }}>dialled by nearly all</span>` : null}
            ${[...graph.boxes.values()].filter((box) => place.places.has(box.key)).map((box) => html`<${Box} key=${box.key} box=${box}
              place=${place.places.get(box.key)} selected=${box.key === selected} quiet=${near !== null && !near.has(box.key)}
              onSelect=${onSelect} onOpen=${onOpen} onWalk=${onWalk} />`)}
          </div>
        </div>
      </div>
    </div>`;
  }

  Object.assign(ctk, { Map: Map_ });
})((globalThis.ctk = globalThis.ctk || {}));
