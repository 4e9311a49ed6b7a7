// The flip-book. All that it shows is one still: live, or of a time that the viewer went back to.
'use strict';
(() => {
	const $ = id => document.getElementById(id);
	const root = $('koshien'), channel = root.dataset.channel;
	if (!channel) { setTimeout(() => location.reload(), 5000); return; }
	const img = $('still'), words = root.dataset;
	const now = () => performance.timeOrigin + performance.now();
	const sleep = ms => new Promise(r => setTimeout(r, ms));

	// Servers. A weight says how many viewers a server is to have; one that failed is left alone until `bad`.
	let servers = [], server;
	function list(more) {
		const all = more.length ? more : [{url: '', weight: 1}];
		servers = all.map(s => ({...s, bad: (servers.find(x => x.url === s.url) || {bad: 0}).bad}));
		server = servers.find(s => server && s.url === server.url) || server;
	}
	function choose() {
		const good = servers.filter(s => s !== server && s.bad < now());
		let dice = Math.random() * good.reduce((sum, s) => sum + s.weight, 0);
		return good.find(s => (dice -= s.weight) < 0);
	}
	// move leaves the server for some seconds; without another one it stays, and tells so.
	function move(seconds) {
		server.bad = now() + 1000 * seconds;
		const next = choose();
		if (next) { server = next; slow = 0; tell('moved'); }
		return !!next;
	}

	// The sizes that there are, 0 the largest, and the one that the line carries.
	let sizes = words.sizes.split(' ').map(Number), size = sizes[sizes.length - 1], fixed = false;
	let slow = 0, quick = 0, interval = 1000;
	const smaller = () => sizes[sizes.indexOf(size) + 1], larger = () => sizes[sizes.indexOf(size) - 1];
	// adapt looks at how long a still took to load, beside the time until the next one.
	function adapt(ms) {
		slow = ms > 0.8 * interval ? slow + 1 : 0;
		quick = ms < 0.2 * interval ? quick + 1 : 0;
		if (slow >= 3) {
			slow = 0;
			if (!fixed && smaller() !== undefined) size = smaller();
			else if (ms > 1.5 * interval) move(60);
		} else if (quick >= 8) {
			quick = 0;
			if (!fixed && larger() !== undefined && img.clientWidth * devicePixelRatio > img.naturalWidth) size = larger();
		}
		show.dataset.size = size;
	}

	const show = document.documentElement;
	let number = 0, taken = 0, live = true, paused = false, turn = 0, delays = [];
	function tell(what, more) {
		const s = $('state');
		s.textContent = words[what] + (more || '');
		s.className = what === 'lost' || what === 'full' ? 'off' : '';
		show.dataset.state = what;
		show.dataset.server = server.url;
	}

	// load fetches a still. It throws a Response that is none, or what fetch throws.
	async function load(path, ms) {
		const stop = new AbortController(), timer = setTimeout(() => stop.abort(), ms);
		try {
			const res = await fetch(`${server.url}/stills/${channel}/${path}`, {signal: stop.signal, cache: path.includes('?after') ? 'no-store' : 'default'});
			if (res.headers.get('Sentry') === 'drain') move(600);
			if (res.status !== 200) throw res;
			const begun = now(), blob = await res.blob(), f = (res.headers.get('Still') || '').split(' ');
			const plain = f.length < 2, at = Date.parse(res.headers.get('Last-Modified')) || now();
			return {blob, plain, number: plain ? at : +f[0], taken: plain ? at : +f[1], ms: now() - begun};
		} finally { clearTimeout(timer); }
	}

	// put shows a still when it is decoded, and not before: there is no moment without a picture.
	async function put(still, mine) {
		const url = URL.createObjectURL(still.blob), next = new Image();
		next.src = url;
		try { await next.decode(); } catch { URL.revokeObjectURL(url); return; }
		if (mine !== turn) { URL.revokeObjectURL(url); return; }
		const old = img.src;
		img.src = url;
		if (old.startsWith('blob:')) setTimeout(() => URL.revokeObjectURL(old), 1000);
		taken = still.taken;
		show.dataset.number = still.number;
		const clock = new Date(taken).toLocaleTimeString(document.documentElement.lang);
		if (paused) tell('paused', ' ' + clock); else tell(live ? 'live' : 'back', ' ' + clock);
		if (live) $('when').value = 1000;
	}

	// even tells how long to keep a still back, so that stills follow each other as they were taken: the line's longest
	// delay of late, at most 3 s more than its shortest.
	function even(still) {
		delays = [...delays, now() - still.taken].slice(-10);
		const most = Math.min(Math.max(...delays), Math.min(...delays) + 3000);
		return Math.max(0, still.taken + most - now());
	}

	// watch is the live loop. Each turn of the viewer's wishes has its own, and ends the one before.
	async function watch() {
		const mine = ++turn;
		let plain = false, failed = 0;
		while (mine === turn && live && !paused) {
			if (document.hidden) { await new Promise(r => document.addEventListener('visibilitychange', r, {once: true})); continue; }
			try {
				const still = await load(`${size}/newest.jpg` + (plain ? '' : `?after=${number}`), 40000);
				if (mine !== turn) return;
				failed = 0;
				plain = still.plain;
				if (plain && still.number <= number) { await sleep(interval / 2); continue; }
				if (number && still.taken > taken) interval = Math.min(5000, Math.max(100, 0.8 * interval + 0.2 * (still.taken - last)));
				number = still.number;
				last = still.taken;
				adapt(still.ms);
				const wait = even(still);
				if (wait > 20) setTimeout(() => put(still, mine), wait); else await put(still, mine);
				if (plain) await sleep(interval / 2);
			} catch (e) {
				if (mine !== turn) return;
				if (e.status === 204) continue;
				failed++;
				const rest = e.status === 503 ? +e.headers.get('Retry-After') || 10 : 5 * failed;
				if (move(Math.max(10, rest))) continue;
				tell(e.status === 503 ? 'full' : 'lost');
				await sleep(1000 * Math.min(30, e.status === 503 ? rest : failed));
				server.bad = 0;
			}
		}
	}
	let last = 0;

	// back goes to a time, and plays on from there until it is live again.
	async function back(t) {
		const mine = ++turn;
		live = false;
		for (let first = true; mine === turn; first = false) {
			try {
				const still = await load(`${size}/at.jpg?t=${Math.max(0, Math.round(t))}`, 10000);
				if (mine !== turn) return;
				if (!first && still.number === +show.dataset.number && t > still.taken + 3 * interval) { goLive(); return; }
				if (first || still.number !== +show.dataset.number) await put(still, mine);
				slide();
			} catch (e) {
				if (mine !== turn) return;
				if (!move(10)) { tell('lost'); await sleep(2000); }
			}
			if (paused) return;
			await sleep(interval);
			t = Math.max(t, taken) + interval;
		}
	}
	function goLive() { live = true; paused = false; number = 0; buttons(); watch(); }
	function pause() {
		paused = !paused;
		buttons();
		if (paused) { turn++; tell('paused'); } else if (live) goLive(); else back(taken + interval);
	}
	const jump = s => back((taken || now()) + 1000 * s);
	function buttons() {
		$('play').textContent = paused ? '▶' : '❚❚';
		$('play').setAttribute('aria-pressed', paused);
		$('live').setAttribute('aria-pressed', live && !paused);
	}

	// What there is: sizes, times, servers, thumbnails, captions. A server that is a plain directory has none of it.
	let since = 0, until = 0;
	async function look() {
		try {
			const x = await (await fetch(`${server.url}/stills/${channel}/index.json`)).json();
			sizes = x.sizes.map(s => s.size);
			if (!sizes.includes(size)) size = sizes[sizes.length - 1];
			since = x.sizes[0].since;
			until = x.sizes[0].taken;
			if (x.servers) list(x.servers);
			const select = $('size');
			while (select.options.length > 1) select.remove(1);
			for (const s of x.sizes) select.add(new Option(`${s.width}×${s.height}`, s.size));
			select.value = fixed ? size : 'auto';
			$('past').hidden = until - since < 5000;
			slide();
			if (!$('past').hidden) await thumbs();
		} catch {}
	}
	function slide() { if (!live && until > since) $('when').value = 1000 * (taken - since) / (until - since); }
	async function thumbs() {
		const res = await fetch(`${server.url}/stills/${channel}/strip.jpg`);
		if (!res.ok) return;
		const list = res.headers.get('Stills').split(' '), url = URL.createObjectURL(await res.blob()), strip = $('strip');
		if (strip.dataset.url) URL.revokeObjectURL(strip.dataset.url);
		strip.dataset.url = url;
		strip.replaceChildren(...list.map((n, i) => {
			const s = document.createElement('span');
			s.style.background = `url(${url}) ${-96 * i}px 0`;
			s.onclick = () => back(since + (until - since) * i / (list.length - 1 || 1));
			return s;
		}));
	}
	let alt = img.alt;
	async function caption() {
		try {
			const res = await fetch(`${server.url}/stills/${channel}/caption.json` + (live ? '' : `?t=${Math.round(taken)}`));
			if (!res.ok) return;
			const c = await res.json();
			if ($('caption').textContent !== c.text) $('caption').textContent = c.text;
			img.alt = c.alt || c.text || alt;
		} catch {}
	}

	const wide = () => document.fullscreenElement ? document.exitFullscreen() : $('stage').requestFullscreen();
	const resize = n => { if (n !== undefined) { fixed = true; size = n; $('size').value = n; number = 0; if (live && !paused) watch(); } };
	const keys = {k: pause, ' ': pause, ArrowLeft: () => jump(-10), ArrowRight: () => jump(10), l: goLive, End: goLive, f: wide,
		Home: () => back(since), '+': () => resize(larger()), '-': () => resize(smaller())};
	document.addEventListener('keydown', e => {
		const inside = e.target.closest('input, select, button, a, summary');
		if (e.ctrlKey || e.altKey || e.metaKey || !keys[e.key] || inside && !/^[klf]$/.test(e.key)) return;
		e.preventDefault();
		keys[e.key]();
	});
	for (const [id, f] of Object.entries({play: pause, live: goLive, wide, earlier: () => jump(-10), later: () => jump(10)})) $(id).onclick = f;
	img.onclick = pause;
	$('when').onchange = e => +e.target.value >= 1000 ? goLive() : back(since + (until - since) * e.target.value / 1000);
	$('size').onchange = e => { fixed = e.target.value !== 'auto'; if (fixed) resize(+e.target.value); };

	list(JSON.parse(words.servers));
	server = servers.find(s => !s.url) || choose() || servers[0];
	$('tools').hidden = false;
	buttons();
	look();
	caption();
	setInterval(look, 30000);
	setInterval(caption, 5000);
	watch();
})();
