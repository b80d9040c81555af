// The state of the page, as `powerflow.dashboard.wire` sends it. What is not known is left out.

export interface Gauge {
  name: string;
  value: string;
  of: string;
  notes: string[];
  share?: number;
  expected?: number;
  over: boolean;
}

export interface Node {
  kind: string;
  state: string;
  sign: string;
  label: string;
  power: string;
  note: string;
  states: string[];
  jobs: string[];
  colours: number[];
  labels: string[];
  clocks: string[];
  watts: string[];
  outs: string[];
}

export interface Row {
  name: string;
  owner: string;
  state: string;
  state_said: string;
  colour: number;
  gpus: string;
  clock: string;
  batch: string;
  power: string;
  energy: string;
  progress?: number;
  progress_said: string;
  step: string;
  when: string;
  when_at: string;
  why: string;
}

export interface Rows {
  order: string[];
  by: Record<string, Row>;
}

export interface State {
  time_s: number;
  at: string;
  emulated: boolean;
  notices: string[];
  gauges: Gauge[];
  keys: { value: string; meaning: string }[];
  policy: string;
  nodes: Record<string, Node>;
  order: string[];
  running: Rows;
  waiting: Rows;
  running_more: string;
  waiting_more: string;
  saved: string;
  words: Record<string, string>;
  script: string;
}
