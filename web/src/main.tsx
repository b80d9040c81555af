// Take over the page that the service has drawn, and keep it up to date.

import { effect } from "@preact/signals";
import { render } from "preact";
import { note, PowerChart } from "./chart";
import { GaugePart, Jobs, Map, Notices } from "./parts";
import type { State } from "./model";
import { lostAt, start, state, trouble } from "./stream";

const root = document.getElementById("main")!;
const when = document.getElementById("when")!;
const foot = document.getElementById("foot")!;
let drawn = false;

const clock = (ms: number): string => new Date(ms).toLocaleTimeString(document.documentElement.lang);

function page(now: State) {
  const w = now.words;
  return (
    <>
      <h1 class="hidden">{w.overview}</h1>
      <Notices notices={now.notices} w={w} />
      <div class="gauges">
        {now.gauges.map((one) => (
          <GaugePart key={one.name} one={one} />
        ))}
        <dl class="keys">
          {now.keys.map((key) => (
            <div key={key.meaning}>
              <dt>{key.meaning}</dt>
              <dd>{key.value}</dd>
            </div>
          ))}
        </dl>
      </div>
      <p class="policy">{now.policy}</p>
      <Map now={now} />
      <PowerChart w={w} time_s={now.time_s} />
      <Jobs now={now} />
    </>
  );
}

effect(() => {
  const now = state.value;
  if (!now) return;
  note({ time_s: now.time_s, power_w: now.power_w, cap_w: now.cap_w ?? null });
  if (!drawn) root.replaceChildren();
  render(page(now), root);
  if (!drawn) when.replaceChildren();
  if (!drawn) foot.querySelector(".moment")?.remove();
  drawn = true;
});

effect(() => {
  const now = state.value;
  if (!now) return;
  const w = now.words;
  const lost = lostAt.value !== null || trouble.value !== "";
  document.body.classList.toggle("stale", lost);
  const text = trouble.value
    ? `${w.trouble}: ${trouble.value}`
    : lostAt.value !== null
      ? (w.lost ?? "").replace("{time}", clock(lostAt.value))
      : `${w.live} · ${clock(now.time_s * 1000)}`;
  render(<span class={lost ? "lost" : "on"}>{text}</span>, when);
});

// who listens hears of a lost and a regained connection, not of each refresh
effect(() => {
  const now = state.value;
  const status = document.getElementById("status");
  if (now && status) status.textContent = (lostAt.value === null ? now.words.live : now.words.lost_now) ?? "";
});

start();
