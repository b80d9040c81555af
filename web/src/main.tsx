// Take over the page that the service has drawn, and keep it up to date.

import { effect } from "@preact/signals";
import { render } from "preact";
import { Chart } from "./chart";
import { follow, samples, type Sample } from "./history";
import { GaugePart, Jobs, Map, Notices } from "./parts";
import type { State } from "./model";
import { lostAt, start, state, trouble } from "./stream";

const root = document.getElementById("main")!;
const when = document.getElementById("when")!;
const foot = document.getElementById("foot")!;
let drawn = false;

const clock = (ms: number): string => new Date(ms).toLocaleTimeString(document.documentElement.lang);

const watts = (value: number): string =>
  value < 1000 ? `${value.toFixed(0)} W` : `${(value / 1000).toPrecision(3)} kW`;
const plain = (value: number): string => (value === 0 ? "0" : Number(value.toPrecision(3)).toString());
const power = (one: Sample) => one.power_w;
const cap = (one: Sample) => one.cap_w;
const gpuPrice = (one: Sample) => one.gpu_price;
const joulePrice = (one: Sample) => one.energy_price;

function Figures({ w, known }: { w: Record<string, string>; known: Sample[] }) {
  const same = { samples: known, words: w };
  return (
    <div class="figures">
      <Chart id="power" title={w.chart_power ?? ""} value={power} limit={cap} limitName={w.cap} said={watts} {...same} />
      <Chart id="gpu-price" title={w.chart_gpu ?? ""} value={gpuPrice} said={plain} {...same} />
      <Chart id="joule-price" title={w.chart_joule ?? ""} value={joulePrice} said={plain} {...same} />
    </div>
  );
}

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
      <Figures w={w} known={samples.value} />
      <Jobs now={now} />
    </>
  );
}

effect(() => {
  const now = state.value;
  if (!now) return;
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

follow();
start();
