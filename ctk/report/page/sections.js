// What the first screen tells, in order: can this be trusted, what fails, what changed, who depends
// on whom, who moves most. Every number is a way on.
"use strict";
(function (ctk) {
  const { html, useMemo, useState } = htmPreact;
  const FIRST = 12; // rows of a table before "more"
  const LONG = 8; // a name that may have to be cut
  const TAIL = 10;

  const ARROW = " → ";

  // A long name, cut in the middle where it does not fit: both ends tell names apart. So is each
  // end of a pair by itself.
  function Cut({ text, tail = TAIL }) {
    const ends = text ? text.split(ARROW) : [];
    if (ends.length === 2) {
      return html`<span class="pair"><span class="pair from"><span><${Cut} text=${ends[0]} /></span><span>${ARROW}</span></span><span><${Cut} text=${ends[1]} /></span></span>`;
    }
    if (!text || text.length <= LONG) return text;
    const at = text.length - Math.min(tail, text.length / 2 | 0);
    return html`<span class="cut"><span>${text.slice(0, at)}</span><span>${text.slice(at)}</span></span>`;
  }

  function Rows({ rows, head, row, caption }) {
    const [all, setAll] = useState(false);
    const shown = all ? rows : rows.slice(0, FIRST);
    return html`<div class="scroll"><table><caption class="hidden">${caption}</caption>
      <thead><tr>${head.map(([name, right, spare]) => html`<th scope="col" class=${`${right ? "right" : ""} ${spare ? "spare" : ""}`}>${name}</th>`)}</tr></thead>
      <tbody>${shown.map(row)}</tbody></table>
      ${rows.length > FIRST ? html`<button type="button" class="more" onClick=${() => setAll(!all)}>
        ${all ? "Show fewer" : `Show ${ctk.counted(rows.length - FIRST)} more`}</button>` : null}</div>`;
  }

  // The exact sums of a row, for those who check them against `ctk top`.
  function exact(sums) {
    const data = {};
    for (const key of ctk.SUM_KEYS) data[`data-${key.replace("_", "-")}`] = sums[key] === null ? "" : String(sums[key]);
    return data;
  }

  function Trust({ doc, shown }) {
    const { trust, answered, source, left_out: left } = doc;
    const facts = [];
    if (answered.since === null) facts.push(["bad", "nothing was recorded in this span"]);
    const gaps = trust.gaps.length;
    facts.push(gaps
      ? ["bad", `${gaps} gap${gaps === 1 ? "" : "s"}${trust.lost ? `, ${ctk.counted(trust.lost)} events lost` : ""}`]
      : ["good", "no gaps"]);
    if (doc.edges.length) facts.push({ all: ["good", "bytes measured"], some: ["fair", "bytes measured in part"],
      none: ["fair", "bytes not measured"] }[trust.bytes_measured]);
    if (doc.edges.length) facts.push([trust.unnamed ? "fair" : "good",
      trust.unnamed ? `${ctk.share(trust.unnamed, doc.sums.connections)} of connections with an unknown side` : "every side is known"]);
    facts.push([source.ended ? "plain" : "good", source.ended ? "recording ended" : "still recording"]);
    if (answered.folded) facts.push(["plain", `times may be rounded to ${answered.folded}`]);
    if (left.edges) facts.push(["fair", `${ctk.counted(left.edges)} small edges left out: ${ctk.counted(left.sums.connections)} connections`]);
    return html`<section aria-labelledby="trust"><h2 id="trust">Can I trust this?</h2>
      <ul class="facts">${facts.map(([how, text]) => html`<li class=${how}>${text}</li>`)}</ul>
      ${gaps ? html`<details><summary>Which gaps</summary><${Rows} caption="Gaps" rows=${trust.gaps}
        head=${[["From"], ["Until"], ["Node"], ["What"], ["Events lost", true], ["Detail"]]}
        row=${(gap) => html`<tr><td>${ctk.clock(gap.since)}</td><td>${ctk.clock(gap.until, gap.since)}</td><td>${gap.node}</td>
          <td>${gap.kind}</td><td class="right">${ctk.counted(gap.lost)}</td><td>${gap.detail || ""}</td></tr>`} /></details>` : null}
      ${trust.caveats.length ? html`<ul class="caveats">${trust.caveats.map((text) => html`<li>${text}</li>`)}</ul>` : null}
      ${shown.refusedFilters.length ? html`<p class="bad">This file cannot answer ${shown.refusedFilters.map(([name]) => `--${name}`).join(", ")}:
        <code>ctk report ${ctk.shellWord(source.file)} ${ctk.flagsOf(shown.asked)}</code></p>` : null}
    </section>`;
  }

  // What a client dials: a service, or who answers where there is none, at a port.
  function dialled(doc, edge) {
    return JSON.stringify([ctk.whoIs(doc, edge.src), edge.service, edge.service ? null : ctk.whoIs(doc, edge.dst), edge.port, edge.proto]);
  }

  function partsOf(key) {
    const [client, service, dst, port, proto] = JSON.parse(key);
    return { client, server: service || dst, port, proto };
  }

  function failuresOf(doc, edges) {
    return ctk.groupBy(edges, (edge) => dialled(doc, edge)).filter((group) => ctk.failedOf(group.sums)).map((group) => {
      const firsts = group.edges.map((edge) => edge.failed_first_at).filter((at) => at).sort();
      const lasts = group.edges.map((edge) => edge.failed_last_at).filter((at) => at).sort();
      return { ...group, ...partsOf(group.key), first: firsts[0], last: lasts[lasts.length - 1] };
    });
  }

  // What a row is picked by: its edges, the flags that ask for them, and its title in the address.
  function pickOfFailure(doc, each) {
    return [each, `${ctk.flagsOfEnds(doc, each.edges)} ${ctk.flagsOfPort(each)}`, `${each.client} → ${each.server} ${ctk.portOf(each)}`];
  }

  function pickOfChange(doc, each) {
    const group = each.now || each.then;
    const { client, server, port, proto } = partsOf(group.key);
    const span = each.now ? "" : `--since ${doc.before.since} --until ${doc.before.until} `;
    return [group, `${span}${ctk.flagsOfEnds(doc, group.edges)} ${ctk.flagsOfPort({ port, proto })}`, `${client} → ${server} ${ctk.portOf({ port, proto })}`];
  }

  function pickOfPeer(doc, title, group) {
    const [name, , port, proto] = JSON.parse(group.key);
    return [group, `${ctk.flagsOfEnds(doc, group.edges)} ${ctk.flagsOfPort({ port, proto })}`, `${title} ${name} ${ctk.portOf({ port, proto })}`];
  }

  function pickOfList(doc, by, group) {
    return [group, LISTS[by][2](doc, group.edges[0]), group.key];
  }

  function* picks(doc, edges, before) {
    for (const each of failuresOf(doc, edges)) yield pickOfFailure(doc, each);
    if (doc.before) for (const each of changesOf(doc, edges, before)) yield pickOfChange(doc, each);
    for (const by of Object.keys(LISTS)) {
      for (const group of ctk.groupBy(edges, (edge) => LISTS[by][1](doc, edge))) yield pickOfList(doc, by, group);
    }
  }

  // The row that an address names, which may have been sent from another's page.
  function rowNamed(doc, edges, before, title) {
    for (const pick of picks(doc, edges, before)) if (pick[2] === title) return pick;
    const dialling = /^dial (.+) \S+ \S+$/u.exec(title) || /^(.+) dials \S+ \S+$/u.exec(title);
    if (dialling === null) return null;
    for (const [way, groups] of Object.entries(sidesOf(doc, edges, dialling[1]))) {
      for (const group of groups) {
        const pick = pickOfPeer(doc, way, group);
        if (pick[2] === title) return pick;
      }
    }
    return null;
  }

  // Who dials a workload, service or address, and what that dials, by their titles.
  function sidesOf(doc, edges, chosen) {
    const server = (edge) => edge.service || ctk.whoIs(doc, edge.dst);
    const side = (filter, who) => ctk.groupBy(edges.filter(filter), (edge) =>
      JSON.stringify([who(edge), edge.service, edge.port, edge.proto]));
    return {
      [`dial ${chosen}`]: side((edge) => server(edge) === chosen || ctk.whoIs(doc, edge.dst) === chosen, (edge) => ctk.whoIs(doc, edge.src)),
      [`${chosen} dials`]: side((edge) => ctk.whoIs(doc, edge.src) === chosen, server),
    };
  }

  function Failures({ doc, edges, onPick }) {
    const rows = useMemo(() => failuresOf(doc, edges), [doc, edges]);
    return html`<section aria-labelledby="fails"><h2 id="fails">What fails, since when?</h2>
      ${rows.length === 0 ? html`<p class="none">${edges.length ? "No connection was refused or went unreplied." : "No connection is known."}</p>` : html`<${Rows} caption="Failures"
        rows=${rows} head=${[["Client"], ["Server"], ["Port"], ["Refused", true], ["Unreplied", true], ["Conns", true, true], ["Since"], ["Last", false, true], ["Over time", false, true]]}
        row=${(each) => {
          const steps = ctk.addedUp(doc, each.edges);
          return html`<tr ...${exact(each.sums)} data-row="failure"><td class="name"><button type="button" class="way" title=${each.client} aria-label=${each.client} onClick=${() => onPick(...pickOfFailure(doc, each))}><${Cut} text=${each.client} /></button></td>
            <td class="name" title=${each.server}><${Cut} text=${each.server} /></td><td class="port">${ctk.portOf(each)}</td>
            <td class="right bad">${ctk.some(each.sums.refused)}</td><td class="right bad">${ctk.some(each.sums.unreplied)}</td>
            <td class="right spare">${ctk.counted(each.sums.connections)}</td><td class="time">${ctk.clock(each.first, doc.answered.since)}</td>
            <td class="time spare">${ctk.clock(each.last, doc.answered.since)}</td>
            <td class="spare">${steps ? html`<${ctk.Spark} failing values=${ctk.failedOfSteps(steps)} />` : "–"}</td></tr>`;
        }} />`}
    </section>`;
  }

  function changesOf(doc, edges, before) {
    const key = (edge) => dialled(doc, edge);
    const now = new Map(ctk.groupBy(edges, key).map((group) => [group.key, group]));
    const then = new Map(ctk.groupBy(before, key).map((group) => [group.key, group]));
    const lasts = (part) => new Date(part.until) - new Date(part.since);
    const scale = lasts(doc.answered) / lasts(doc.before);
    const changes = [];
    for (const [name, group] of now) {
      const other = then.get(name);
      if (other === undefined) {
        changes.push({ how: doc.before.complete ? "new" : "unknown", now: group, then: null });
      } else if (group.sums.connections >= 3 * scale * other.sums.connections && group.sums.connections > 5) {
        changes.push({ how: "more", now: group, then: other });
      } else if (ctk.failedOf(group.sums) >= 3 * scale * ctk.failedOf(other.sums) && ctk.failedOf(group.sums) > 0) {
        changes.push({ how: "fails more", now: group, then: other });
      }
    }
    for (const [name, group] of then) {
      if (!now.has(name)) changes.push({ how: doc.trust.gaps.length || doc.left_out.edges ? "unknown" : "vanished", now: null, then: group });
    }
    return changes;
  }

  function Changes({ doc, edges, before, onPick }) {
    const rows = useMemo(() => (doc.before ? changesOf(doc, edges, before) : []), [doc, edges, before]);
    if (!doc.before) {
      return html`<section aria-labelledby="changed"><h2 id="changed">What changed?</h2>
        <p class="none">Nothing to compare with: this span begins where the file does, or no <code>--since</code> was given.</p></section>`;
    }
    return html`<section aria-labelledby="changed"><h2 id="changed">What changed?</h2>
      <p class="none">Against ${ctk.clock(doc.before.since)} to ${ctk.clock(doc.before.until, doc.before.since)}${doc.before.complete ? "" : ", which has gaps or was cut: what it lacks is unknown"}.</p>
      ${rows.length === 0 ? html`<p class="none">The same talk to the same, about as much.</p>` : html`<${Rows} caption="Changes" rows=${rows}
        head=${[["Change"], ["Client"], ["Server"], ["Port"], ["Conns now", true], ["Before", true], ["Failed now", true]]}
        row=${(each) => {
          const { client, server, port, proto } = partsOf((each.now || each.then).key);
          return html`<tr class=${`change ${each.how.replace(" ", "-")}`}><td class="time">${each.how === "more" ? "3× more" : each.how}</td>
            <td class="name"><button type="button" class="way" title=${client} aria-label=${client} onClick=${() => onPick(...pickOfChange(doc, each))}><${Cut} text=${client} /></button></td><td class="name" title=${server}><${Cut} text=${server} /></td>
            <td class="port">${ctk.portOf({ port, proto })}</td>
            <td class="right">${each.now ? ctk.counted(each.now.sums.connections) : "0"}</td>
            <td class="right">${each.then ? ctk.counted(each.then.sums.connections) : each.how === "unknown" ? "?" : "0"}</td>
            <td class="right">${each.now ? ctk.some(ctk.failedOf(each.now.sums)) : ""}</td></tr>`;
        }} />`}
    </section>`;
  }

  function Depends({ doc, edges, onPick, search }) {
    const [text, setText] = useState("");
    const names = useMemo(() => {
      const found = new Set();
      for (const edge of edges) {
        found.add(ctk.whoIs(doc, edge.src));
        found.add(ctk.whoIs(doc, edge.dst));
        if (edge.service) found.add(edge.service);
      }
      return [...found].sort(ctk.compareText);
    }, [doc, edges]);
    const fits = text === "" ? [] : names.filter((name) => name.includes(text));
    const chosen = names.includes(text) ? text : fits.length === 1 ? fits[0] : null;
    const server = (edge) => edge.service || ctk.whoIs(doc, edge.dst);
    const served = useMemo(() => ctk.groupBy(edges, server)
      .map((group) => ({ ...group, clients: new Set(group.edges.map((edge) => ctk.whoIs(doc, edge.src))).size }))
      .sort((one, other) => other.clients - one.clients || ctk.rankLink(one, other)), [doc, edges]);
    const sides = useMemo(() => (chosen === null ? {} : sidesOf(doc, edges, chosen)), [doc, edges, chosen]);
    const list = (title, groups) => html`<div><h3>${title}</h3>${groups.length === 0 ? html`<p class="none">nobody</p>` : html`<${Rows} caption=${title}
      rows=${groups} head=${[["Who"], ["Service"], ["Port"], ["Conns", true], ["Failed", true], ["Bytes", true]]}
      row=${(group) => {
        const [name, service, port, proto] = JSON.parse(group.key);
        return html`<tr><td class="name"><button type="button" class="way" title=${name} aria-label=${name} onClick=${() => onPick(...pickOfPeer(doc, title, group))}><${Cut} text=${name} /></button></td><td class="name" title=${service}><${Cut} text=${service || "–"} /></td><td class="port">${ctk.portOf({ port, proto })}</td>
          <td class="right">${ctk.counted(group.sums.connections)}</td><td class="right bad">${ctk.some(ctk.failedOf(group.sums))}</td>
          <td class="right">${ctk.scaled(ctk.bytesOf(group.sums))}</td></tr>`;
      }} />`}</div>`;
    return html`<section aria-labelledby="depends"><h2 id="depends">Who depends on…</h2>
      <p><label>Workload, service or address <input type="search" list="names" ref=${search} value=${text} placeholder="press / to search"
        onInput=${(event) => setText(event.target.value)} /></label>
        ${text !== "" && chosen === null ? html` <span class="none">${fits.length} fit${fits.length && fits.length < 8 ? `: ${fits.join(", ")}` : ""}</span>` : null}</p>
      ${chosen === null ? html`<${Rows} caption="Servers" rows=${served} head=${[["Server"], ["Clients", true], ["Conns", true], ["Failed", true]]}
        row=${(each) => html`<tr><td class="name"><button type="button" class="way" title=${each.key} aria-label=${each.key} onClick=${() => setText(each.key)}><${Cut} text=${each.key} /></button></td>
          <td class="right">${ctk.counted(each.clients)}</td><td class="right">${ctk.counted(each.sums.connections)}</td><td class="right bad">${ctk.some(ctk.failedOf(each.sums))}</td></tr>`} />` : null}
      <datalist id="names">${names.slice(0, 2000).map((name) => html`<option value=${name} />`)}</datalist>
      ${chosen === null ? null : html`<div class="sides">${Object.entries(sides).map(([title, groups]) => list(title, groups))}</div>`}
    </section>`;
  }

  // A list: its title, the key an edge has in it, and the flags that ask for a row of it.
  const LISTS = {
    pairs: ["Workloads", (doc, edge) => `${ctk.whoIs(doc, edge.src)} → ${ctk.whoIs(doc, edge.dst)}`,
      (doc, edge) => ctk.flagsOfEnds(doc, [{ ...edge, service: null }])],
    services: ["Services", (doc, edge) => edge.service, (doc, edge) => `--service ${ctk.shellWord(edge.dialled)}`],
    external: ["External peers", (doc, edge) => {
      const ends = [doc.nodes[edge.src], doc.nodes[edge.dst]].filter((each) => each.kind === "external");
      return ends.length ? ends.map((each) => each.name).join(" → ") : null;
    }, (doc, edge) => `--kind external ${[edge.src, edge.dst].filter((id) => doc.nodes[id].kind === "external" && doc.nodes[id].name !== "other").map((id) => `--ip ${doc.nodes[id].name}`).join(" ")}`],
    ports: ["Ports", (doc, edge) => ctk.portOf(edge), (doc, edge) => ctk.flagsOfPort(edge, "dst_port,proto")],
  };

  function Lists({ doc, edges, by, onBy, onPick }) {
    const rows = useMemo(() => ctk.groupBy(edges, (edge) => LISTS[by][1](doc, edge), ctk.rankWeight), [doc, edges, by]);
    const total = edges.reduce((sums, edge) => ctk.addSums(sums, edge), ctk.noSums());
    const onKey = (event) => {
      const keys = Object.keys(LISTS);
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) {
        const next = keys[(keys.indexOf(by) + step + keys.length) % keys.length];
        onBy(next);
        document.getElementById(`tab-${next}`).focus();
      }
    };
    return html`<section aria-labelledby="moves"><h2 id="moves">Who moves most?</h2>
      <div role="tablist" aria-label="Lists" onKeyDown=${onKey}>${Object.entries(LISTS).map(([key, [title]]) => html`<button type="button"
        role="tab" id=${`tab-${key}`} aria-selected=${key === by ? "true" : "false"} tabindex=${key === by ? 0 : -1} aria-controls="list" onClick=${() => onBy(key)}>${title}</button>`)}</div>
      <div role="tabpanel" id="list" aria-labelledby=${`tab-${by}`}>
      <${Rows} key=${by} caption=${LISTS[by][0]} rows=${rows} head=${[[LISTS[by][0]], ["Conns", true], ["Failed", true], ["Out", true], ["In", true], ["Share", true]]}
        row=${(group) => html`<tr data-row=${by} data-name=${group.key} ...${exact(group.sums)}><td class="name"><button type="button" class="way" title=${group.key} aria-label=${group.key} onClick=${() => onPick(...pickOfList(doc, by, group))}><${Cut} text=${group.key} /></button></td>
          <td class="right">${ctk.counted(group.sums.connections)}</td><td class="right bad">${ctk.some(ctk.failedOf(group.sums))}</td>
          <td class="right">${ctk.scaled(group.sums.bytes_out)}</td><td class="right">${ctk.scaled(group.sums.bytes_in)}</td>
          <td class="right">${ctk.bytesOf(total) === null ? ctk.share(group.sums.connections, total.connections)
            : ctk.bytesOf(group.sums) === null ? "–" : ctk.share(ctk.bytesOf(group.sums), ctk.bytesOf(total))}</td></tr>`} />
      <p class="sum" data-row="total" ...${exact(total)}>${`Together ${ctk.counted(total.connections)} connections, ${ctk.counted(ctk.failedOf(total))} failed, `}
        ${ctk.scaled(total.bytes_out)} out, ${ctk.scaled(total.bytes_in)} in${doc.left_out.edges
          ? `; without ${ctk.counted(doc.left_out.edges)} small edges, whose ${ctk.counted(doc.left_out.sums.connections)} connections are in no list` : ""}.</p></div>
    </section>`;
  }

  Object.assign(ctk, { Cut, Rows, exactSums: exact, Trust, Failures, Changes, Depends, Lists, rowNamed });
})((globalThis.ctk = globalThis.ctk || {}));
