"""The texts of the page of `powerflow poc`, in English and Japanese.

The command line reads `Language` at its start, so this module imports little.
"""

from __future__ import annotations

from enum import StrEnum


class Language(StrEnum):
    """Languages of the page."""

    EN = "en"
    JA = "ja"


class MeasuredBy(StrEnum):
    """Where measured joules come from, and who says which job held a GPU."""

    WATCH = "watch"
    LABELS = "labels"
    WHOLE_NODES = "whole nodes"


#: Key → (English, Japanese). Both have the same fields in braces.
_TEXTS: dict[str, tuple[str, str]] = {
    # the first screen
    "title": ("{jobs} jobs in {span} on {cluster}", "{cluster}、{span}間のジョブ{jobs}件"),
    "saves": (
        "{low} to {high} kWh less in {span}, with jobs done as early as today",
        "ジョブの完了時間を変えずに、{span}間で{low}〜{high} kWhを削減できる見込みです",
    ),
    "saves_least": (
        "At least {low} kWh less in {span}, with jobs done no later than today",
        "ジョブの完了を遅らせずに、{span}間で少なくとも{low} kWhを削減できる見込みです",
    ),
    "no_saving": (
        "No saving of energy is certain with jobs done as early as today",
        "完了時間を変えない条件では、確実といえる省エネ効果は確認できませんでした",
    ),
    "refused": ("The data do not carry an answer yet", "現在のデータでは、まだ効果を示せません"),
    "unvalidated": ("UNVALIDATED: {words}", "【未検証】{words}"),
    "saves_elastic": (
        "If jobs may change their number of GPUs: {low} to {high} kWh less in {span}, with jobs done as early as today",
        "ジョブのGPU数の変更を認めれば、完了時間を変えずに{span}間で{low}〜{high} kWhを削減できる見込みです",
    ),
    "saves_elastic_least": (
        "If jobs may change their number of GPUs: at least {low} kWh less in {span}, with jobs done no later than "
        "today",
        "ジョブのGPU数の変更を認めれば、完了を遅らせずに{span}間で少なくとも{low} kWhを削減できる見込みです",
    ),
    "elastic": (
        "If jobs may also change their number of GPUs, it would be {kwh} kWh.",
        "さらにジョブのGPU数の変更も認める場合は、{kwh} kWhの削減となります。",
    ),
    "rigid_not": (
        "As long as jobs keep their number of GPUs, no saving is certain.",
        "ジョブのGPU数を変えない場合は、確実といえる省エネ効果は確認できませんでした。",
    ),
    "of_site": (
        "The cluster used about {kwh} kWh in this time (GPUs, and the idle draw of nodes).",
        "同期間のクラスター全体の消費電力量は約{kwh} kWhです（GPUと、ノードの待機電力）。",
    ),
    "key_energy": (
        "less at today's completion times ({range}), {share}",
        "完了時間が現状と同じ場合の削減量（{range}）、{share}",
    ),
    "key_money": ("less at today's completion times ({range})", "完了時間が現状と同じ場合の削減額（{range}）"),
    "key_co2": ("CO2 less at today's completion times ({range})", "完了時間が現状と同じ場合のCO2削減量（{range}）"),
    "key_time": (
        "earlier end of a job on average, at today's energy ({range})",
        "電力量が現状と同じ場合の、ジョブ1件あたりの平均短縮時間（{range}）",
    ),
    "key_measured": ("of the log's GPU-hours have measured joules", "電力量を実測できたGPU時間の割合"),
    "range": ("{low} to {high}", "{low}〜{high}"),
    "at_least": ("at least {value}", "{value}以上"),
    "unknown": ("unknown", "不明"),
    "days": ("{value} days", "{value}日"),
    "hours": ("{value} h", "{value}時間"),
    "minutes": ("{value} min", "{value}分"),
    "seconds": ("{value} s", "{value}秒"),
    "origin": ("Measured and modelled.", "実測値とモデル値があります。"),
    "origin_emulated": ("Emulated and modelled.", "エミュレーション値とモデル値です。"),
    "origin_words": (
        "Measured: the energy of {jobs} jobs, {share} of the log's GPU-hours, by the counters of their GPUs; and the "
        "times in the log. Modelled: all that PowerFlow would have done, and the energy of the other jobs. Every "
        "interval is 95 % and holds the error of the models.",
        "実測：ジョブ{jobs}件（ログのGPU時間の{share}）の電力量（GPUのカウンター）と、ログに記録された時刻。"
        "モデル：PowerFlowを導入した場合の結果すべてと、その他のジョブの電力量。"
        "区間はいずれも95 %区間で、モデルの誤差を含みます。",
    ),
    "origin_words_emulated": (
        "The GPUs of {jobs} jobs are emulated: their energy comes from a model too. Nothing on this page was "
        "measured on "
        "a real GPU.",
        "ジョブ{jobs}件のGPUはエミュレーションであり、その電力量もモデルによる値です。"
        "実際のGPUで測定した値はありません。",
    ),
    # refusals
    "why_days": (
        "the log covers {value}, less than {least} days",
        "ログの期間が{value}で、必要な{least}日間に足りません",
    ),
    "do_days": (
        "take a log of at least {least} days, and let powerflow watch run all the time meanwhile",
        "{least}日間以上のログを取得し、その間powerflow watchを動かし続けてください",
    ),
    "why_measured": (
        "{value} of the log's GPU-hours have measured joules, less than {least}",
        "電力量を実測できたGPU時間が{value}で、必要な{least}に足りません",
    ),
    "do_measured": (
        "let powerflow watch run on all GPUs for {days} days, and take the log of the same days",
        "すべてのGPUについてpowerflow watchを{days}日間動かし、同じ期間のログを取得してください",
    ),
    "do_shift": (
        "the measured jobs began {shift} than in the log: give its time zone with --tz",
        "実測したジョブの開始時刻がログより{shift}なっています。--tzでタイムゾーンを指定してください",
    ),
    "why_starts": ("the log does not say when jobs started", "ログにジョブの開始時刻がありません"),
    "do_starts": (
        "add Start to sacct -o, for {least} days of log",
        "sacct -oにStartを加え、{least}日間以上のログを取得してください",
    ),
    "why_reproduced": (
        "the simulation does not reproduce the log: it is off by {value}, more than {most}",
        "シミュレーションがログを再現できていません（誤差{value}、許容{most}）",
    ),
    "do_reproduced": (
        "take {least} days of one partition with its own cluster and with Timelimit; powerflow replay says what "
        "differs",
        "1つのパーティションに絞り、Timelimitを含む{least}日間以上のログを取得してください。"
        "違いの内容はpowerflow replayで確認できます",
    ),
    "why_factor": (
        "the measured energy is {value} times the modelled one: the models do not describe these jobs",
        "実測した電力量がモデルの{value}倍で、モデルがこれらのジョブに合っていません",
    ),
    "do_factor": (
        "check the GPU type of --cluster; if it is right, take {least} days of one partition where jobs train on their "
        "GPUs (powerflow watched shows GPUs that are held idle)",
        "--clusterのGPU種別を確認してください。正しい場合は、学習ジョブが中心のパーティション1つについて{least}日間測定して"
        "ください（使われていないGPUはpowerflow watchedで確認できます）",
    ),
    "missing": ("What to measure", "必要な測定"),
    # tables
    "savings": ("What PowerFlow would have changed", "PowerFlowを導入した場合の効果"),
    "savings_words": (
        "Left: jobs end as early as today, with less energy. Right: as much energy as today, jobs end earlier. "
        "One can "
        "have either, or a part of both.",
        "左側は完了時間を現状と同じとした場合の省エネ効果、右側は電力量を現状と同じとした場合の時間短縮効果です。"
        "どちらか一方、または両方を一部ずつ得られます。",
    ),
    "head_jobs": ("jobs", "ジョブ"),
    "rigid": ("keep their GPUs", "GPU数を変えない"),
    "may_change": ("may change their GPU count", "GPU数の変更を認める"),
    "head_kwh": ("kWh saved in {span}", "削減電力量（kWh、{span}間）"),
    "head_share": ("of the cluster's energy", "クラスター全体に対する割合"),
    "head_money": ("money saved{currency}", "削減額{currency}"),
    "head_co2": ("kg CO2 saved", "CO2削減量（kg）"),
    "head_time": ("or: each job earlier by", "または：1件あたりの短縮時間"),
    "head_time_share": ("of its completion time", "完了時間に対する割合"),
    "reproduced": ("How well is the site reproduced?", "現状をどこまで再現できたか"),
    "reproduced_words": (
        "A model that cannot reproduce what happened cannot say what would have happened. Energy is compared "
        "before it is "
        "corrected by the measurement.",
        "現状を再現できないモデルでは、導入後の結果も予測できません。電力量は、"
        "実測値で補正する前の値を比較しています。",
    ),
    "head_what": ("", ""),
    "head_logged": ("log, measured", "ログ・実測"),
    "head_modelled": ("modelled", "モデル"),
    "head_off": ("off by", "誤差"),
    "row_wait": ("mean wait", "平均待ち時間"),
    "row_use": ("utilisation of GPUs", "GPU割当率"),
    "row_energy": ("energy of the measured jobs", "実測したジョブの電力量"),
    "high": ("Jobs of high priority", "優先度の高いジョブ"),
    "high_unknown": (
        "Unknown: the log does not say which jobs are important. Name them, for example --high qos=NAME.",
        "不明です。優先度の高いジョブがログから判断できません。--high qos=名前 のように指定してください。",
    ),
    "high_few": ("Unknown: too few jobs with {named} to say.", "不明です。{named}のジョブが少なく、判断できません。"),
    "high_words": (
        "{jobs} jobs with {named} would end {change} than today on average ({range}; negative is earlier); {share} of "
        "them later by more than a minute and 1 %. They were simulated with the protection that PowerFlow gives "
        "(priority: protected): at once, on the GPUs that they asked for, at the maximum clock. The savings on this "
        "page are those with this protection.",
        "{named}のジョブ{jobs}件は、現状より平均で{change}完了する見込みです（{range}、マイナスは早まることを示します）。"
        "うち{share}は、1分かつ1 %を超えて遅くなります。PowerFlowの保護設定（priority: protected）を適用した結果で、"
        "要求どおりのGPUで直ちに、最大クロックで実行されます。このページの効果は、この保護を適用した場合の値です。",
    ),
    "high_kept": (
        "None of them would take more than a minute and 1 % longer than alone, without waiting.",
        "待ち時間なしで単独で実行した場合より、1分かつ1 %を超えて遅くなるジョブはありません。",
    ),
    "high_broken": (
        "{share} of them would take more than a minute and 1 % longer than alone, without waiting ({delay} on average "
        "over all of them, {range}): together they ask for more GPUs than there are, or their GPUs are on several "
        "nodes. Name fewer jobs to protect those better.",
        "うち{share}は、待ち時間なしで単独で実行した場合より、1分かつ1 %を超えて長くかかります"
        "（全体の平均で{delay}、{range}）。"
        "対象のジョブ全体の要求がGPU数を超えるか、GPUが複数ノードに分かれるためです。対象を絞ると、より確実に保護できます。",
    ),
    "later": ("{value} later", "{value}遅く"),
    "earlier": ("{value} earlier", "{value}早く"),
    "whom": ("For whom would it change?", "誰にどのような影響があるか"),
    "if_rigid": ("If jobs keep their GPUs.", "ジョブのGPU数を変えない場合です。"),
    "if_elastic": ("If jobs may change their number of GPUs.", "ジョブのGPU数の変更を認める場合です。"),
    "whom_words": (
        "Completion times at the energy price {price} × natural, the highest simulated one at which jobs end no later "
        "than today on average. The users whose jobs would end latest are first.",
        "平均の完了時間が現状より遅くならない範囲で、シミュレーションした最も高いエネルギー価格（標準の{price}倍）での"
        "完了時間の変化です。影響が大きい（遅くなる）利用者から順に示します。",
    ),
    "whom_none": (
        "At no simulated price of energy jobs end as early as today; so nothing is claimed for anybody.",
        "平均の完了時間が現状以下となる条件がなかったため、利用者ごとの影響は示しません。",
    ),
    "head_user": ("user or project", "利用者・プロジェクト"),
    "head_count": ("jobs", "ジョブ数"),
    "head_today": ("time per job today", "現状の完了時間"),
    "head_change": ("change (negative: earlier)", "変化（マイナスは短縮）"),
    "others": ("{count} more between them are not shown.", "中間の{count}名は省略しています。"),
    "takes": ("What it would take", "導入に必要なこと"),
    "takes_words": (
        "Each step can be taken back with one command. These savings need PowerFlow to decide the order, clocks and, "
        "where allowed, GPUs of jobs; watching alone changes nothing.",
        "各段階は、コマンド1つで元に戻せます。上記の効果を得るには、ジョブの実行順序とクロック（"
        "認める場合はGPU数も）をPowerFlowが"
        "決める必要があります。測定だけでは何も変わりません。",
    ),
    "head_step": ("step", "段階"),
    "head_install": ("what to install", "必要な作業"),
    "head_users": ("what changes for users", "利用者への影響"),
    "head_learn": ("what it shows", "分かること"),
    "step_watch": ("watch (now)", "watch（現在）"),
    "install_watch": ("powerflow watch on one node; no root", "1ノードでpowerflow watchを実行（root不要）"),
    "users_watch": ("nothing", "なし"),
    "learn_watch": ("joules of each job", "ジョブごとの電力量"),
    "step_observe": ("observe", "observe"),
    "install_observe": (
        "a controller, and an agent on the nodes of one partition (root, to set clocks)",
        "コントローラーと、1パーティションの各ノードにエージェントを導入（クロック設定のためroot権限）",
    ),
    "users_observe": (
        "jobs of this partition are submitted with powerflow submit, and run as asked",
        "対象パーティションのジョブはpowerflow submitで投入（要求どおりに実行）",
    ),
    "learn_observe": ("what these jobs cost in time and energy", "ジョブの時間と電力量の特性"),
    "step_shadow": ("shadow", "shadow"),
    "install_shadow": ("nothing more", "追加なし"),
    "users_shadow": ("nothing", "なし"),
    "learn_shadow": (
        "what PowerFlow would do, and how exact its predictions are",
        "PowerFlowの判断内容と、予測の正確さ",
    ),
    "step_canary": ("canary", "canary"),
    "install_canary": ("nothing more", "追加なし"),
    "users_canary": (
        "PowerFlow decides for one project, and goes back by itself if its jobs get worse",
        "1プロジェクトのみPowerFlowが決定（悪化した場合は自動で元に戻る）",
    ),
    "learn_canary": ("whether the savings are real", "効果が実際に得られるか"),
    "step_enforce": ("enforce", "enforce"),
    "install_enforce": ("agents on the other nodes", "残りのノードにエージェントを導入"),
    "users_enforce": ("PowerFlow decides for all projects", "全プロジェクトについてPowerFlowが決定"),
    "learn_enforce": ("the savings, measured", "効果の実測値"),
    # how
    "how": ("How it was computed", "計算方法"),
    "fact_log": ("Log and measurement", "ログと測定"),
    "fact_log_words": (
        "{jobs} jobs over {span}; {matched} of them have measured joules ({runs} measured runs, {unmatched} "
        "of them "
        "not in this log). A run belongs to the job with its number and its start.",
        "{span}間、{jobs}件のジョブのうち{matched}件で電力量を実測しました（実測した実行{runs}件、"
        "うちこのログにないもの{unmatched}件）。"
        "ジョブ番号と開始時刻で対応付けています。",
    ),
    "measured_labels": (
        "The joules were read afterwards from Prometheus, by the labels that name the job on a GPU.",
        "電力量は、GPU上のジョブを示すラベルに基づき、Prometheusから事後に読み取った値です。",
    ),
    "measured_whole nodes": (
        "The joules were read afterwards from Prometheus. Its labels name no jobs, so only jobs that held all GPUs of "
        "their nodes are measured; the others are assumed to draw alike.",
        "電力量は、Prometheusから事後に読み取った値です。ラベルにジョブの情報がないため、ノードの全GPUを占有したジョブ"
        "のみを測定値とし、その他のジョブは同様の電力と仮定しています。",
    ),
    "fact_site": ("The site today", "現状の再現"),
    "fact_site_words": (
        "The jobs of the log queued again under {policy}, for their logged times, at the maximum clock.",
        "ログのジョブを、記録された実行時間と最大クロックで、{policy}の規則により再度待ち行列に入れました。",
    ),
    "policy_fifo": ("first in, first out", "先着順"),
    "policy_easy": ("EASY backfilling", "EASYバックフィル"),
    "policy_easy-limits": ("EASY backfilling by time limits", "時間制限に基づくEASYバックフィル"),
    "policy_first-fit": ("first fit", "ファーストフィット"),
    "fact_models": ("Models", "モデル"),
    "fact_models_words": (
        "{draws} draws. In each, every job has a model of the catalogue whose power per GPU is near its measured "
        "power "
        "(standard deviation {width} of the logarithm, as much as a site's model differs from its family); a job "
        "without "
        "measurement resembles others of its user and name.",
        "{draws}回の抽出を行いました。各回で、GPU1基あたりの電力が実測値に近いモデルをカタログから選びます（"
        "対数の標準偏差{width}。"
        "実際のモデルとカタログとの差に相当）。実測のないジョブは、同じ利用者・同じ名前のジョブに倣います。",
    ),
    "fact_scale": ("Correction", "補正"),
    "fact_scale_words": (
        "The energy above idle is multiplied by measured ÷ modelled energy of the measured jobs: {low} to {high} "
        "in the "
        "draws, ± {error} for what was not measured.",
        "待機電力を超える電力量に、実測値÷モデル値（抽出ごとに{low}〜{high}、"
        "実測していない分の誤差±{error}）を掛けています。",
    ),
    "fact_equal": ("At equal energy, at equal time", "電力量・完了時間を同じとした比較"),
    "fact_equal_words": (
        "Several prices of energy are simulated; between two of them results are joined by a straight line. "
        "Nothing is "
        "claimed beyond the last one: then it says “at least”.",
        "複数のエネルギー価格でシミュレーションし、その間は直線で結んでいます。範囲外への推定は行わず、"
        "その場合は「以上」と記します。",
    ),
    "fact_intervals": ("Intervals", "区間"),
    "fact_intervals_words": (
        "95 %, for one further site like this, not for a mean over sites. They hold models and their costs, the "
        "part of the "
        "log, the measurement and the reproduction of waits; not what the simulator leaves out (docs/simulator.md).",
        "同様のサイトもう1つに対する95 %区間です（平均値の区間ではありません）。モデルとそのコスト、ログの範囲、"
        "測定、待ち時間の再現の"
        "誤差を含みます。シミュレーターが扱わない事項（docs/simulator.md）は含みません。",
    ),
    "fact_outside": ("Not included", "対象外"),
    "fact_outside_words": (
        "CPUs, memory and cooling beyond the idle draw of nodes; what a change of habits costs.",
        "ノードの待機電力を除くCPU・メモリ・冷却の電力と、運用変更にかかる費用。",
    ),
}


def text(key: str, language: Language, **values: object) -> str:
    """Return a text of the page in a language, with the values of its fields."""
    return _TEXTS[key][0 if language is Language.EN else 1].format(**values)


def texts() -> dict[str, tuple[str, str]]:
    """Return all texts: key → (English, Japanese)."""
    return dict(_TEXTS)
