// The side panel: what is selected, its ports, both directions, its series, and the command.
"use strict";
(function (ctk) {
  const { html } = htmPreact;

  // The flags that ask for a node of the document on one side: what the command line calls it.
  function flagsOfNode(doc, id, side) {
    const flag = (name) => (side === "any" ? `--${name}` : `--${side}-${name}`);
    const node = doc.nodes[id];
    const chain = ctk.chainOf(doc, id);
    const name = chain[0].kind === "namespace" && node !== chain[0] ? `${chain[0].name}/${node.name}` : node.name;
    switch (node.kind) {
      case "namespace": return `${flag("namespace")} ${ctk.shellWord(name)}`;
      case "workload": return `${flag("workload")} ${ctk.shellWord(name)}`;
      case "pod": return `${flag("pod")} ${ctk.shellWord(name)}`;
      case "node": return `${flag("kind")} node ${flag("node")} ${ctk.shellWord(name)}`;
      case "service": return `--service ${ctk.shellWord(name)}`;
      default: return node.name === "other" ? `${flag("kind")} ${node.kind}` : `${flag("ip")} ${ctk.shellWord(node.name)}`;
    }
  }

  // Of a box: of the workload or namespace that its leaves share, of what it is for shared boxes.
  function flagsOfBox(doc, box, side) {
    const leaf = box.leaves.values().next().value;
    const node = ctk.chainOf(doc, leaf).find((each) => ctk.keyOf(doc, each.id) === box.key);
    if (node !== undefined) return flagsOfNode(doc, node.id, side);
    return side === "any" ? `--kind ${box.kind}` : `--${side}-kind ${box.kind}`;
  }

  // Of a row whose edges have the same client and server: of both ends, as whoIs names them.
  function flagsOfEnds(doc, edge) {
    const named = (id) => (ctk.chainOf(doc, id).find((each) => each.kind === "workload") || doc.nodes[id]).id;
    return `${flagsOfNode(doc, named(edge.src), "from")} ${edge.service ? `--service ${ctk.shellWord(edge.service)}` : flagsOfNode(doc, named(edge.dst), "to")}`;
  }

  function flagsOfPort(edge) {
    return `${edge.port === null ? "" : `--port ${edge.port} `}--protocol ${edge.proto}`;
  }

  function Ports({ edges }) {
    const groups = ctk.groupBy(edges, (edge) => `${ctk.portOf(edge)}${edge.service ? ` ${edge.service}` : ""}`);
    return html`<${ctk.Rows} caption="Ports" rows=${groups} head=${[["Port"], ["Conns", true], ["Failed", true], ["Out", true], ["In", true]]}
      row=${(group) => html`<tr><td>${group.key}</td><td class="right">${ctk.counted(group.sums.connections)}</td><td class="right bad">${ctk.some(ctk.failedOf(group.sums))}</td>
        <td class="right">${ctk.scaled(group.sums.bytes_out)}</td><td class="right">${ctk.scaled(group.sums.bytes_in)}</td></tr>`} />`;
  }

  function Peers({ doc, edges, way, title, onWho }) {
    const groups = ctk.groupBy(edges, (edge) => ctk.whoIs(doc, way === "in" ? edge.src : edge.dst));
    if (!groups.length) return null;
    return html`<h3>${title}</h3><${ctk.Rows} caption=${title} rows=${groups} head=${[["Who"], ["Conns", true], ["Failed", true], ["Bytes", true]]}
      row=${(group) => html`<tr><td><button type="button" class="way" onClick=${() => onWho(group, ctk.flagsOfEnds(doc, group.edges[0]))}>${group.key}</button></td><td class="right">${ctk.counted(group.sums.connections)}</td>
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
    const span = [doc.asked.since && `--since ${doc.asked.since}`, doc.asked.until && `--until ${doc.asked.until}`].filter((each) => each);
    const words = [...span, doc.asked.flags, ctk.flagsOf(asked)].filter((each) => each);
    const own = box ? flagsOfBox(doc, box, "any") : selection.flags;
    const steps = ctk.addedUp(doc, edges);
    const sums = edges.reduce((total, edge) => ctk.addSums(total, edge), ctk.noSums());
    const inside = box ? edges.filter((edge) => box.leaves.has(edge.dst)) : [];
    const outside = box ? edges.filter((edge) => box.leaves.has(edge.src)) : [];
    return html`<aside class="panel" aria-label="Selection">
      <header><h2>${title}</h2><button type="button" onClick=${onClose} aria-label="Close (Esc)">×</button></header>
      ${box && box.opens ? html`<p><button type="button" onClick=${() => onOpen(box)}>Open it (Enter)</button></p>` : null}
      <${Sums} sums=${sums} />
      ${steps ? html`<${ctk.Timeline} doc=${doc} columns=${steps} title="Over time" onSpan=${onSpan} />` : null}
      <h3>Ports</h3><${Ports} edges=${edges} />
      ${box ? html`<${Peers} doc=${doc} edges=${inside} way="in" title="Dialled by" onWho=${onWho} /><${Peers} doc=${doc} edges=${outside} way="out" title="Dials" onWho=${onWho} />`
        : html`<h3>Between</h3><${ctk.Rows} caption="Ends" rows=${edges} head=${[["From"], ["To"], ["Port"], ["Conns", true], ["Failed", true], ["Bytes", true]]}
          row=${(edge) => html`<tr><td>${doc.nodes[edge.src].name}</td><td>${doc.nodes[edge.dst].name}</td><td class="port">${ctk.portOf(edge)}</td>
            <td class="right">${ctk.counted(edge.connections)}</td><td class="right bad">${ctk.some(ctk.failedOf(edge))}</td><td class="right">${ctk.scaled(ctk.bytesOf(edge))}</td></tr>`} />`}
      <h3>Ask for it</h3><${Command} text=${["ctk top", file, ...words, own].filter((each) => each).join(" ")} />
      <${Command} text=${["ctk query", file, ...words, own].filter((each) => each).join(" ")} />
    </aside>`;
  }

  Object.assign(ctk, { Panel, flagsOfBox, flagsOfEnds, flagsOfPort });
})((globalThis.ctk = globalThis.ctk || {}));
