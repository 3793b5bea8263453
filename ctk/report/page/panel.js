// The side panel: what is selected, its ports, both directions, its series, and the command.
"use strict";
(function (ctk) {
  const { html } = htmPreact;

  // The flags that ask for a node of the document on one side: what the command line calls it.
  function flagsOfNode(doc, id, side) {
    const flag = (name) => (side === "any" ? `--${name}` : `--${side}-${name}`);
    const node = doc.nodes[id];
    const chain = ctk.chainOf(doc, id);
    const name = chain[0].kind === "namespace" && node !== chain[0] ? `${chain[0].named}/${node.named}` : node.named;
    switch (node.kind) {
      case "namespace": return `${flag("namespace")} ${ctk.shellWord(name)}`;
      case "workload": return `${flag("workload")} ${ctk.shellWord(name)}`;
      case "pod": return `${flag("pod")} ${ctk.shellWord(name)}`;
      case "node": return `${flag("kind")} node ${flag("node")} ${ctk.shellWord(name)}`;
      case "service": return `--service ${ctk.shellWord(name)}`;
      default: return node.name === "other" ? `${flag("kind")} ${node.kind}` : `${flag("ip")} ${ctk.shellWord(node.named)}`;
    }
  }

  // Of a box: of the workload or namespace that its leaves share, of what it is for shared boxes.
  function flagsOfBox(doc, box, side) {
    const leaf = box.leaves.values().next().value;
    const node = ctk.chainOf(doc, leaf).find((each) => ctk.keyOf(doc, each.id) === box.key);
    if (node !== undefined) return flagsOfNode(doc, node.id, side);
    const way = side === "any" ? box.way : side;
    return way ? `--${way}-kind ${box.kind}` : `--kind ${box.kind}`;
  }

  function named(doc, id) {
    return (ctk.chainOf(doc, id).find((each) => each.kind === "workload") || doc.nodes[id]).id;
  }

  // Of edges: of the ends, as whoIs names them, and the service that all of them share.
  function flagsOfEnds(doc, edges) {
    const shared = (value) => edges.every((edge) => value(edge) === value(edges[0]));
    const words = [];
    for (const [end, side] of [["src", "from"], ["dst", "to"]]) {
      if (shared((edge) => ctk.whoIs(doc, edge[end]))) words.push(flagsOfNode(doc, named(doc, edges[0][end]), side));
    }
    if (edges[0].service && shared((edge) => edge.service)) words.push(`--service ${ctk.shellWord(edges[0].dialled)}`);
    return words.join(" ");
  }

  // --port fits a backend's port, too: the row of the one that was dialled is told by --by.
  function flagsOfPort(edge, by = "service,dst_port,proto") {
    return `${edge.port === null ? "" : `--port ${edge.port} `}--protocol ${edge.proto} --by ${by}`;
  }

  function Ports({ edges }) {
    const groups = ctk.groupBy(edges, (edge) => `${ctk.portOf(edge)}${edge.service ? ` ${edge.service}` : ""}`);
    return html`<${ctk.Rows} caption="Ports" rows=${groups} head=${[["Port"], ["Conns", true], ["Failed", true], ["Out", true], ["In", true]]}
      row=${(group) => html`<tr><td class="name" title=${group.key}><${ctk.Cut} text=${group.key} /></td><td class="right">${ctk.counted(group.sums.connections)}</td><td class="right bad">${ctk.some(ctk.failedOf(group.sums))}</td>
        <td class="right">${ctk.scaled(group.sums.bytes_out)}</td><td class="right">${ctk.scaled(group.sums.bytes_in)}</td></tr>`} />`;
  }

  // The edges of a box on the side where it is dialled, or dials.
  function edgesOf(box, edges, way) {
    return way === "in" ? edges.filter((edge) => box.way !== "from" && box.leaves.has(edge.dst))
      : edges.filter((edge) => box.way !== "to" && box.leaves.has(edge.src));
  }

  function peersOf(doc, edges, way) {
    return ctk.groupBy(edges, (edge) => ctk.whoIs(doc, way === "in" ? edge.src : edge.dst));
  }

  function pickOfPeer(doc, box, way, group) {
    const peer = named(doc, way === "in" ? group.edges[0].src : group.edges[0].dst);
    const ends = [flagsOfNode(doc, peer, way === "in" ? "from" : "to"), flagsOfBox(doc, box, way === "in" ? "to" : "from")];
    const titles = [group.key, box.title];
    if (way === "out") for (const pair of [ends, titles]) pair.reverse();
    return [group, ends.join(" "), titles.join(" dials ")];
  }

  function pickOfInside(doc, box, group) {
    return [group, flagsOfNode(doc, group.id, box.way || "any"), `${group.key} in ${box.title}`];
  }

  // The peer of a box, or who is in one, that an address names.
  function peerNamed(doc, edges, graph, title) {
    for (const box of graph.boxes.values()) {
      if (!title.includes(box.title)) continue;
      const own = edges.filter((edge) => ctk.endsIn(box, edge).size);
      for (const way of ["in", "out"]) {
        for (const group of peersOf(doc, edgesOf(box, own, way), way)) {
          const pick = pickOfPeer(doc, box, way, group);
          if (pick[2] === title) return pick;
        }
      }
      for (const group of insideOf(doc, box, own)) {
        const pick = pickOfInside(doc, box, group);
        if (pick[2] === title) return pick;
      }
    }
    return null;
  }

  function Peers({ doc, box, edges, way, title, onWho }) {
    const groups = peersOf(doc, edges, way);
    if (!groups.length) return null;
    return html`<h3>${title}</h3><${ctk.Rows} caption=${title} rows=${groups} head=${[["Who"], ["Conns", true], ["Failed", true], ["Bytes", true]]}
      row=${(group) => html`<tr><td class="name"><button type="button" class="way" title=${group.key} aria-label=${group.key} onClick=${() => onWho(...pickOfPeer(doc, box, way, group))}><${ctk.Cut} text=${group.key} /></button></td><td class="right">${ctk.counted(group.sums.connections)}</td>
        <td class="right bad">${ctk.some(ctk.failedOf(group.sums))}</td><td class="right">${ctk.scaled(ctk.bytesOf(group.sums))}</td></tr>`} />`;
  }

  // Who is in a box that stands for several: each with what it did, whoever dialled.
  function insideOf(doc, box, edges) {
    const groups = new Map();
    for (const edge of edges) {
      for (const id of ctk.endsIn(box, edge)) {
        const group = groups.get(id) || { key: doc.nodes[id].name, id, sums: ctk.noSums(), edges: [] };
        ctk.addSums(group.sums, edge);
        group.edges.push(edge);
        groups.set(id, group);
      }
    }
    return [...groups.values()].sort(ctk.rankLink);
  }

  function Inside({ doc, box, edges, onWho }) {
    if (box.leaves.size < 2) return null;
    return html`<h3>Inside</h3><${ctk.Rows} caption="Inside" rows=${insideOf(doc, box, edges)} head=${[["Who"], ["Conns", true], ["Failed", true], ["Bytes", true]]}
      row=${(group) => html`<tr><td class="name"><button type="button" class="way" title=${group.key} aria-label=${group.key} onClick=${() => onWho(...pickOfInside(doc, box, group))}><${ctk.Cut} text=${group.key} /></button></td><td class="right">${ctk.counted(group.sums.connections)}</td>
        <td class="right bad">${ctk.some(ctk.failedOf(group.sums))}</td><td class="right">${ctk.scaled(ctk.bytesOf(group.sums))}</td></tr>`} />`;
  }

  function Sums({ sums }) {
    return html`<dl class="sums" ...${ctk.exactSums(sums)}>
      ${[["connections", ctk.counted(sums.connections)], ["refused", ctk.counted(sums.refused)], ["unreplied", ctk.counted(sums.unreplied)],
        ["out", ctk.scaled(sums.bytes_out)], ["in", ctk.scaled(sums.bytes_in)]].map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
  }

  function Command({ text }) {
    const copy = () => navigator.clipboard && navigator.clipboard.writeText(text).catch(() => {});
    return html`<p class="command"><code>${text}</code><button type="button" onClick=${copy} aria-label="Copy the command">Copy</button></p>`;
  }

  function Panel({ doc, selection, asked, onClose, onOpen, onWho, onSpan }) {
    const { box, edges, title } = selection;
    const file = ctk.shellWord(doc.source.file);
    const own = box ? flagsOfBox(doc, box, "any") : selection.flags;
    // What is gone is of the span before.
    const ofBefore = own.startsWith("--since ");
    const span = ofBefore ? [] : [doc.asked.since && `--since ${doc.asked.since}`, doc.asked.until && `--until ${doc.asked.until}`].filter((each) => each);
    const others = ofBefore ? asked.filter(([name]) => name !== "since" && name !== "until") : asked;
    const words = [...span, doc.asked.flags, ctk.flagsOf(others)].filter((each) => each);
    const steps = ctk.addedUp(doc, edges);
    const sums = edges.reduce((total, edge) => ctk.addSums(total, edge), ctk.noSums());
    const inside = box ? edgesOf(box, edges, "in") : [];
    const outside = box ? edgesOf(box, edges, "out") : [];
    return html`<aside class="panel" aria-label="Selection">
      <header><h2>${title}</h2><button type="button" onClick=${onClose} aria-label="Close (Esc)">×</button></header>
      ${box && box.opens ? html`<p><button type="button" onClick=${() => onOpen(box)}>Open it (Enter)</button></p>` : null}
      <${Sums} key="sums" sums=${sums} />
      ${steps ? html`<${ctk.Timeline} doc=${doc} columns=${steps} title="Over time" onSpan=${onSpan} />` : null}
      <h3>Ports</h3><${Ports} edges=${edges} />
      ${box ? html`<div key="peers"><${Inside} doc=${doc} box=${box} edges=${edges} onWho=${onWho} /><${Peers} doc=${doc} box=${box} edges=${inside} way="in" title="Clients" onWho=${onWho} />
        <${Peers} doc=${doc} box=${box} edges=${outside} way="out" title="Servers" onWho=${onWho} /></div>`
        : html`<div key="between"><h3>Between</h3><${ctk.Rows} caption="Ends" rows=${edges} head=${[["From"], ["To"], ["Port"], ["Conns", true], ["Failed", true], ["Bytes", true]]}
          row=${(edge) => html`<tr><td class="name" title=${doc.nodes[edge.src].name}><${ctk.Cut} tail=${5} text=${doc.nodes[edge.src].name} /></td><td class="name" title=${doc.nodes[edge.dst].name}><${ctk.Cut} tail=${5} text=${doc.nodes[edge.dst].name} /></td><td class="port">${ctk.portOf(edge)}</td>
            <td class="right">${ctk.counted(edge.connections)}</td><td class="right bad">${ctk.some(ctk.failedOf(edge))}</td><td class="right">${ctk.scaled(ctk.bytesOf(edge))}</td></tr>`} /></div>`}
      <h3>Ask for it</h3><${Command} text=${["ctk top", file, ...words, own].filter((each) => each).join(" ")} />
      <${Command} text=${["ctk query", file, ...words, own.replace(/ --by \S+$/, "")].filter((each) => each).join(" ")} />
    </aside>`;
  }

  Object.assign(ctk, { Panel, peerNamed, flagsOfBox, flagsOfEnds, flagsOfPort });
})((globalThis.ctk = globalThis.ctk || {}));
