/* The control room's page: draws what the room tells, several times a second, and sends what is clicked. */
"use strict";
(() => {
    const SVG = "http://www.w3.org/2000/svg";
    const $ = (id) => document.getElementById(id);
    const make = (name, attributes, parent) => {
        const element = document.createElementNS(SVG, name);
        for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
        if (parent) parent.append(element);
        return element;
    };
    const html = (name, attributes = {}, ...children) => {
        const element = document.createElement(name);
        for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
        element.append(...children);
        return element;
    };
    const money = (cents) => (cents / 100).toLocaleString("en", {minimumFractionDigits: 2, maximumFractionDigits: 2});
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

    let last = null, lastEvent = 0;
    const dots = {}, wires = {}, cards = {}, newest = {};

    const act = (action, node) => fetch("act", {method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify({action, node})});

    const place = (number, count) => {
        const angle = 2 * Math.PI * number / count - Math.PI / 2;
        return [320 + Math.cos(angle) * 215 * (count > 1), 230 + Math.sin(angle) * 150 * (count > 1)];
    };

    const build = (nodes) => {
        const ring = $("ring");
        ring.replaceChildren();
        $("nodes").replaceChildren();
        $("events").replaceChildren();
        nodes.forEach((one, i) => nodes.slice(i + 1).forEach((other, j) => {
            const [x1, y1] = place(i, nodes.length), [x2, y2] = place(i + 1 + j, nodes.length);
            wires[one.node_id + other.node_id] = make("line", {x1, y1, x2, y2, class: "wire"}, ring);
        }));
        make("g", {id: "effects"}, ring);
        nodes.forEach((node, i) => {
            const [x, y] = place(i, nodes.length);
            const group = make("g", {transform: `translate(${x} ${y})`, class: "dot"}, ring);
            make("circle", {r: 30}, group);
            make("text", {y: 6, class: "name"}, group).textContent = node.node_id;
            // Away from the middle, where wires would cross it.
            const label = make("text", {y: y < 229 ? -40 : 50, class: "label"}, group);
            dots[node.node_id] = {group, label, x, y};
            cards[node.node_id] = card(node);
        });
    };

    const card = (node) => {
        const role = html("span"), body = html("tbody"), total = html("td"), count = html("td");
        const buttons = {};
        const row = html("div", {class: "buttons"});
        for (const [action, text] of [["kill", "Kill"], ["pause", "Pause"], ["cut", "Cut off"], ["back", "Bring back"]]) {
            const button = html("button", {"aria-label": `${text} ${node.node_id}`}, text);
            button.onclick = () => act(action, node.node_id);
            buttons[action] = button;
            row.append(button);
        }
        const table = html("table", {}, html("caption", {hidden: ""}, `The bank as ${node.node_id} has it`), body, html("tfoot", {}, html("tr", {}, html("td", {}, "all money"), total), html("tr", {}, html("td", {}, "transfers"), count)));
        const holder = html("div", {}, table);
        const site = html("a", {href: node.site, target: "_blank", rel: "noopener"}, "open this node’s site");
        const article = html("article", {class: "node", "aria-label": `Node ${node.node_id}`}, html("h3", {}, node.node_id, role), holder, row, site);
        $("nodes").append(article);
        return {article, role, body, total, count, buttons, holder, rows: []};
    };

    const labels = {killed: "killed", paused: "paused", cut: "cut off", starting: "starting"};

    const drawNode = (node, view) => {
        const dot = dots[node.node_id], shown = cards[node.node_id];
        const what = node.state === "up" ? node.role : node.state;
        dot.group.setAttribute("class", "dot " + what);
        dot.label.textContent = (labels[node.state] || node.role.replace("_", "-")) + (node.term === null ? "" : `, term ${node.term}`);
        shown.article.className = "node " + what;
        shown.role.textContent = labels[node.state] || node.role.replace("_", "-");
        shown.holder.className = node.state === "killed" || node.state === "paused" ? "old" : "";
        shown.buttons.kill.disabled = node.state === "killed";
        shown.buttons.pause.disabled = node.state !== "up" && node.state !== "cut";
        shown.buttons.cut.disabled = node.state !== "up";
        shown.buttons.back.disabled = node.state === "up" || node.state === "starting";
        if (!node.bank) return;
        if (shown.rows.length !== node.bank.accounts.length) {
            shown.rows = node.bank.accounts.map(([name]) => html("td"));
            shown.body.replaceChildren(...node.bank.accounts.map(([name], i) => html("tr", {}, html("td", {}, name), shown.rows[i])));
        }
        node.bank.accounts.forEach(([, balance], i) => { shown.rows[i].textContent = money(balance); });
        const right = node.bank.total === node.bank.paid_in;
        shown.total.textContent = money(node.bank.total) + (right ? " ✓" : " ✗");
        shown.total.className = right ? "right" : "wrong";
        shown.count.textContent = node.bank.transfers.toLocaleString("en");
    };

    const up = (view) => view.nodes.filter((node) => node.state === "up");
    // As many as may fail, the leader first.
    const toKill = (view) => {
        const ordered = up(view).sort((a, b) => (b.role === "leader") - (a.role === "leader"));
        return ordered.slice(0, Math.max(0, ordered.length - Math.floor(view.nodes.length / 2) - 1));
    };

    const fly = (from, to) => {
        if (still || !dots[from] || !dots[to] || from === to) return;
        const a = dots[from], b = dots[to];
        const vote = make("circle", {r: 7, class: "vote", cx: a.x, cy: a.y}, $("effects"));
        vote.animate([{transform: "translate(0, 0)"}, {transform: `translate(${b.x - a.x}px, ${b.y - a.y}px)`}], {duration: 450, easing: "ease-in-out"}).onfinish = () => vote.remove();
    };
    const pulse = (node, won) => {
        if (still || !dots[node]) return;
        const circle = make("circle", {r: 30, cx: dots[node].x, cy: dots[node].y, class: "pulse" + (won ? " won" : "")}, $("effects"));
        setTimeout(() => circle.remove(), 1500);
    };

    const show = (event) => {
        if (event.kind === "candidate" || event.kind === "pre-candidate") pulse(event.node_id, false);
        if (event.kind === "leader") pulse(event.node_id, true);
        if (event.kind === "voted") fly(event.node_id, (/voted for (\S+)/.exec(event.text) || [])[1]);
    };
    const tell = (event) => {
        if (event.kind === "follows" || event.kind === "follower") return;
        const words = event.text.replace(/ \([^()]*=[^()]*\)$/, ""); // indices are for the logs
        const text = event.kind === "act" || !event.node_id ? words : `${event.node_id} ${words}`;
        // What a node says again and again, and nothing else in between, is one line.
        const before = newest[event.node_id];
        if (before && before.text === text && before.line.isConnected) {
            before.times += 1;
            before.line.textContent = `${text} (${before.times} times)`;
            return;
        }
        const line = html("li", {class: event.kind}, text);
        newest[event.node_id] = {line, text, times: 1};
        $("events").prepend(line);
        while ($("events").children.length > 40) $("events").lastChild.remove();
    };

    const draw = (view) => {
        if (!view.nodes.length) return;
        const isFirst = !last;
        if (isFirst) build(view.nodes);
        last = view;
        const byId = Object.fromEntries(view.nodes.map((node) => [node.node_id, node]));
        view.nodes.forEach((node) => drawNode(node, view));
        view.nodes.forEach((one, i) => view.nodes.slice(i + 1).forEach((other) => {
            const up = one.state === "up" && other.state === "up";
            const leads = up && (one.node_id === view.leader_id || other.node_id === view.leader_id);
            wires[one.node_id + other.node_id].setAttribute("class", "wire" + (leads ? " leads" : up ? "" : " down"));
        }));
        $("health").textContent = view.health + (view.leader_id && view.majority ? ` ${view.leader_id} leads in term ${byId[view.leader_id].term}.` : "");
        const writes = view.majority && view.leader_id;
        $("health").className = !writes ? "ill" : up(view).length < view.nodes.length ? "warned" : "";
        $("acknowledged").textContent = view.acknowledged.toLocaleString("en");
        $("per-second").textContent = view.per_second.toFixed(0);
        $("standing").textContent = view.standing < 0.5 ? "now" : `${view.standing.toFixed(1)} s ago`;
        $("gap").textContent = view.longest_gap_ms < 10000 ? `${view.longest_gap_ms} ms` : `${(view.longest_gap_ms / 1000).toFixed(1)} s`;
        view.events.filter((event) => event.number > lastEvent).forEach((event) => {
            lastEvent = event.number;
            if (!isFirst) show(event);
            tell(event);
        });
        $("kill-leader").disabled = !view.leader_id;
        $("kill-most").disabled = toKill(view).length === 0;
        $("back-all").disabled = up(view).length === view.nodes.length;
    };

    $("kill-leader").onclick = () => last && last.leader_id && act("kill", last.leader_id);
    $("kill-most").onclick = () => last && toKill(last).forEach((node) => act("kill", node.node_id));
    $("back-all").onclick = () => last && last.nodes.filter((node) => node.state !== "up").forEach((node) => act("back", node.node_id));

    const connect = () => {
        const socket = new WebSocket(`ws://${location.host}/events`);
        socket.onmessage = (event) => draw(JSON.parse(event.data));
        socket.onclose = () => {
            $("health").textContent = "The demo has ended: what is below is how it was.";
            $("health").className = "ill";
            document.querySelectorAll("button").forEach((button) => { button.disabled = true; });
            // Whatever is there next is drawn anew: it may be another demo.
            last = null;
            lastEvent = 0;
            setTimeout(connect, 2000);
        };
    };
    connect();
})();
