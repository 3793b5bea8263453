// From leaf edges to what the map shows: boxes and the links between them, each with its sums.
// Pure: the same document and the same open boxes give the same graph.
"use strict";
(function (ctk) {
  // Externals, unknown addresses and nodes share a box each; the first two one a direction, since
  // who comes from outside is seldom who is dialled there.
  const SHARED = {
    external: { from: "external clients", to: "external servers" },
    unknown: { from: "unknown clients", to: "unknown servers" },
  };

  // A node of the document and what it belongs to, the outermost first.
  function chainOf(doc, id) {
    const chain = [];
    for (let at = id; at !== null && at !== undefined; at = doc.nodes[at].parent) {
      chain.unshift(doc.nodes[at]);
    }
    return chain;
  }

  // The key of a namespace, workload, pod, node or service, as an address and a title show it.
  function keyOf(doc, id) {
    const node = doc.nodes[id];
    const names = chainOf(doc, id);
    const namespace = names[0].kind === "namespace" ? names[0].name : null;
    if (node.kind === "namespace") return `namespace:${node.name}`;
    if (node.kind === "workload") return `workload:${namespace}/${node.workload_kind}/${node.name}`;
    return `${node.kind}:${namespace === null ? "" : `${namespace}/`}${node.name}`;
  }

  function box(key, kind, name, title, parent, opens) {
    return { key, kind, name, title, parent, opens, leaves: new Set(),
      in: ctk.noSums(), out: ctk.noSums(), all: ctk.noSums() };
  }

  // The box that shows a leaf: the outermost of its chain that is not open.
  function boxOf(doc, id, side, open) {
    const leaf = doc.nodes[id];
    if (SHARED[leaf.kind] !== undefined) {
      const name = SHARED[leaf.kind][side];
      return { ...box(`${leaf.kind}:${side}`, leaf.kind, name, name, null, false), way: side };
    }
    if (leaf.kind === "node" && !open.has("nodes")) {
      return box("nodes", "node", "nodes", "nodes", null, true);
    }
    const chain = chainOf(doc, id);
    let parent = leaf.kind === "node" ? "nodes" : null;
    for (const each of chain) {
      const key = keyOf(doc, each.id);
      if (each === leaf || !open.has(key)) {
        const namespace = chain[0].kind === "namespace" && each !== chain[0] ? chain[0].name : null;
        const title = namespace === null ? each.name : `${namespace}/${each.name}`;
        return box(key, each.kind, each.name, title, parent, each !== leaf);
      }
      parent = key;
    }
    throw new Error("a leaf closes its own chain");
  }

  // The ends of an edge that stand in a box: of a box of one way only those.
  function endsIn(box, edge) {
    const ends = new Set();
    if (box.way !== "to" && box.leaves.has(edge.src)) ends.add(edge.src);
    if (box.way !== "from" && box.leaves.has(edge.dst)) ends.add(edge.dst);
    return ends;
  }

  // Sum leaf edges up between boxes. `open` holds the keys of the boxes that are opened.
  function fold(doc, edges, open) {
    const boxes = new Map();
    const links = new Map();
    const known = { from: new Map(), to: new Map() };
    const boxAt = (id, side) => {
      let found = known[side].get(id);
      if (found === undefined) {
        const made = boxOf(doc, id, side, open);
        if (!boxes.has(made.key)) boxes.set(made.key, made);
        found = boxes.get(made.key);
        known[side].set(id, found);
      }
      found.leaves.add(id);
      return found;
    };
    for (const edge of edges) {
      const src = boxAt(edge.src, "from");
      const dst = boxAt(edge.dst, "to");
      ctk.addSums(src.out, edge);
      ctk.addSums(dst.in, edge);
      ctk.addSums(src.all, edge);
      if (dst !== src) ctk.addSums(dst.all, edge);
      const key = `${src.key}\u0000${dst.key}`;
      let link = links.get(key);
      if (link === undefined) {
        link = { key, src: src.key, dst: dst.key, sums: ctk.noSums(), edges: [] };
        links.set(key, link);
      }
      ctk.addSums(link.sums, edge);
      link.edges.push(edge);
    }
    return { boxes, links };
  }

  function rankBox(one, other) {
    const failed = (each) => ctk.failedOf(each.in) + ctk.failedOf(each.out);
    const weight = (each) => ctk.weightOf(each.in) + ctk.weightOf(each.out);
    return failed(other) - failed(one) || weight(other) - weight(one)
      || ctk.compareText(one.key, other.key);
  }

  function rankLink(one, other) {
    return ctk.failedOf(other.sums) - ctk.failedOf(one.sums)
      || ctk.weightOf(other.sums) - ctk.weightOf(one.sums) || ctk.compareText(one.key, other.key);
  }

  function rankWeight(one, other) {
    return ctk.bytesOf(other.sums) - ctk.bytesOf(one.sums)
      || other.sums.connections - one.sums.connections || ctk.compareText(one.key, other.key);
  }

  // Keep what fails first, then what moves most; tell how much the rest is.
  function capped(graph, most) {
    const ranked = [...graph.boxes.values()].sort(rankBox);
    const kept = new Map(ranked.slice(0, most.boxes).map((each) => [each.key, each]));
    const inside = [];
    const left = [];
    for (const link of [...graph.links.values()].sort(rankLink)) {
      (kept.has(link.src) && kept.has(link.dst) && inside.length < most.links ? inside : left).push(link);
    }
    const sums = left.reduce((total, link) => ctk.addSums(total, link.sums), ctk.noSums());
    return {
      boxes: kept,
      links: new Map(inside.map((each) => [each.key, each])),
      more: { boxes: ranked.slice(most.boxes), links: left, sums },
    };
  }

  // Which boxes stand open where nobody chose: namespaces, while their workloads find room.
  function openByDefault(doc, edges, most) {
    const boxes = [...fold(doc, edges, new Set()).boxes.values()];
    const open = new Set();
    let shown = boxes.length;
    for (const each of boxes.filter((other) => other.kind === "namespace").sort(rankBox)) {
      const inside = new Set();
      for (const id of each.leaves) inside.add((chainOf(doc, id)[1] || doc.nodes[id]).id);
      shown += inside.size - 1;
      if (shown > most) break;
      open.add(each.key);
    }
    return open;
  }

  // Sum edges up by any key; what fails first, or, by weight, the largest.
  function groupBy(edges, keyOfEdge, rank = rankLink) {
    const groups = new Map();
    for (const edge of edges) {
      const key = keyOfEdge(edge);
      if (key === null) continue;
      let group = groups.get(key);
      if (group === undefined) {
        group = { key, sums: ctk.noSums(), edges: [] };
        groups.set(key, group);
      }
      ctk.addSums(group.sums, edge);
      group.edges.push(edge);
    }
    return [...groups.values()].sort(rank);
  }

  const named = new WeakMap(); // of a document: asked for each edge, many times

  // Who stands there, as people say it: namespace/workload, else namespace/pod, node or address.
  function whoIs(doc, id) {
    if (!named.has(doc)) named.set(doc, []);
    const names = named.get(doc);
    if (names[id] === undefined) {
      const chain = chainOf(doc, id);
      const best = chain.find((each) => each.kind === "workload") || chain[chain.length - 1];
      names[id] = chain[0].kind === "namespace" ? `${chain[0].name}/${best.name}` : best.name;
    }
    return names[id];
  }

  Object.assign(ctk, { chainOf, keyOf, endsIn, fold, capped, openByDefault, groupBy, rankLink, rankWeight, whoIs });
})((globalThis.ctk = globalThis.ctk || {}));
