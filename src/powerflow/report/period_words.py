"""The texts of the report of a period (`powerflow report`), in English and Japanese."""

from __future__ import annotations

from powerflow.report.poc_words import Language

#: Key → (English, Japanese). Both have the same fields in braces.
_TEXTS: dict[str, tuple[str, str]] = {
    # the first screen
    "title": ("what jobs used in {period}", "{period}の使用実績"),
    "whose_project": ("project {name}", "プロジェクト{name}"),
    "whose_user": ("user {name}", "利用者{name}"),
    "headline": ("{amounts} for {jobs} jobs in {period}", "{period}：ジョブ{jobs}件で{amounts}"),
    "headline_one": ("{amounts} for one job in {period}", "{period}：ジョブ1件で{amounts}"),
    "nothing": ("No GPU was charged in {period}", "{period}に計上されたGPUの使用はありません"),
    "whose": ("Only jobs of {whose}.", "{whose}のジョブのみ。"),
    "span": ("{since} to {until} (UTC{offset}).", "{since}〜{until}（UTC{offset}）。"),
    "so_far": ("The period is not over: these are the numbers so far.", "期間の途中であり、現時点までの値です。"),
    "idle_share": (
        "GPUs on which no job ran drew {share} of the energy.",
        "電力量の{share}は、ジョブのないGPUによるものです。",
    ),
    "key_energy": ("drawn by GPUs", "GPUの消費電力量"),
    "key_cost": ("cost of this energy", "電力料金"),
    "key_co2": ("CO2 of this energy", "CO2排出量"),
    "key_hours": ("GPU-hours held by jobs", "ジョブが占有したGPU時間"),
    "key_jct": (
        "mean completion time of the {completed} jobs that completed",
        "完了したジョブ{completed}件の平均完了時間（投入から終了まで）",
    ),
    "origin": ("Measured.", "実測値です。"),
    "origin_words": (
        "The energy is that of the GPUs, as their counters or their power meters give it. CPUs, memory, network and "
        "cooling are not in it.",
        "電力量はGPUのカウンターまたは電力計による値です。CPU、メモリ、ネットワーク、冷却は含みません。",
    ),
    "origin_emulated": ("Emulated.", "エミュレーション値です。"),
    "origin_words_emulated": (
        "These GPUs are emulated: their energy, and so cost and CO2 too, comes from a model (marked ᵉ). Nothing on "
        "this page was measured on a real GPU.",
        "GPUはエミュレーションです。電力量（ᵉを付した値）と、そこから計算した料金・CO2はモデルによる値で、"
        "実際のGPUで測定したものではありません。",
    ),
    # the tables
    "by_project": ("By project", "プロジェクト別"),
    "by_user": ("By user", "利用者別"),
    "top_jobs": ("Jobs with the most energy", "電力量の多いジョブ"),
    "more_jobs": ("{more} more jobs are in the CSV and in --json.", "ほかの{more}件はCSVと--jsonにあります。"),
    "project": ("project", "プロジェクト"),
    "user": ("user", "利用者"),
    "job": ("job", "ジョブ"),
    "name": ("name", "名前"),
    "state": ("state", "状態"),
    "jobs": ("jobs", "ジョブ数"),
    "completed": ("completed", "完了"),
    "hours": ("GPU-hours", "GPU時間"),
    "energy": ("energy", "電力量"),
    "share": ("share", "割合"),
    "cost": ("cost", "料金"),
    "co2": ("kg CO2", "CO2 (kg)"),
    "mean_jct": ("mean JCT", "平均完了時間"),
    "jct": ("JCT", "完了時間"),
    "none": ("(none)", "（なし）"),
    "idle": ("idle GPUs", "待機中のGPU"),
    "total": ("total", "合計"),
    "unknown": ("unknown", "不明"),
    # savings
    "savings": ("What PowerFlow saved", "PowerFlowによる削減"),
    "simulated": (
        "The days before {moment} were simulated without and with PowerFlow ({days} days with jobs, {jobs} jobs, "
        "learned costs): {energy} energy and {jct} mean completion time. This is a model of these days and not of the "
        "whole period, and no interval is known for it.",
        "{moment}までの日々（ジョブのあった{days}日間、ジョブ{jobs}件）を、学習したコストでPowerFlowなし・ありの"
        "両方でシミュレーションした結果：電力量{energy}、平均完了時間{jct}。対象はこの日々であり期間全体ではなく、"
        "区間は不明です。",
    ),
    "compared": (
        "{jobs} jobs ran as their owners asked, and PowerFlow's decision was only logged. By the predictions made "
        "then, it would have changed their energy by {energy} and their completion times by {jct}. No interval is "
        "known for this.",
        "ジョブ{jobs}件は利用者の指定どおりに実行し、PowerFlowの判断は記録のみ行いました。当時の予測では、"
        "電力量は{energy}、完了時間は{jct}変わる見込みでした。区間は不明です。",
    ),
    "saved_unknown": (
        "Not known: none of the days of this period is in the latest simulation, and no decision was only logged. "
        "The stages replay and shadow (powerflow mode) make such estimates.",
        "不明です。この期間を含むシミュレーションも、記録のみの判断もありません。"
        "ステージreplayまたはshadow（powerflow mode）で推定できます。",
    ),
    "saved_part_unknown": (
        "Not known for a part of the cluster: simulations are of all jobs together, and no decision on these jobs was "
        "only logged.",
        "クラスターの一部については不明です。シミュレーションは全ジョブを対象とし、"
        "これらのジョブには記録のみの判断がありません。",
    ),
    "managed_unknown": (
        "What jobs that PowerFlow managed would have used without it is not known: they ran only once.",
        "PowerFlowが管理したジョブが、管理なしの場合に使用したはずの電力量は不明です（実行は一度だけのため）。",
    ),
    "predicted": (
        "How far to trust predictions: for {predicted} of the {completed} completed jobs the energy was predicted "
        "when they got GPUs, {predicted_kwh} in all; they used {used_kwh} ({change}).",
        "予測の確かさ：完了したジョブ{completed}件のうち{predicted}件は開始時に電力量を予測しており、"
        "予測は合計{predicted_kwh}、実績は{used_kwh}（{change}）でした。",
    ),
    "judged": (
        "Of {judged} jobs with 80 % intervals, {energy} were inside by energy and {time} by completion time; 80 % "
        "would be right.",
        "80 %区間のあるジョブ{judged}件のうち、電力量で{energy}、完了時間で{time}が区間内でした（目標は80 %）。",
    ),
    "no_predictions": (
        "No prediction for a job that completed in this period is on record; they are kept for 90 days after its end.",
        "この期間に完了したジョブの予測は残っていません（保存は終了後90日間）。",
    ),
    # what is not known
    "missing": ("What is not known", "不明なこと"),
    "no_tariff": (
        "No tariff is set, so costs are not known: powerflow signal set tariff …",
        "電力単価が設定されていないため、料金は不明です：powerflow signal set tariff …",
    ),
    "no_carbon": (
        "No carbon signal is set, so CO2 is not known: powerflow signal set carbon …",
        "炭素強度が設定されていないため、CO2は不明です：powerflow signal set carbon …",
    ),
    "unknown_jobs": (
        "Jobs that held GPUs and of which no energy is known (*): {jobs}. They are in no sum of energy, cost or CO2.",
        "ジョブ{jobs}件はGPUを占有しましたが電力量が不明で（*）、電力量・料金・CO2の合計に含みません。",
    ),
    "split_hours": (
        "Energy is kept by hours of UTC. In this time zone the period begins or ends within such an hour; the hour is "
        "counted whole, and so in the neighbouring period, too.",
        "電力量はUTCの1時間単位で保存されます。このタイムゾーンでは期間の境界が1時間の途中にあるため、"
        "その1時間全体を数え、隣の期間にも重複して数えます。",
    ),
    "only_gpus": (
        "The energy of CPUs, memory, network and cooling: only GPUs are metered.",
        "CPU・メモリ・ネットワーク・冷却の電力量（計測対象はGPUのみ）。",
    ),
    # how it was computed
    "how": ("How it was computed", "算出方法"),
    "same": ("The same numbers", "同じ値を得るには"),
    "fact_jobs": ("Each job", "各ジョブ"),
    "fact_jobs_words": (
        "The CSV and --json of this report have one line for each job; they add up to every table here.",
        "このレポートのCSVと--jsonには1ジョブ1行があり、その合計は各表と一致します。",
    ),
    "fact_border": ("Jobs across the border", "期間をまたぐジョブ"),
    "fact_border_words": (
        "Energy and GPU-hours are kept by job and hour, so of a job that ran before or after the period, too, only the "
        "hours inside are counted.",
        "電力量とGPU時間はジョブ・時間ごとに保存されており、期間の前後にも実行されたジョブは期間内の時間だけを"
        "数えます。",
    ),
    "fact_completed": ("Completed, mean JCT", "完了と平均完了時間"),
    "fact_completed_words": (
        "Jobs that completed in the period (not failed or cancelled ones); the completion time is from submission to "
        "end, also where the job was submitted before the period. powerflow history lists these jobs. (In the mean JCT "
        "of powerflow acct there are also jobs that completed after the period.)",
        "期間内に正常に完了したジョブ（失敗・取消を除く）。完了時間は投入から終了までで、"
        "期間前に投入されたジョブも含みます。対象のジョブはpowerflow historyで確認できます"
        "（powerflow acctの平均には、期間後に完了したジョブも含まれます）。",
    ),
    "fact_signals": ("Cost and CO2", "料金とCO2"),
    "fact_signals_words": (
        "The joules of each hour, times the mean of the signal in that hour, by the signals that are set now.",
        "1時間ごとの電力量に、その時間の信号の平均値を掛けています（現在設定されている信号による）。",
    ),
}


def text(key: str, language: Language, **values: object) -> str:
    """Return a text of the report in a language, with the values of its fields."""
    return _TEXTS[key][0 if language is Language.EN else 1].format(**values)


def texts() -> dict[str, tuple[str, str]]:
    """Return all texts: key → (English, Japanese)."""
    return dict(_TEXTS)
