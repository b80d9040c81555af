// Power of the cluster over time, since this page was opened. The table of the same numbers is below the figure.

import { Component } from "preact";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

const KEPT = 1800; // samples: an hour at one in two seconds
const LINES = 12; // of the table
const LEAST_S = 300; // that the figure spans

export interface Sample {
  time_s: number;
  power_w: number;
  cap_w: number | null;
}

const samples: Sample[] = [];

export function note(sample: Sample): void {
  if (samples.at(-1)?.time_s === sample.time_s) return;
  samples.push(sample);
  if (samples.length > KEPT) samples.shift();
}

const watts = (value: number | null): string =>
  value === null ? "–" : value < 1000 ? `${value.toFixed(0)} W` : `${(value / 1000).toPrecision(3)} kW`;

function span(): [number, number] {
  const last = samples.at(-1)?.time_s ?? 0;
  return [Math.min(samples[0]?.time_s ?? last, last - LEAST_S), last];
}

const time = (at_s: number): string => new Date(at_s * 1000).toLocaleTimeString(document.documentElement.lang);

export class PowerChart extends Component<{ w: Record<string, string>; time_s: number }> {
  private box: HTMLDivElement | null = null;
  private plot: uPlot | null = null;
  private readonly resized = new ResizeObserver(() => this.fit());
  private readonly dark = matchMedia("(prefers-color-scheme: dark)");

  override componentDidMount(): void {
    if (this.box) this.resized.observe(this.box);
    this.dark.addEventListener("change", this.anew);
    this.anew();
  }

  override componentWillUnmount(): void {
    this.resized.disconnect();
    this.dark.removeEventListener("change", this.anew);
    this.plot?.destroy();
  }

  override componentDidUpdate(): void {
    this.plot?.setData(this.data());
  }

  private fit(): void {
    if (this.box && this.plot) this.plot.setSize({ width: this.box.clientWidth, height: this.plot.height });
  }

  private readonly anew = (): void => {
    if (!this.box) return;
    this.plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const ink = (name: string) => style.getPropertyValue(name).trim();
    const axis = { stroke: ink("--ink-soft"), grid: { stroke: ink("--rule"), width: 1 }, ticks: { show: false } };
    this.plot = new uPlot(
      {
        width: this.box.clientWidth,
        height: 150,
        legend: { show: false },
        cursor: { show: false },
        scales: { x: { range: span }, y: { range: (_, __, most) => [0, Math.max(most, 1) * 1.08] } },
        axes: [{ ...axis, space: 110, values: (_, values) => values.map(time) }, { ...axis, size: 64, values: (_, values) => values.map(watts) }],
        series: [
          {},
          { stroke: ink("--subject"), fill: ink("--subject-wash"), width: 2, points: { show: false } },
          { stroke: ink("--ink"), width: 1.5, dash: [6, 4], points: { show: false } },
        ],
      },
      this.data(),
      this.box,
    );
  };

  private data(): uPlot.AlignedData {
    return [samples.map((one) => one.time_s), samples.map((one) => one.power_w), samples.map((one) => one.cap_w)];
  }

  override render() {
    const { w } = this.props;
    const every = Math.max(1, Math.ceil(samples.length / LINES));
    const shown = samples.filter((_, i) => (samples.length - 1 - i) % every === 0).reverse();
    return (
      <section aria-labelledby="over-time">
        <h2 id="over-time">{w.chart}</h2>
        <div class="chart" role="img" aria-label={w.chart} ref={(box) => void (this.box = box)} />
        <details>
          <summary>{w.chart_table}</summary>
          <table>
            <thead>
              <tr>
                <th scope="col">{w.head_when}</th>
                <th scope="col">{w.power}</th>
                <th scope="col">{w.cap}</th>
              </tr>
            </thead>
            <tbody>
              {shown.map((one) => (
                <tr key={one.time_s}>
                  <th scope="row">{time(one.time_s)}</th>
                  <td>{watts(one.power_w)}</td>
                  <td>{watts(one.cap_w)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </details>
      </section>
    );
  }
}
