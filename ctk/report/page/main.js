// The page: one document, one address. In a report the document is in the page itself; served, it
// is fetched for the filters in the address, and again when the file has moved on.
"use strict";
(function (ctk) {
  const { html, render, useEffect, useMemo, useRef, useState } = htmPreact;
  const MOST = { boxes: 60, links: 150 };
  const AT_ONCE = 300; // edges that are drawn in some tens of ms
  const MOST_OPENED = 40; // boxes, where nobody chose which to open
  const POLL_MS = 2000;

  ctk.darkNow = () => document.documentElement.dataset.theme
    || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

  async function embedded() {
    const text = document.getElementById("document").textContent.trim();
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }

  // Give each edge its place, by which its series is found; and names as they are shown, with what
  // they are beside them for a command.
  function prepared(doc) {
    doc.edges.forEach((edge, place) => { edge.place = place; });
    for (const node of doc.nodes) [node.named, node.name] = [node.name, ctk.visible(node.name)];
    for (const edge of [...doc.edges, ...(doc.before ? doc.before.edges : [])]) {
      [edge.dialled, edge.service] = [edge.service, ctk.visible(edge.service)];
    }
    const { source, trust } = doc;
    source.nodes = source.nodes.map(ctk.visible);
    source.clusters = source.clusters.map(ctk.visible);
    trust.caveats = trust.caveats.map(ctk.visible);
    for (const gap of trust.gaps) [gap.node, gap.detail] = [ctk.visible(gap.node), ctk.visible(gap.detail)];
    return doc;
  }

  function useAddress() {
    const [address, setAddress] = useState(() => ctk.parseAddress(location.hash));
    useEffect(() => {
      const read = () => setAddress(ctk.parseAddress(location.hash));
      addEventListener("hashchange", read);
      return () => removeEventListener("hashchange", read);
    }, []);
    // Of the address as it is then: one function for all times, so that what has it is drawn once.
    const go = useMemo(() => (change) => {
      const now = ctk.parseAddress(location.hash);
      const look = new Map(now.look);
      const asked = typeof change.asked === "function" ? change.asked(now.asked) : change.asked || now.asked;
      for (const [name, value] of Object.entries(change.look || {})) look.set(name, value);
      location.hash = ctk.writeAddress(asked, look);
    }, []);
    return [address, go];
  }

  function Filters({ asked, go }) {
    const [text, setText] = useState("");
    const add = (event) => {
      event.preventDefault();
      const [name, ...rest] = text.replace(/^-+/, "").split(/[=\s]+/);
      if (name) go({ asked: [...asked, [name, rest.join(" ")]] });
      setText("");
    };
    return html`<form class="filters" onSubmit=${add} aria-label="Filters">
      ${asked.map(([name, value], at) => html`<button type="button" class="chip" title="Take this filter away"
        onClick=${() => go({ asked: asked.filter((_, other) => other !== at) })}>${name}${value ? ` ${value}` : ""} ×</button>`)}
      <label><span class="hidden">Add a filter</span><input value=${text} placeholder="namespace shop" onInput=${(event) => setText(event.target.value)} /></label>
      <button type="submit">Filter</button></form>`;
  }

  function save(name, kind, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: kind }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function asCsv(doc, edges) {
    const head = ["source", "destination", "service", "port", "proto", ...ctk.SUM_KEYS, "first_at", "last_at"];
    const rows = edges.map((edge) => [ctk.keyOf(doc, edge.src), ctk.keyOf(doc, edge.dst), edge.service, edge.port, edge.proto,
      ...ctk.SUM_KEYS.map((key) => edge[key]), edge.first_at, edge.last_at]);
    return [head, ...rows].map((row) => row.map(ctk.csvCell).join(",")).join("\r\n");
  }

  function asSvg(graph, place) {
    const escape = (text) => text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
    const parts = [`<svg xmlns="http://www.w3.org/2000/svg" width="${place.width}" height="${place.height}" font-family="sans-serif" font-size="12">`];
    for (const link of graph.links.values()) {
      const [from, to] = [place.places.get(link.src), place.places.get(link.dst)];
      if (!from || !to) continue;
      const failed = ctk.isFailing(link.sums);
      parts.push(`<path d="${ctk.curve(from, to, place.places)}" fill="none" stroke="${failed ? "#c0262d" : "#8a94a6"}"${failed ? ' stroke-dasharray="6 4"' : ""} />`);
    }
    for (const box of graph.boxes.values()) {
      const at = place.places.get(box.key);
      if (!at) continue;
      parts.push(`<rect x="${at.x}" y="${at.y}" width="${ctk.BOX_WIDTH}" height="${ctk.BOX_HEIGHT}" rx="6" fill="#fff" stroke="#556" />`
        + `<text x="${at.x + 8}" y="${at.y + 27}">${escape(ctk.shortened(box.title, 28))}</text>`);
    }
    return `${parts.join("")}</svg>`;
  }

  function Table({ graph, onLink }) {
    const titles = new Map([...graph.boxes.values(), ...graph.more.boxes].map((box) => [box.key, box.title]));
    const { links } = graph.more;
    return html`<${Links} summary="The map as a table" titles=${titles} links=${[...graph.links.values()]} onLink=${onLink} />
      ${links.length ? html`<${Links} summary=${`What is not on it: ${ctk.counted(links.length)} links`} titles=${titles} links=${links} />` : null}`;
  }

  function Links({ summary, titles, links, onLink }) {
    const title = (key) => titles.get(key);
    const rows = [...links].sort(ctk.rankLink);
    return html`<details class="equal"><summary>${summary}</summary><${ctk.Rows} caption=${summary} rows=${rows}
      head=${[["From"], ["To"], ["Conns", true], ["Refused", true], ["Unreplied", true], ["Out", true], ["In", true]]}
      row=${(link) => html`<tr data-row="link"><td class="name">${onLink ? html`<button type="button" class="way" title=${title(link.src)} aria-label=${title(link.src)} onClick=${() => onLink(link)}><${ctk.Cut} text=${title(link.src)} /></button>` : html`<${ctk.Cut} text=${title(link.src)} />`}</td><td class="name" title=${title(link.dst)}><${ctk.Cut} text=${title(link.dst)} /></td><td class="right">${ctk.counted(link.sums.connections)}</td>
        <td class="right">${ctk.counted(link.sums.refused)}</td><td class="right">${ctk.counted(link.sums.unreplied)}</td>
        <td class="right">${ctk.scaled(link.sums.bytes_out)}</td><td class="right">${ctk.scaled(link.sums.bytes_in)}</td></tr>`} /></details>`;
  }

  function selectionOf(doc, edges, before, graph, sel, picked) {
    if (!sel) return null;
    if (sel.startsWith("row:")) {
      const title = sel.slice("row:".length);
      // One that was picked in this document; else the address is of another page, or of before.
      const pick = picked !== null && picked.doc === doc && picked.title === title ? picked.pick
        : ctk.rowNamed(doc, edges, before, title) || ctk.peerNamed(doc, edges, graph, title);
      return pick && { box: null, title, edges: pick[0].edges, flags: pick[1] };
    }
    const box = graph.boxes.get(sel);
    if (box) return { box, title: box.title, edges: edges.filter((edge) => ctk.endsIn(box, edge).size) };
    const link = graph.links.get(sel.replace(" > ", "\u0000"));
    if (link) {
      const [src, dst] = [graph.boxes.get(link.src), graph.boxes.get(link.dst)];
      const flags = `${ctk.flagsOfBox(doc, src, "from")} ${ctk.flagsOfBox(doc, dst, "to")}`;
      return { box: null, title: `${src.title} → ${dst.title}`, edges: link.edges, flags };
    }
    return null;
  }

  function Page({ doc, served, news, lost, onNews, address, go }) {
    const { asked, look } = address;
    const edges = useMemo(() => (served ? doc.edges : ctk.fitting(doc, doc.edges, asked)), [doc, asked, served]);
    const before = useMemo(() => (doc.before ? (served ? doc.before.edges : ctk.fitting(doc, doc.before.edges, asked)) : []), [doc, asked, served]);
    // Where there is much, the first screen is drawn first: what is below it takes as long again.
    const [whole, setWhole] = useState(doc.edges.length <= AT_ONCE);
    useEffect(() => { requestAnimationFrame(() => setTimeout(() => setWhole(true))); }, []);
    const open = useMemo(() => (!whole ? new Set() : look.has("open") ? new Set(look.get("open").split(",").filter((each) => each).map(decodeURIComponent))
      : ctk.openByDefault(doc, edges, MOST_OPENED)), [doc, edges, whole, look.get("open")]);
    const [most, setMost] = useState(MOST);
    const graph = useMemo(() => ctk.capped(ctk.fold(doc, whole ? edges : [], open), most), [doc, edges, whole, open, most]);
    // What is open and what is asked decide where boxes stand; new data only adds to that.
    const question = JSON.stringify([asked, [...open], most]);
    const last = useRef({ question: null, place: null });
    const place = useMemo(() => {
      const earlier = last.current.question === question ? last.current.place : null;
      const made = ctk.layout(graph, earlier);
      last.current = { question, place: made };
      return made;
    }, [graph, question]);
    const [picked, setPicked] = useState(null);
    const sel = look.get("sel") || null;
    const selection = useMemo(() => selectionOf(doc, edges, before, graph, sel, picked), [doc, edges, before, graph, sel, picked]);
    const measured = doc.trust.bytes_measured !== "none";
    const search = useRef(null);
    // A key may hold any letter, a comma too.
    const opened = (set) => [...set].sort(ctk.compareText).map(encodeURIComponent).join(",") || ",";
    const onOpen = (box) => go({ look: { open: opened(new Set([...open, box.key])), sel: box.key } });
    const onClose = (key) => go({ look: { open: opened(new Set([...open].filter((each) => each !== key))) } });
    const onSelect = (box) => go({ look: { sel: box.key } });
    const onLink = (link) => go({ look: { sel: link.key.replace("\u0000", " > ") } });
    const onPick = useMemo(() => (group, flags, title) => {
      setPicked({ doc, title, pick: [group, flags] });
      go({ look: { sel: `row:${title}` } });
    }, [doc]);
    const onSpan = useMemo(() => (since, until) => go({ asked: (now) => [...now.filter(([name]) => name !== "since" && name !== "until"), ["since", since], ["until", until]] }), []);
    useEffect(() => {
      const onKey = (event) => {
        const typing = event.target instanceof HTMLInputElement;
        if (event.key === "/" && !typing) {
          event.preventDefault();
          if (search.current) search.current.focus();
        } else if (event.key === "Escape") {
          if (typing) event.target.blur();
          else if (sel) go({ look: { sel: "" } });
          else if (look.has("open")) go({ look: { open: "" } });
        }
      };
      addEventListener("keydown", onKey);
      return () => removeEventListener("keydown", onKey);
    });
    const theme = () => {
      const next = ctk.darkNow() === "dark" ? "light" : "dark";
      document.documentElement.dataset.theme = next;
      go({ look: { theme: next } });
    };
    useEffect(() => {
      if (look.get("theme")) document.documentElement.dataset.theme = look.get("theme");
    }, [look.get("theme")]);
    // What is shown now, for who waits for it: the address, once it has been drawn.
    useEffect(() => { document.body.dataset.shown = location.hash.replace(/^#/, ""); });
    const { source, answered } = doc;
    // Drawn again for other edges alone: to choose a box draws the map and the panel.
    const first = useMemo(() => html`<${ctk.Trust} doc=${doc} shown=${{ asked, refusedFilters: served ? [] : ctk.unanswered(asked) }} />
        <section aria-labelledby="when"><h2 id="when">When</h2>
          <${ctk.Timeline} doc=${doc} columns=${asked.length && !served ? ctk.addedUp(doc, edges) : doc.series.total} title="Over time" onSpan=${onSpan} />
          ${doc.series.start ? null : html`<p class="none">Nothing was recorded.</p>`}
          ${asked.length && !served ? html`<p class="none">Of the edges that have steps of their own: what fails, and the 50 that move most.</p>` : null}</section>
        <${ctk.Failures} doc=${doc} edges=${edges} onPick=${onPick} />`, [doc, edges, look.get("theme")]);
    const rest = useMemo(() => whole && html`<${ctk.Changes} doc=${doc} edges=${edges} before=${before} onPick=${onPick} />
        <div class="two"><${ctk.Depends} doc=${doc} edges=${edges} onPick=${onPick} search=${search} />
        <${ctk.Lists} doc=${doc} edges=${edges} by=${look.get("by") || "pairs"} onBy=${(by) => go({ look: { by } })} onPick=${onPick} /></div>`,
    [doc, edges, before, whole, look.get("by")]);
    return html`<header class="top">
        <h1>ctk <small>${source.nodes.join(", ") || source.file}${source.clusters.length ? ` in ${source.clusters.join(", ")}` : ""}</small></h1>
        <p>${answered.since ? html`${ctk.clock(answered.since)} to ${ctk.clock(answered.until, answered.since)} (${ctk.lasted(answered.since, answered.until)}, ${ctk.offset(answered.since)})` : "empty span"}
          ${doc.asked.flags ? html` · <code>${doc.asked.flags}</code>` : null}</p>
        <${Filters} asked=${asked} go=${go} />
        <p class="actions">${lost ? html`<span class="bad" role="status">${lost}</span>` : null}${news ? html`<button type="button" class="news" onClick=${onNews}>${news} new window${news === 1 ? "" : "s"}: show</button>` : null}
          <button type="button" onClick=${() => save("edges.csv", "text/csv", asCsv(doc, edges))}>CSV</button>
          <button type="button" onClick=${() => save("map.svg", "image/svg+xml", asSvg(graph, place))}>SVG</button>
          <button type="button" onClick=${() => print()}>Print</button>
          <button type="button" onClick=${theme} aria-label="Light or dark">◐</button></p>
      </header>
      <main class=${selection ? "with-panel" : ""} data-whole=${whole ? "true" : null}>
        ${first}${rest}${whole ? html`<section aria-labelledby="map"><h2 id="map">Map</h2>${edges.length ? null : html`<p class="none">There is nobody to draw.</p>`}
          <${ctk.Map} graph=${graph} place=${place} measured=${measured} selected=${sel && graph.boxes.has(sel) ? sel : sel && selection && !selection.box && !sel.startsWith("row:") ? sel.replace(" > ", "\u0000") : null}
            open=${open} onSelect=${onSelect} onOpen=${onOpen} onLink=${onLink} onClose=${onClose}
            onMore=${() => setMost({ boxes: most.boxes * 2, links: most.links * 2 })} />
          <${Table} graph=${graph} onLink=${onLink} /></section>
` : null}
        <footer>Made ${ctk.clock(doc.made_at)} from ${source.file}. ${ctk.counted(doc.edges.length)} edges; bytes of both directions, layer 3.</footer>
      </main>
      ${selection ? html`<${ctk.Panel} doc=${doc} selection=${selection} asked=${asked} onClose=${() => go({ look: { sel: "" } })}
        onOpen=${onOpen} onWho=${onPick} onSpan=${onSpan} />` : null}`;
  }

  // Served: fetch what the address asks, look every window whether the file has moved on.
  function Served() {
    const [address, go] = useAddress();
    const [state, setState] = useState({ doc: null, tag: null, error: null });
    const [news, setNews] = useState(0);
    const [lost, setLost] = useState(null);
    const asked = JSON.stringify(address.asked);
    const query = new URLSearchParams(address.asked).toString();
    const load = async () => {
      const answer = await fetch(`document?${query}`, { headers: { Accept: "application/json" } });
      const body = await answer.json();
      if (answer.ok) setState({ doc: prepared(body), tag: answer.headers.get("ETag"), error: null });
      else setState((now) => ({ ...now, error: body }));
      setNews(0);
    };
    useEffect(() => { load().catch((error) => setState((now) => ({ ...now, error: { error: String(error) } }))); }, [asked]);
    useEffect(() => {
      const timer = setInterval(async () => {
        if (document.hidden || state.tag === null) return;
        const answer = await fetch("changed", { headers: { "If-None-Match": state.tag } }).catch(() => null);
        if (answer && answer.status === 200) setNews((await answer.json()).windows);
        // What is shown stays, and says that it is of before.
        setLost(answer === null ? "ctk serve has ended" : answer.status < 400 ? null : answer.status === 503 ? (await answer.json()).error : "this page is of an earlier ctk serve");
      }, POLL_MS);
      return () => clearInterval(timer);
    }, [state.tag]);
    if (state.error) {
      return html`<p class="bad" role="alert">Error: ${state.error.error}${state.error.hint ? html`<br />Try: ${state.error.hint}` : null}
        <button type="button" onClick=${() => go({ asked: [] })}>Without filters</button></p>`;
    }
    if (state.doc === null) return html`<p role="status">Reading…</p>`;
    return html`<${Page} doc=${state.doc} served=${true} news=${news} lost=${lost} onNews=${load} address=${address} go=${go} />`;
  }

  function Report({ doc }) {
    const [address, go] = useAddress();
    return html`<${Page} doc=${doc} served=${false} news=${0} lost=${null} onNews=${null} address=${address} go=${go} />`;
  }

  async function start() {
    const root = document.getElementById("page");
    if (document.getElementById("document") === null) {
      root.replaceChildren();
      render(html`<${Served} />`, root);
      return;
    }
    const doc = prepared(await embedded());
    root.replaceChildren();
    render(html`<${Report} doc=${doc} />`, root);
    ctk.doc = doc;
  }

  start().catch((error) => {
    document.getElementById("page").textContent = `The page could not be shown: ${error.message}`;
    throw error;
  });
})((globalThis.ctk = globalThis.ctk || {}));
