"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const results = JSON.parse(document.getElementById("results").textContent);

  // One clock for all clips: the first visible video leads, the others are set right when they drift.
  function player(root) {
    const videos = all("video", root);
    const moving = all("[data-role]", root);
    const hasDifference = moving.some((item) => item.dataset.role === "difference");
    const find = (name) => root.querySelector(`[data-${name}]`);
    const [play, scrub, frame, speed, difference, icon] =
      ["play", "scrub", "frame", "speed", "difference", "icon"].map(find);
    const legend = find("difference-legend");
    const frames = Math.max(1, ((results.settings || {}).video || [32])[0] || 1);
    const tolerance = 0.05; // s; half a frame at ten frames a second
    let playing = false;

    const active = () => videos.filter((v) => !v.hidden && !v.error && v.readyState > 0);
    const length = (video) => (Number.isFinite(video.duration) && video.duration > 0 ? video.duration : 1);
    const frameOf = (video) => Math.min(frames - 1, Math.floor((video.currentTime / length(video)) * frames + 1e-3));

    function show(index) {
      scrub.value = index;
      frame.textContent = `${index + 1} / ${frames}`;
      scrub.setAttribute("aria-valuetext", `frame ${index + 1} of ${frames}`);
    }
    function seek(index) {
      for (const video of videos) video.currentTime = ((index + 0.5) / frames) * length(video);
      show(index);
    }
    function setPlaying(value) {
      playing = value;
      icon.setAttribute("d", playing ? "M4 3h4v14H4zM12 3h4v14h-4z" : "M5 3l12 7-12 7z");
      play.setAttribute("aria-label", playing ? "Pause" : "Play");
      for (const video of active()) {
        if (!playing) video.pause();
        else video.play().catch(() => {});
      }
      if (playing) requestAnimationFrame(tick);
      else if (active().length) seek(frameOf(active()[0]));
    }
    function tick() {
      if (!playing) return;
      const [leader, ...rest] = active();
      if (leader) {
        if (leader.ended) {
          for (const video of active()) {
            video.currentTime = 0;
            video.play().catch(() => {});
          }
        } else {
          // Clips that were not loaded yet when play was pressed start here.
          if (leader.paused) leader.play().catch(() => {});
          for (const video of rest) {
            if (!video.seeking && Math.abs(video.currentTime - leader.currentTime) > tolerance) {
              video.currentTime = leader.currentTime;
            }
            if (video.paused && !video.ended) video.play().catch(() => {});
          }
        }
        show(frameOf(leader));
      }
      requestAnimationFrame(tick);
    }
    function setDifference(value) {
      difference.setAttribute("aria-pressed", String(value));
      if (legend) legend.hidden = !value;
      const now = active().length ? frameOf(active()[0]) : 0;
      for (const screen of all(".screen", root)) {
        const change = screen.querySelector("[data-role=difference]");
        const clip = screen.querySelector("[data-role=clip]");
        if (!change || !clip) continue;
        change.hidden = !value;
        clip.hidden = value;
        const [off, on] = value ? [clip, change] : [change, clip];
        if (off.pause) off.pause();
        if (on.tagName === "VIDEO") on.currentTime = ((now + 0.5) / frames) * length(on);
      }
      if (playing) setPlaying(true);
    }

    for (const video of videos) video.controls = false;
    if (!videos.length) {
      // Animated pictures cannot be stopped or scrubbed; only the difference can be switched.
      for (const item of [play, scrub, frame, speed.parentElement]) item.hidden = true;
    }
    find("controls").hidden = !(videos.length || hasDifference);
    difference.hidden = !hasDifference;
    scrub.max = frames - 1;
    show(0);
    play.addEventListener("click", () => setPlaying(!playing));
    scrub.addEventListener("input", () => {
      const index = Number(scrub.value);
      if (playing) setPlaying(false);
      seek(index);
    });
    speed.addEventListener("change", () => {
      for (const video of videos) video.playbackRate = Number(speed.value);
    });
    difference.addEventListener("click", () => setDifference(difference.getAttribute("aria-pressed") !== "true"));
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (videos.length && !calm) setPlaying(true);
    else if (videos.length) videos[0].addEventListener("loadedmetadata", () => seek(0), { once: true });
  }

  // Buttons that show one of several charts.
  function choice(root) {
    const buttons = all("[data-show]", root);
    function show(name) {
      for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.show === name));
      for (const chart of all("[data-chart]", root)) chart.hidden = chart.dataset.chart !== name;
    }
    for (const button of buttons) button.addEventListener("click", () => show(button.dataset.show));
    if (buttons.length) show(buttons[0].dataset.show);
  }

  // Tabs with arrow keys, Home and End; without the script all panels are open.
  function tabs(root) {
    const buttons = all("[role=tab]", root);
    const panels = buttons.map((button) => document.getElementById(button.getAttribute("aria-controls")));
    function select(index, focus) {
      buttons.forEach((button, i) => {
        button.setAttribute("aria-selected", String(i === index));
        button.tabIndex = i === index ? 0 : -1;
        panels[i].hidden = i !== index;
      });
      if (focus) buttons[index].focus();
    }
    buttons.forEach((button, i) => {
      button.addEventListener("click", () => select(i, false));
      button.addEventListener("keydown", (event) => {
        const last = buttons.length - 1;
        const to = { ArrowRight: i === last ? 0 : i + 1, ArrowLeft: i === 0 ? last : i - 1, Home: 0, End: last }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        select(to, true);
      });
    });
    // The second tab is the first sparse method: dense has nothing to show but 100 %.
    select(Math.min(1, buttons.length - 1), false);
  }

  // The same head is marked in both heat maps of a panel.
  function heats(root) {
    const mark = (cell, on) => {
      if (!cell) return;
      for (const other of all(`[data-cell="${cell.dataset.cell}"]`, root)) other.classList.toggle("same", on);
    };
    root.addEventListener("pointerover", (event) => mark(event.target.closest("[data-cell]"), true));
    root.addEventListener("pointerout", (event) => mark(event.target.closest("[data-cell]"), false));
  }

  all("[data-player]").forEach(player);
  all("[data-choice]").forEach(choice);
  all("[data-tabs]").forEach(tabs);
  all(".heats").forEach(heats);
})();
