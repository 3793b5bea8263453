// The page's address is its question: filters and the span by the command line's own names, and
// what is looked at. `#namespace=shop&not-pod=shop/web-1&sel=workload:shop/Deployment/web`.
"use strict";
(function (ctk) {
  const SIDED = ["namespace", "pod", "workload", "node", "kind"];
  const PLAIN = ["service", "protocol"];
  const LOOK = ["sel", "open", "by", "theme"];

  // The filters that the edges of a document can tell apart: all others a report refuses.
  const FILTERS = new Map();
  for (const field of SIDED) {
    for (const side of ["any", "from", "to"]) {
      const name = side === "any" ? field : `${side}-${field}`;
      FILTERS.set(name, { field, side, negated: false });
      FILTERS.set(`not-${name}`, { field, side, negated: true });
    }
  }
  for (const field of PLAIN) {
    FILTERS.set(field, { field, side: "any", negated: false });
    FILTERS.set(`not-${field}`, { field, side: "any", negated: true });
  }

  function parse(hash) {
    const look = new Map();
    const asked = [];
    for (const [name, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
      if (LOOK.includes(name)) look.set(name, value);
      else asked.push([name, value]);
    }
    return { asked, look };
  }

  function write(asked, look) {
    const params = new URLSearchParams(asked);
    for (const [name, value] of look) if (value) params.set(name, value);
    // Slashes and colons are legible, and allowed behind #.
    return `#${params.toString().replaceAll("%2F", "/").replaceAll("%3A", ":")}`;
  }

  function like(pattern, text) {
    if (text === null || text === undefined) return false;
    if (!/[*?]/.test(pattern)) return pattern === text;
    const escaped = pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", "[^]*").replaceAll("?", "[^]");
    return new RegExp(`^${escaped}$`, "u").test(text);
  }

  // A name, and those that it begins as a word: web fits web-7c65d6cfc9-aaaaa.
  function begins(pattern, text) {
    return like(pattern, text) || (!/[*?]/.test(pattern) && like(`${pattern}-*`, text));
  }

  function named(pattern, namespace, name, fits = like) {
    const slash = pattern.lastIndexOf("/");
    if (slash < 0) return fits(pattern, name);
    return like(pattern.slice(0, slash), namespace) && fits(pattern.slice(slash + 1) || "*", name);
  }

  function endFits(doc, id, field, value) {
    const chain = ctk.chainOf(doc, id);
    const leaf = chain[chain.length - 1];
    const namespace = chain[0].kind === "namespace" ? chain[0].named : null;
    switch (field) {
      case "namespace": return like(value, namespace);
      case "pod": return leaf.kind === "pod" && named(value, namespace, leaf.named, begins);
      case "workload": {
        const workload = chain.find((each) => each.kind === "workload");
        return workload !== undefined && named(value, namespace, workload.named);
      }
      case "node": return like(value, leaf.node) || (leaf.kind === "node" && like(value, leaf.named));
      case "kind": return leaf.kind === value;
      default: throw new Error(field);
    }
  }

  function edgeFits(doc, edge, filter, value) {
    if (filter.field === "protocol") return edge.proto === value.toLowerCase();
    if (filter.field === "service") {
      const slash = edge.dialled === null ? -1 : edge.dialled.indexOf("/");
      return slash >= 0 && named(value, edge.dialled.slice(0, slash), edge.dialled.slice(slash + 1));
    }
    return (filter.side !== "to" && endFits(doc, edge.src, filter.field, value))
      || (filter.side !== "from" && endFits(doc, edge.dst, filter.field, value));
  }

  // The edges that fit: the same filter twice, or a list with commas, is "or"; different ones "and".
  function fitting(doc, edges, asked) {
    const byName = new Map();
    for (const [name, value] of asked) {
      if (!FILTERS.has(name)) continue;
      byName.set(name, [...(byName.get(name) || []), ...value.split(",").filter((each) => each)]);
    }
    return edges.filter((edge) => [...byName].every(([name, values]) => {
      const filter = FILTERS.get(name);
      return values.some((value) => edgeFits(doc, edge, filter, value)) !== filter.negated;
    }));
  }

  // The filters of an address that a report cannot answer by itself.
  function unanswered(asked) {
    return asked.filter(([name]) => !FILTERS.has(name));
  }

  // The flags of a command that asks what the page shows.
  function flagsOf(asked) {
    return asked.map(([name, value]) => {
      const negated = name.startsWith("not-");
      const flag = `${negated ? "--not " : ""}--${negated ? name.slice(4) : name}`;
      return value === "" ? flag : `${flag} ${ctk.shellWord(value)}`;
    }).join(" ");
  }

  Object.assign(ctk, { FILTERS, parseAddress: parse, writeAddress: write, fitting, unanswered, flagsOf });
})((globalThis.ctk = globalThis.ctk || {}));
