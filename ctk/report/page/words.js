// Numbers, times and names for people. Pure: no page, no state.
"use strict";
(function (ctk) {
  const UNITS = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  const SUM_KEYS = ["connections", "refused", "unreplied", "bytes_out", "bytes_in"];

  // Bytes as `ctk top` writes them: 1,023 B, 12.3 KiB; a dash where they were not measured.
  function scaled(size) {
    if (size === null || size === undefined) return "–";
    if (size < 1024) return `${size} B`;
    let amount = size / 1024;
    let unit = 0;
    while (amount >= 1023.95 && unit < UNITS.length - 1) {
      amount /= 1024;
      unit += 1;
    }
    return `${amount.toFixed(1)} ${UNITS[unit]}`;
  }

  function counted(number) {
    // Not by toLocaleString: to set it up costs the first paint 20 ms.
    return number === null || number === undefined ? "–" : String(number).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
  }

  // A count that is left out where there is none, so that what there is stands out.
  function some(number) {
    return number ? counted(number) : "";
  }

  function share(part, whole) {
    if (!whole) return "–";
    const percent = (100 * part) / whole;
    return percent > 0 && percent < 0.1 ? "<0.1 %" : `${percent.toFixed(1)} %`;
  }

  function two(number) {
    return String(number).padStart(2, "0");
  }

  // A moment in the reader's own zone; with its date where it is not the day of `beside`.
  function clock(text, beside) {
    if (!text) return "–";
    const at = new Date(text);
    const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
    const other = beside ? new Date(beside) : null;
    if (other && at.toDateString() === other.toDateString()) return time;
    return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
  }

  // The zone's offset at a moment: UTC, or UTC+01:00.
  function offset(text) {
    const minutes = -new Date(text).getTimezoneOffset();
    if (minutes === 0) return "UTC";
    const sign = minutes < 0 ? "-" : "+";
    const [hours, rest] = [Math.floor(Math.abs(minutes) / 60), Math.abs(minutes) % 60];
    return `UTC${sign}${two(hours)}:${two(rest)}`;
  }

  function lasted(since, until) {
    let seconds = Math.round((new Date(until) - new Date(since)) / 1000);
    const parts = [];
    for (const [name, width] of [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]]) {
      const count = Math.floor(seconds / width);
      seconds -= count * width;
      if (count) parts.push(`${count}${name}`);
    }
    return parts.slice(0, 2).join(" ") || "0s";
  }

  function noSums() {
    return { connections: 0, refused: 0, unreplied: 0, bytes_out: null, bytes_in: null };
  }

  // Add what one edge did; null is "not measured" and adds nothing.
  function addSums(sums, edge) {
    sums.connections += edge.connections;
    sums.refused += edge.refused;
    sums.unreplied += edge.unreplied;
    if (edge.bytes_out !== null) sums.bytes_out = (sums.bytes_out || 0) + edge.bytes_out;
    if (edge.bytes_in !== null) sums.bytes_in = (sums.bytes_in || 0) + edge.bytes_in;
    return sums;
  }

  function bytesOf(sums) {
    if (sums.bytes_out === null && sums.bytes_in === null) return null;
    return (sums.bytes_out || 0) + (sums.bytes_in || 0);
  }

  function failedOf(sums) {
    return sums.refused + sums.unreplied;
  }

  // Whether failures are what it is about: one connection of twenty, not one of ten thousand.
  function isFailing(sums) {
    return failedOf(sums) * 20 >= Math.max(sums.connections, 1);
  }

  // What a thing weighs: bytes, and connections where nothing was measured.
  function weightOf(sums) {
    const bytes = bytesOf(sums);
    return bytes === null ? sums.connections : bytes;
  }

  // A port as the tables of `ctk` write it: 443/tcp, and icmp where there is none.
  function portOf(edge) {
    return edge.port === null ? edge.proto : `${edge.port}/${edge.proto}`;
  }

  function compareText(one, other) {
    return one < other ? -1 : one > other ? 1 : 0;
  }

  // A name too long for its place, shortened in the middle: both ends tell names apart.
  function shortened(name, most) {
    if (name.length <= most) return name;
    const tail = Math.floor((most - 1) / 2);
    return `${name.slice(0, most - 1 - tail)}…${name.slice(name.length - tail)}`;
  }

  // What turns text round, or is not seen at all, is spelled out: two names never look the same.
  const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

  function visible(text) {
    return text === null || text === undefined ? text : text.replace(UNSEEN, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);
  }

  // A cell that a spreadsheet does not take for a formula.
  function csvCell(value) {
    let text = value === null || value === undefined ? "" : String(value);
    if (/^[=+\-@\t\r]/.test(text) && typeof value !== "number") text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  // A word of a command line that any shell takes as it is.
  function shellWord(word) {
    return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
  }

  Object.assign(ctk, {
    SUM_KEYS, scaled, counted, some, share, clock, offset, lasted, noSums, addSums, bytesOf, failedOf, isFailing,
    weightOf, portOf, compareText, shortened, visible, csvCell, shellWord,
  });
})((globalThis.ctk = globalThis.ctk || {}));
