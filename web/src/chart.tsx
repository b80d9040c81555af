// A figure of one series over the last hours, and below it a table of the same numbers.

import { Component } from "preact";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { Sample } from "./history";

const HEIGHT = 150; // pixels
const LEAST_S = 300; // that a figure spans
const LINES = 12; // of a table

export interface Shown {
  id: string;
  title: string;
  samples: Sample[];
  // the series, and the line that limits it, if there is one
  value: (sample: Sample) => number;
  limit?: (sample: Sample) => number | null;
  limitName?: string;
  said: (value: number) => string;
  words: Record<string, string>;
}

const time = (at_s: number, seconds = false): string =>
  new Date(at_s * 1000).toLocaleTimeString(document.documentElement.lang, {
    hour: "2-digit",
    minute: "2-digit",
    ...(seconds ? { second: "2-digit" } : {}),
  });

export class Chart extends Component<Shown> {
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

  override shouldComponentUpdate(next: Readonly<Shown>): boolean {
    return next.samples !== this.props.samples || next.title !== this.props.title;
  }

  override componentDidUpdate(): void {
    this.plot?.setData(this.data());
  }

  private fit(): void {
    if (this.box && this.plot) this.plot.setSize({ width: this.box.clientWidth, height: HEIGHT });
  }

  // The colours are those of the theme that holds now.
  private readonly anew = (): void => {
    if (!this.box) return;
    this.plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const ink = (name: string) => style.getPropertyValue(name).trim();
    const axis = { stroke: ink("--ink-soft"), grid: { stroke: ink("--rule"), width: 1 }, ticks: { show: false } };
    this.plot = new uPlot(
      {
        width: this.box.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { show: false },
        scales: {
          x: { range: () => this.span() },
          y: { range: (_, __, most) => [0, (most || 1) * 1.08] },
        },
        axes: [
          { ...axis, space: 90, values: (_, at) => at.map((one) => time(one)) },
          { ...axis, size: 72, values: (_, at) => at.map(this.props.said) },
        ],
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

  private span(): [number, number] {
    const { samples } = this.props;
    const last = samples.at(-1)?.time_s ?? Date.now() / 1000;
    return [Math.min(samples[0]?.time_s ?? last, last - LEAST_S), last];
  }

  private data(): uPlot.AlignedData {
    const { samples, value, limit } = this.props;
    return [samples.map((one) => one.time_s), samples.map(value), samples.map((one) => limit?.(one) ?? null)];
  }

  override render() {
    const { id, title, samples, value, limit, limitName, said, words } = this.props;
    const every = Math.max(1, Math.ceil(samples.length / LINES));
    const shown = samples.filter((_, i) => (samples.length - 1 - i) % every === 0).reverse();
    const limited = (one: Sample) => limit?.(one) ?? null;
    return (
      <section class="figure" aria-labelledby={id}>
        <h2 id={id}>{title}</h2>
        <div class="chart" role="img" aria-label={title} ref={(box) => void (this.box = box)} />
        <details>
          <summary>{words.chart_table}</summary>
          <table>
            <thead>
              <tr>
                <th scope="col">{words.head_when}</th>
                <th scope="col">{title}</th>
                {limit && <th scope="col">{limitName}</th>}
              </tr>
            </thead>
            <tbody>
              {shown.map((one) => (
                <tr key={one.time_s}>
                  <th scope="row">{time(one.time_s, true)}</th>
                  <td>{said(value(one))}</td>
                  {limit && <td>{limited(one) === null ? "–" : said(limited(one)!)}</td>}
                </tr>
              ))}
            </tbody>
          </table>
        </details>
      </section>
    );
  }
}
