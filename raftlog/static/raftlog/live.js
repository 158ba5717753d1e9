/* Follows the cluster: puts the HTML that the server sends in its place, and draws the charts. No other file needed. */
"use strict";
(() => {
    const status = document.getElementById("rl-live");
    const fragment = document.getElementById("rl-fragment");
    if (!status || !fragment || !("WebSocket" in window)) return;
    const KEPT = 300, RETRY = 2000;
    let samples = [];

    const say = (text, on) => {
        if (status.textContent !== text) status.textContent = text;
        status.classList.toggle("rl-on", on);
        status.classList.toggle("rl-off", !on);
    };

    const replace = (html) => {
        // A form that is being filled in, or a button that has the focus, is left alone until the focus moves on.
        const active = document.activeElement;
        const focused = fragment.contains(active) ? active.getAttribute("aria-label") : null;
        const token = document.querySelector("input[name=csrfmiddlewaretoken]");
        fragment.innerHTML = html;
        fragment.querySelectorAll("input[name=csrfmiddlewaretoken]").forEach((input) => {
            if (token) input.value = token.value;
        });
        if (focused) {
            const again = [...fragment.querySelectorAll("[aria-label]")].find((e) => e.getAttribute("aria-label") === focused);
            if (again) again.focus();
        }
    };

    // One for each stretch without a gap: where nothing was measured, nothing is drawn.
    const lines = (values, top, className) => {
        const stretches = [[]];
        values.forEach((value, number) => {
            const points = stretches[stretches.length - 1];
            if (value === null || value === undefined) {
                if (points.length) stretches.push([]);
                return;
            }
            const x = 300 * (KEPT - values.length + number) / (KEPT - 1);
            points.push(x.toFixed(1) + "," + (78 - 74 * value / top).toFixed(1));
        });
        return stretches.filter((points) => points.length).map((points) => {
            const polyline = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
            if (points.length === 1) points.push(points[0]); // a dot
            polyline.setAttribute("points", points.join(" "));
            if (className) polyline.setAttribute("class", className);
            return polyline;
        });
    };

    const draw = (name, series, text) => {
        const svg = document.getElementById("rl-chart-" + name);
        if (!svg) return;
        const top = Math.max(1e-9, ...series.flat().filter((value) => value !== null && value !== undefined));
        svg.replaceChildren();
        samples.forEach((sample, number) => {
            // An election: the term is another one than a second ago.
            if (number && sample.term !== samples[number - 1].term) {
                const mark = document.createElementNS("http://www.w3.org/2000/svg", "line");
                const x = 300 * (KEPT - samples.length + number) / (KEPT - 1);
                for (const [key, value] of [["x1", x], ["x2", x], ["y1", 0], ["y2", 80]]) mark.setAttribute(key, value);
                svg.append(mark);
            }
        });
        series.forEach((values, number) => svg.append(...lines(values, top, number ? "rl-second" : "")));
        document.getElementById("rl-now-" + name).textContent = text;
    };

    const drawAll = () => {
        if (!samples.length) return;
        const last = samples[samples.length - 1];
        const ms = (value) => value === null || value === undefined ? null : value * 1000;
        const short = (value) => value === null ? "–" : value.toFixed(value < 10 ? 1 : 0);
        draw("writes", [samples.map((s) => s.per_second)], short(last.per_second));
        draw("latency", [samples.map((s) => ms(s.p50)), samples.map((s) => ms(s.p99))], short(ms(last.p50)) + " / " + short(ms(last.p99)));
        draw("lag", [samples.map((s) => s.lag ?? null)], last.lag === undefined ? "–" : String(last.lag));
    };

    const lag = () => Math.max(0, ...[...fragment.querySelectorAll("[data-behind]")].map((cell) => parseInt(cell.textContent.replace(/[^0-9]/g, "") || "0", 10)));

    const connect = () => {
        const address = (location.protocol === "https:" ? "wss://" : "ws://") + location.host + status.dataset.path;
        const socket = new WebSocket(address);
        socket.onopen = () => socket.send(JSON.stringify({page: status.dataset.page}));
        socket.onmessage = (event) => {
            const told = JSON.parse(event.data);
            if (told.off) say("Live updates are off: " + told.off, false);
            if (told.samples && !samples.length) samples = told.samples.slice(-KEPT);
            if (told.html) {
                replace(told.html);
                say("Live.", true);
            }
            if (told.sample && (!samples.length || told.sample.at > samples[samples.length - 1].at)) {
                told.sample.lag = lag();
                samples = samples.concat([told.sample]).slice(-KEPT);
            }
            drawAll();
        };
        socket.onclose = () => {
            say("Live updates are off: the connection has ended; it is tried again.", false);
            setTimeout(connect, RETRY);
        };
    };
    connect();
})();
