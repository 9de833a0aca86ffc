"use strict";
// One picture of a log: lanes over time on a canvas, a moment that moves, the state at that moment below.
// `picture` comes with the page; a page that is served (`replay serve`) asks for what has happened since.
(() => {
  const $ = (id) => document.getElementById(id);
  const LABEL = 210, LANE = 26, AXIS = 26, RIGHT = 24;
  const KINDS = ["container", "network", "image", "volume", "engine"];
  let picture = JSON.parse($("data").textContent);
  let marks = picture.marks, xs = [], shown = [], rows = [], at = 0, chosen = null, zoom = 1, offset = 0, timer = null;
  let byPosition = new Map(), effects = new Map();

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const time = (ms) => new Date(ms).toISOString().replace("T", " ").replace("Z", "");
  const escape = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
  const lane = (mark) => picture.lanes[mark.lane];

  function colour(kind, status) {
    if (kind === "container") {
      if (/unhealthy|dead|fail|lost/.test(status)) return css("--bad");
      if (/^running/.test(status)) return css("--running");
      if (/restart|stop|start|paus|remov|connect|kill/.test(status)) return css("--warm");
      return css("--still");
    }
    return css({ network: "--net", image: "--img", volume: "--vol" }[kind] || "--still");
  }
  const alarming = (mark) => /exited|failed|unhealthy|lost|killed|removed$|remove_requested|disconnect/.test(mark.name + " " + mark.status) && lane(mark).kind !== "image";

  // -- what is shown -----------------------------------------------------------------------------------------------
  function index() {
    byPosition = new Map(marks.map((mark) => [mark.position, mark]));
    effects = new Map();
    for (const mark of marks) if (mark.cause) effects.set(mark.cause, [...(effects.get(mark.cause) || []), mark]);
  }

  function filter() {
    const word = $("object").value.trim().toLowerCase(), actor = $("actor").value;
    const kinds = new Set([...document.querySelectorAll("#kinds input:checked")].map((box) => box.value));
    const wanted = picture.lanes.map((one) => kinds.has(one.kind) && (!word || [one.stream, ...one.names].some((name) => name.toLowerCase().includes(word))));
    shown = marks.filter((mark) => wanted[mark.lane] && (actor === "" || mark.actor === +actor));
    const used = new Set(shown.map((mark) => mark.lane));
    rows = picture.lanes.map((one, number) => number).filter((number) => used.has(number))
      .sort((a, b) => KINDS.indexOf(picture.lanes[a].kind) - KINDS.indexOf(picture.lanes[b].kind) || a - b);
    scale();
    at = Math.min(at, Math.max(0, shown.length - 1));
  }

  function scale() {
    // A wait of an hour is drawn as wide as a few events, so that a burst can be told apart from a moment.
    const shorten = $("shorten").checked;
    let x = 0, before = null;
    xs = shown.map((mark) => {
      if (before !== null) {
        const gap = Math.max(0, mark.time_ms - before);
        x += shorten ? 1 + Math.log2(1 + gap / 20) : gap;
      }
      before = mark.time_ms;
      return x;
    });
    const total = xs.length ? xs[xs.length - 1] || 1 : 1;
    xs = xs.map((value) => value / total);
    $("slider").max = Math.max(0, shown.length - 1);
  }

  // -- drawing -----------------------------------------------------------------------------------------------------
  let width = 0, height = 0;
  const px = (x) => LABEL + 14 + (x - offset) * zoom * (width - LABEL - RIGHT - 14);
  const py = (row) => AXIS + row * LANE + LANE / 2;

  function draw() {
    const canvas = $("canvas"), chart = $("chart"), ratio = window.devicePixelRatio || 1;
    width = chart.clientWidth; height = AXIS + Math.max(4, rows.length) * LANE + 10;
    canvas.width = width * ratio; canvas.height = height * ratio;
    canvas.style.width = width + "px"; canvas.style.height = height + "px";
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = "12.5px system-ui, sans-serif"; pen.textBaseline = "middle";
    const rowOf = new Map(rows.map((number, row) => [number, row]));
    rows.forEach((number, row) => {
      if (row % 2 === 0) { pen.fillStyle = css("--odd"); pen.fillRect(0, AXIS + row * LANE, width, LANE); }
    });
    axis(pen);
    pen.save(); pen.beginPath(); pen.rect(LABEL, 0, width - LABEL, height); pen.clip();
    bars(pen, rowOf); arrows(pen, rowOf); dots(pen, rowOf); cursor(pen);
    pen.restore();
    labels(pen);
  }

  function axis(pen) {
    pen.fillStyle = css("--soft"); pen.strokeStyle = css("--line");
    let free = LABEL, before = "";
    shown.forEach((mark, number) => {
      const x = px(xs[number]);
      if (x < free || x > width - 60) return;
      // Only what differs from the tick before: the day, the second, or the part of a second.
      const text = time(mark.time_ms), same = (end) => text.slice(0, end) === before.slice(0, end);
      const words = same(19) ? text.slice(16, 23) : same(10) ? text.slice(11, 19) : text.slice(5, 19);
      before = text;
      pen.fillText(words, x, AXIS / 2);
      pen.beginPath(); pen.moveTo(x, AXIS); pen.lineTo(x, height); pen.stroke();
      free = x + Math.max(130, pen.measureText(words).width + 30);
    });
  }

  function bars(pen, rowOf) {
    const open = new Map();
    const close = (number, to) => {
      const from = open.get(number);
      if (!from) return;
      pen.fillStyle = from.colour; pen.globalAlpha = 0.75;
      pen.beginPath(); pen.roundRect(px(from.x), py(rowOf.get(number)) - 5, Math.max(2, px(to) - px(from.x)), 10, 3); pen.fill();
      pen.globalAlpha = 1; open.delete(number);
    };
    shown.forEach((mark, number) => {
      close(mark.lane, xs[number]);
      if (!mark.ended && mark.status && rowOf.has(mark.lane)) open.set(mark.lane, { x: xs[number], colour: colour(lane(mark).kind, mark.status) });
    });
    for (const number of [...open.keys()]) close(number, Math.max(1, offset + 1 / zoom));
  }

  function arrows(pen, rowOf) {
    const where = new Map(shown.map((mark, number) => [mark.position, number]));
    const arrow = (from, to, strong) => {
      const a = where.get(from.position), b = where.get(to.position);
      if (a === undefined || b === undefined) return;
      const x1 = px(xs[a]), y1 = py(rowOf.get(from.lane)), x2 = px(xs[b]), y2 = py(rowOf.get(to.lane));
      if (Math.max(x1, x2) < LABEL || Math.min(x1, x2) > width) return;
      pen.strokeStyle = pen.fillStyle = strong ? css("--accent") : css("--soft");
      pen.globalAlpha = strong ? 1 : 0.45; pen.lineWidth = strong ? 1.8 : 1;
      const bend = y1 === y2 ? -LANE * 0.8 : 0, middle = (x1 + x2) / 2;
      pen.beginPath(); pen.moveTo(x1, y1); pen.bezierCurveTo(middle, y1 + bend, middle, y2 + bend, x2, y2); pen.stroke();
      const turn = Math.atan2(y2 - (y2 + bend), x2 - middle) || (x2 >= x1 ? 0 : Math.PI);
      pen.beginPath(); pen.moveTo(x2 - 4 * Math.cos(turn), y2 - 4 * Math.sin(turn));
      pen.lineTo(x2 - 10 * Math.cos(turn - 0.4), y2 - 10 * Math.sin(turn - 0.4));
      pen.lineTo(x2 - 10 * Math.cos(turn + 0.4), y2 - 10 * Math.sin(turn + 0.4)); pen.fill();
      pen.globalAlpha = 1; pen.lineWidth = 1;
    };
    if ($("arrows").checked) for (const mark of shown) if (byPosition.has(mark.cause)) arrow(byPosition.get(mark.cause), mark, false);
    if (!chosen) return;
    let back = chosen;
    for (let steps = 0; back.cause && byPosition.has(back.cause) && steps < 50; steps++) { const cause = byPosition.get(back.cause); arrow(cause, back, true); back = cause; }
    const follow = (mark, depth) => { for (const next of effects.get(mark.position) || []) { arrow(mark, next, true); if (depth < 8) follow(next, depth + 1); } };
    follow(chosen, 0);
  }

  function dots(pen, rowOf) {
    shown.forEach((mark, number) => {
      const x = px(xs[number]), y = py(rowOf.get(mark.lane));
      if (x < LABEL - 6 || x > width + 6) return;
      pen.fillStyle = alarming(mark) ? css("--bad") : css("--ink"); pen.strokeStyle = css("--panel");
      pen.beginPath(); pen.arc(x, y, mark === chosen ? 6 : 3.6, 0, 7); pen.fill(); pen.stroke();
      if (mark === chosen) { pen.strokeStyle = css("--accent"); pen.lineWidth = 2; pen.beginPath(); pen.arc(x, y, 8.5, 0, 7); pen.stroke(); pen.lineWidth = 1; }
    });
  }

  function cursor(pen) {
    if (!shown.length) return;
    const x = px(xs[at]);
    pen.strokeStyle = css("--accent"); pen.beginPath(); pen.moveTo(x, 0); pen.lineTo(x, height); pen.stroke();
    pen.fillStyle = css("--accent"); pen.beginPath(); pen.moveTo(x - 5, 0); pen.lineTo(x + 5, 0); pen.lineTo(x, 7); pen.fill();
  }

  function labels(pen) {
    let kind = "";
    rows.forEach((number, row) => {
      const one = picture.lanes[number];
      pen.fillStyle = css("--soft");
      if (one.kind !== kind) { pen.textAlign = "right"; pen.fillText(one.kind, LABEL - 8, py(row)); pen.textAlign = "left"; kind = one.kind; }
      pen.fillStyle = css("--ink");
      let text = one.label;
      while (text.length > 3 && pen.measureText(text).width > LABEL - 96) text = text.slice(0, -2) + "…";
      pen.fillText(text, 16, py(row));
    });
    if (!rows.length) { pen.fillStyle = css("--soft"); pen.fillText("Nothing happened that these filters let through.", 18, 60); }
  }

  // -- the moment --------------------------------------------------------------------------------------------------
  function states() {
    const now = shown.length ? shown[at].position : 0, last = new Map();
    for (const mark of marks) { if (mark.position > now) break; last.set(mark.lane, mark); }
    return last;
  }

  function tell() {
    const mark = shown[at];
    $("slider").value = at;
    $("moment").textContent = mark ? `${time(mark.time_ms)} UTC  @${mark.position}` : "";
    const last = states(), out = [];
    for (const kind of KINDS) {
      const living = [...last].filter(([number, one]) => picture.lanes[number].kind === kind && one.status && !one.ended && kind !== "engine");
      if (!living.length) continue;
      out.push(`<h2>${kind}s</h2><table>`);
      for (const [number, one] of living) {
        const said = one.says.filter(([, value]) => value).map(([key, value]) => `${escape(key)} ${escape(value)}`).join(" · ");
        const current = mark && mark.lane === number ? ' class="now"' : "";
        out.push(`<tr${current}><td><a data-at="${one.position}">${escape(picture.lanes[number].label)}</a></td><td><span class="dot" style="background:${colour(kind, one.status)}"></span>${escape(one.status)}</td><td class="says">${said}</td></tr>`);
      }
      out.push("</table>");
    }
    $("state").innerHTML = out.join("") || '<p class="none">Nothing was there yet.</p>';
  }

  function describe() {
    if (!chosen) return;
    const link = (mark) => `<a data-at="${mark.position}">@${mark.position}</a> ${escape(lane(mark).label)}: ${escape(mark.sentence)}`;
    const cause = byPosition.get(chosen.cause), led = effects.get(chosen.position) || [];
    const together = marks.filter((mark) => mark.correlation === chosen.correlation && mark !== chosen);
    const first = marks.find((mark) => mark.correlation === chosen.correlation);
    const asked = first.actor === chosen.actor ? "" : `<dt>asked by</dt><dd>${escape(picture.actors[first.actor])}</dd>`;
    const why = cause ? link(cause) : chosen.cause ? `@${chosen.cause}` : escape(chosen.asked || "nothing before it");
    $("event").innerHTML = `<h3>${escape(lane(chosen).label)} ${escape(chosen.sentence)}</h3>
      <dl><dt>when</dt><dd>${time(chosen.time_ms)} UTC, @${chosen.position}</dd><dt>who</dt><dd>${escape(picture.actors[chosen.actor])}</dd>${asked}
      <dt>event</dt><dd>${escape(chosen.name)}</dd><dt>because of</dt><dd>${why}</dd><dt>request</dt><dd>${escape(chosen.correlation)}</dd></dl>
      ${led.length ? "<h2>led to</h2><ul>" + led.map((mark) => `<li>${link(mark)}</li>`).join("") + "</ul>" : ""}
      ${together.length ? "<h2>same request</h2><ul>" + together.slice(0, 40).map((mark) => `<li>${link(mark)}</li>`).join("") + "</ul>" : ""}`;
  }

  function choose(mark) {
    chosen = mark;
    const number = shown.indexOf(mark);
    if (number >= 0) at = number;
    reveal(); tell(); describe(); draw();
  }

  function move(to) {
    at = Math.max(0, Math.min(shown.length - 1, to));
    chosen = shown[at] || null;
    reveal(); tell(); describe(); draw();
  }

  function reveal() {
    if (!shown.length) return;
    const x = xs[at];
    if (x < offset || x > offset + 1 / zoom) offset = Math.max(0, Math.min(1 - 1 / zoom, x - 0.5 / zoom));
  }

  function zoomed(factor, around = 0.5) {
    const middle = offset + around / zoom;
    zoom = Math.max(1, Math.min(2000, zoom * factor));
    offset = Math.max(0, Math.min(1 - 1 / zoom, middle - around / zoom));
    draw();
  }

  // -- hands -------------------------------------------------------------------------------------------------------
  function near(event) {
    const box = $("canvas").getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, least = 14;
    shown.forEach((mark, number) => {
      const far = Math.hypot(px(xs[number]) - x, (py(rows.indexOf(mark.lane)) - y) * 0.8);
      if (far < least && px(xs[number]) >= LABEL) { best = mark; least = far; }
    });
    return best;
  }

  function listen() {
    $("kinds").innerHTML = KINDS.filter((kind) => picture.lanes.some((one) => one.kind === kind))
      .map((kind) => `<label><input type="checkbox" value="${kind}" checked>${kind}s</label>`).join("");
    const again = () => { filter(); tell(); draw(); };
    for (const id of ["object", "actor", "shorten"]) $(id).addEventListener("input", again);
    $("kinds").addEventListener("change", again);
    $("arrows").addEventListener("change", draw);
    $("slider").addEventListener("input", () => move(+$("slider").value));
    $("back").onclick = () => move(at - 1); $("next").onclick = () => move(at + 1);
    $("in").onclick = () => zoomed(1.6); $("out").onclick = () => zoomed(1 / 1.6);
    $("fit").onclick = () => { zoom = 1; offset = 0; draw(); };
    $("play").onclick = () => {
      if (timer) { clearInterval(timer); timer = null; } else {
        if (at >= shown.length - 1) at = -1;
        timer = setInterval(() => { if (at >= shown.length - 1) $("play").onclick(); else move(at + 1); }, 350);
      }
      $("play").textContent = timer ? "❚❚" : "▶";
    };
    document.addEventListener("keydown", (event) => {
      if (/INPUT|SELECT/.test(event.target.tagName)) return;
      if (event.key === "ArrowLeft") move(at - 1); else if (event.key === "ArrowRight") move(at + 1);
    });
    document.addEventListener("click", (event) => {
      const to = event.target.closest("a[data-at]");
      if (to && byPosition.has(+to.dataset.at)) choose(byPosition.get(+to.dataset.at));
    });
    const chart = $("chart"), tip = $("tip");
    chart.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.shiftKey && Math.abs(event.deltaX) < Math.abs(event.deltaY)) return;
      event.preventDefault();
      if (event.ctrlKey) zoomed(event.deltaY < 0 ? 1.25 : 0.8, Math.max(0, (event.offsetX - LABEL) / (width - LABEL - RIGHT)));
      else { offset = Math.max(0, Math.min(1 - 1 / zoom, offset + (event.deltaX || event.deltaY) / width / zoom)); draw(); }
    }, { passive: false });
    chart.addEventListener("click", (event) => { const mark = near(event); if (mark) choose(mark); });
    chart.addEventListener("mousemove", (event) => {
      const mark = near(event);
      tip.hidden = !mark; chart.style.cursor = mark ? "pointer" : "";
      if (!mark) return;
      tip.innerHTML = `<b>${escape(lane(mark).label)} ${escape(mark.sentence)}</b><span>${time(mark.time_ms)} · ${escape(picture.actors[mark.actor])}</span>`;
      const box = chart.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top + chart.scrollTop;
      tip.style.left = Math.min(x + 14, width - 400) + "px"; tip.style.top = y + 14 + "px";
    });
    chart.addEventListener("mouseleave", () => { tip.hidden = true; });
    window.addEventListener("resize", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }

  function header() {
    const kept = $("actor").value;
    $("actor").innerHTML = '<option value="">everybody</option>' + picture.actors.map((name, number) => `<option value="${number}">${escape(name)}</option>`).join("");
    $("actor").value = kept;
    const cut = picture.cut ? `, ${picture.cut} older ones left out` : "";
    $("span").textContent = marks.length ? `${marks.length} events${cut}, ${time(marks[0].time_ms).slice(0, 19)} to ${time(marks[marks.length - 1].time_ms).slice(0, 19)} UTC` : "no events";
  }

  async function live() {
    for (;;) {
      await new Promise((done) => setTimeout(done, 1000));
      try {
        const answer = await fetch("data?after=" + picture.head);
        const fresh = await answer.json();
        if (fresh.head === picture.head) continue;
        const atEnd = at >= shown.length - 1;
        marks = marks.concat(fresh.marks);
        picture = { ...fresh, marks, cut: picture.cut };
        index(); header(); filter();
        if (atEnd) at = Math.max(0, shown.length - 1);
        reveal(); tell(); draw();
      } catch { /* The engine's host may be away for a while: it is asked again. */ }
    }
  }

  listen(); index(); header(); filter(); at = Math.max(0, shown.length - 1); tell(); draw();
  if (location.hash.startsWith("#@") && byPosition.has(+location.hash.slice(2))) choose(byPosition.get(+location.hash.slice(2)));
  if (location.protocol.startsWith("http")) live();
})();
