// The parts of the page. Each draws the same elements as its macro in src/powerflow/dashboard/templates.

import { Component, type ComponentChildren } from "preact";
import type { Gauge, Node, Row, Rows, State } from "./model";
import { same, Texts } from "./texts";

type Words = Record<string, string>;

// Sentences of the scheduler are English in every language.
const Said = ({ text }: { text: string }) => (
  <span lang="en" dir="auto">
    {text}
  </span>
);

export function GaugePart({ one }: { one: Gauge }) {
  const { share, expected } = one;
  const widest = Math.max(1, share ?? 0, expected ?? 0);
  const at = (value: number) => (1000 * value) / widest;
  return (
    <div class={one.over ? "gauge over" : "gauge"}>
      <h2>{one.name}</h2>
      <p>
        <strong>{one.value}</strong> <span>{one.of}</span>
      </p>
      {share !== undefined && (
        <svg viewBox="0 0 1000 14" preserveAspectRatio="none" aria-hidden="true">
          <rect class="all" width={at(1)} height="14" />
          <rect class="used" width={at(share)} height="14" />
          {expected !== undefined && (
            <rect class="expected" x={at(share)} y="5" width={Math.max(at(expected - share), 0)} height="4" />
          )}
          <rect class="limit" x={Math.min(at(1) - 3, 997)} width="3" height="14" />
        </svg>
      )}
      {one.notes.map((note) => (
        <p class="note">{note}</p>
      ))}
    </div>
  );
}

// Lists of a node whose texts change often.
const OFTEN = ["clocks", "watts"] as const;

interface NodeProps {
  name: string;
  one: Node;
  words: Words;
}

export class NodePart extends Component<NodeProps> {
  private readonly texts = new Texts();

  override shouldComponentUpdate(next: Readonly<NodeProps>): boolean {
    const [now, after] = [this.props.one, next.one];
    if (now === after) return next.words !== this.props.words;
    this.texts.set("power", after.power);
    for (const list of OFTEN) after[list].forEach((text, i) => this.texts.set(`${list}${i}`, text));
    const rare = (Object.keys(after) as (keyof Node)[]).filter((key) => key !== "power" && key !== "clocks" && key !== "watts");
    return rare.some((key) => !same(now[key], after[key]));
  }

  override render() {
    const { name, one, words } = this.props;
    const title = (i: number): string => {
      const [state, job] = [one.states[i] ?? "", one.jobs[i] ?? ""];
      const said = [job && `${words.gpu_job} ${job}`, state !== "job" && words[`gpu_${state}`], one.outs[i]];
      const what = said.filter(Boolean).join(", ") || "–";
      return (words.gpu_title ?? "").replace("{index}", String(i)).replace("{node}", name).replace("{what}", what);
    };
    return (
      <section class={`node n-${one.state}`}>
        <h3>
          <span class="sign" aria-hidden="true">
            {one.sign}
          </span>{" "}
          <bdi>{name}</bdi>{" "}
          <small>
            {one.kind} · {one.label} · {this.texts.of("power", one.power)}
          </small>
        </h3>
        {one.note && (
          <p class="note">
            <Said text={one.note} />
          </p>
        )}
        <ul>
          {one.states.map((state, i) => (
            <li key={i} class={`g-${state}${one.colours[i] ? ` c${one.colours[i]}` : ""}`} title={title(i)}>
              {one.jobs[i] ? <a href={`/jobs/${encodeURIComponent(one.jobs[i]!)}`}>{one.labels[i]}</a> : <b>{one.labels[i]}</b>}
              <span>{this.texts.of(`clocks${i}`, one.clocks[i] ?? "")}</span>{" "}
              <span>{this.texts.of(`watts${i}`, one.watts[i] ?? "")}</span>
            </li>
          ))}
        </ul>
      </section>
    );
  }
}

const Id = ({ id, row }: { id: string; row: Row }) => (
  <th scope="row">
    <a href={`/jobs/${encodeURIComponent(id)}`} class={row.colour ? `chip c${row.colour}` : undefined}>
      {id}
    </a>
  </th>
);

const Name = ({ row }: { row: Row }) => (
  <td class="text name" title={row.name}>
    <bdi>{row.name}</bdi>
    <small>
      <bdi>{row.owner}</bdi>
    </small>
  </td>
);

const Status = ({ row }: { row: Row }) => (
  <td class="text">
    <span class={`state s-${row.state}`}>{row.state_said}</span>
  </td>
);

const When = ({ row, text }: { row: Row; text: ComponentChildren }) => (
  <td>
    {row.when_at ? (
      <time dateTime={row.when_at} title={new Date(row.when_at).toLocaleString(document.documentElement.lang)}>
        {text}
      </time>
    ) : (
      text
    )}
  </td>
);

const Why = ({ row }: { row: Row }) => (
  <td class="text why">
    <Said text={row.why} />
  </td>
);

// Texts of a job that change often.
const OF_JOB = ["power", "energy", "progress_said", "step", "when"] as const;

interface RowProps {
  id: string;
  row: Row;
}

abstract class RowPart extends Component<RowProps> {
  private readonly texts = new Texts();

  override shouldComponentUpdate(next: Readonly<RowProps>): boolean {
    const [now, after] = [this.props.row, next.row];
    if (now === after) return false;
    for (const key of OF_JOB) this.texts.set(key, after[key]);
    const often: readonly string[] = OF_JOB;
    const keys = new Set([...Object.keys(now), ...Object.keys(after)]);
    return [...keys].some((key) => !often.includes(key) && now[key as keyof Row] !== after[key as keyof Row]);
  }

  protected text(key: (typeof OF_JOB)[number]) {
    return this.texts.of(key, this.props.row[key]);
  }
}

class Running extends RowPart {
  override render() {
    const { id, row } = this.props;
    return (
      <tr>
        <Id id={id} row={row} />
        <Name row={row} />
        <Status row={row} />
        <td>{row.gpus}</td>
        <td>{row.clock}</td>
        <td>{row.batch}</td>
        <td>{this.text("power")}</td>
        <td>{this.text("energy")}</td>
        <td>
          {this.text("progress_said")}
          {row.progress !== undefined && <progress max={1} value={row.progress} aria-hidden="true" />}
        </td>
        <td>{this.text("step")}</td>
        <When row={row} text={this.text("when")} />
        <Why row={row} />
      </tr>
    );
  }
}

class Waiting extends RowPart {
  override render() {
    const { id, row } = this.props;
    return (
      <tr>
        <Id id={id} row={row} />
        <Name row={row} />
        <Status row={row} />
        <td>{row.gpus}</td>
        <When row={row} text={this.text("when")} />
        <td>{this.text("energy")}</td>
        <Why row={row} />
      </tr>
    );
  }
}

const Table = ({ id, heads, children }: { id: string; heads: ComponentChildren; children: ComponentChildren }) => (
  <div class="scroll" tabIndex={0} role="group" aria-labelledby={id}>
    <table>
      <thead>
        <tr>{heads}</tr>
      </thead>
      <tbody>{children}</tbody>
    </table>
  </div>
);

const head = (w: Words, key: string, kind = "") => (
  <th scope="col" class={kind || undefined}>
    {w[key]}
    {key === "head_name" && <small>{w.head_owner}</small>}
  </th>
);

function JobTable({ id, rows, more, w }: { id: "running" | "waiting"; rows: Rows; more: string; w: Words }) {
  const first = [head(w, "head_id"), head(w, "head_name", "text"), head(w, "head_state", "text")];
  const heads =
    id === "running"
      ? ["head_gpus", "head_clock", "head_batch", "head_power", "head_energy", "head_progress", "head_step", "head_ends"].map((key) => head(w, key))
      : ["head_asked", "head_submitted", "head_energy"].map((key) => head(w, key));
  const last = head(w, id === "running" ? "head_why" : "head_waits", "text");
  const Part = id === "running" ? Running : Waiting;
  return (
    <section class="jobs" aria-labelledby={id}>
      <h2 id={id} tabIndex={id === "running" ? -1 : undefined}>
        {w[id]}
      </h2>
      {rows.order.length ? (
        <>
          <Table id={id} heads={[...first, ...heads, last]}>
            {rows.order.map((job) => (
              <Part key={job} id={job} row={rows.by[job]!} />
            ))}
          </Table>
          {more && <p class="note">{more}</p>}
        </>
      ) : (
        <p>{w[`none_${id}`]}</p>
      )}
    </section>
  );
}

export function Notices({ notices, w }: { notices: string[]; w: Words }) {
  if (!notices.length) return null;
  return (
    <section class="notices" aria-label={w.notices}>
      <ul>
        {notices.map((notice) => (
          <li key={notice}>
            <Said text={notice} />
          </li>
        ))}
      </ul>
    </section>
  );
}

const STATES = ["idle", "asleep", "unreachable", "failed", "out"];
const SIGNS = { up: "●", draining: "◐", drained: "○", asleep: "☾", unreachable: "?", failed: "✕" };

export function Map({ now }: { now: State }) {
  const w = now.words;
  return (
    <section class="map" aria-labelledby="map">
      <h2 id="map">{w.map}</h2>
      {now.order.length ? (
        <>
          <div class="nodes" tabIndex={0} role="group" aria-labelledby="map">
            {now.order.map((name) => (
              <NodePart key={name} name={name} one={now.nodes[name]!} words={w} />
            ))}
          </div>
          <div class="legend" role="group" aria-label={w.legend}>
            {w.tiles_note}{" "}
            {STATES.map((state) => (
              <>
                <span class={`key g-${state}`}>{w[`gpu_${state}`]}</span>{" "}
              </>
            ))}
            {Object.entries(SIGNS).map(([state, sign]) => (
              <>
                <span class="sign">{sign}</span> {w[`node_${state}`]}{" "}
              </>
            ))}
          </div>
        </>
      ) : (
        <p>{w.no_nodes}</p>
      )}
    </section>
  );
}

export const Jobs = ({ now }: { now: State }) => (
  <>
    <JobTable id="running" rows={now.running} more={now.running_more} w={now.words} />
    <JobTable id="waiting" rows={now.waiting} more={now.waiting_more} w={now.words} />
  </>
);
