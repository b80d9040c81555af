"""Find torchrun or accelerate in a job's ``run`` line. These launchers start one process per GPU of a node.

PowerFlow, too, starts one process per GPU of a job with ``rescale: restart``. If each of these were a launcher, each
would run the whole job. So PowerFlow starts a launcher only once per node. It replaces the launcher's options for the
number of processes and for the meeting point of processes by values for the job's GPUs. A line that PowerFlow cannot
parse with certainty is an error, and the message says what to write instead.

Source of the options: `torch.distributed.run.get_args_parser` (torch 2.13) and `accelerate.commands.launch` (accelerate
1.15).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

from powerflow.api.command import is_shell
from powerflow.errors import InputError


class LauncherKind(StrEnum):
    """Launchers whose number of processes PowerFlow can set."""

    TORCHRUN = "torchrun"
    ACCELERATE = "accelerate launch"


@dataclass(frozen=True, slots=True)
class Launcher:
    """A launcher in a ``run`` line. All words are as in the line, with their quotes.

    Attributes:
        kind: torchrun or accelerate.
        before: Text before the launcher in the line, such as ``cd /data &&`` or ``OMP_NUM_THREADS=4``.
        program: Words that start the launcher.
        options: The launcher's options, without those that PowerFlow sets.
        script: The first word after the options: a script, or the name of a module.
        after: The rest of the line, from the script to the end.
        processes: Total number of processes that the line asks for; None if the line does not say.
    """

    kind: LauncherKind
    before: str
    program: tuple[str, ...]
    options: tuple[str, ...]
    script: str
    after: str
    processes: int | None

    def command(
        self,
        *,
        node: int,
        gpus: Sequence[int],
        port: int,
        interpreter: str,
        address: str = "127.0.0.1",
    ) -> tuple[str, ...]:
        """Return the argument vector that starts the launcher on one node of the job.

        Args:
            node: Number of the node among the job's nodes, from 0.
            gpus: Number of the job's GPUs on each of its nodes.
            port: Port on node 0 at which all ranks meet.
            interpreter: Path of the Python interpreter that replaces ``python`` without a path. A launcher without a
                path is taken from the same installation.
            address: Address of node 0.

        Raises:
            InputError: The launcher cannot start these numbers of processes on these nodes.
        """
        counts = _torchrun_counts if self.kind is LauncherKind.TORCHRUN else _accelerate_counts
        words = [*counts(node, gpus, address, port), *_fitting(self.kind, self.options, gpus), self.after]
        line = " ".join([self.before, *self.program, *words]).strip()
        if is_shell(line):
            return ("/bin/sh", "-c", line)
        if self.before:
            return tuple(shlex.split(line))
        return (*_of_interpreter(self.program, interpreter), *shlex.split(" ".join(words)))


def _torchrun_counts(node: int, gpus: Sequence[int], address: str, port: int) -> list[str]:
    where = ["--nnodes", str(len(gpus)), "--nproc-per-node", str(gpus[node]), "--node-rank", str(node)]
    return [*where, "--master-addr", address, "--master-port", str(port)]


def _accelerate_counts(node: int, gpus: Sequence[int], address: str, port: int) -> list[str]:
    where = ["--num_processes", str(sum(gpus)), "--num_machines", str(len(gpus)), "--machine_rank", str(node)]
    return [*where, "--main_process_ip", address, "--main_process_port", str(port), "--gpu_ids", "all"]


def _fitting(kind: LauncherKind, options: Sequence[str], gpus: Sequence[int]) -> list[str]:
    """Return the launcher's options, changed where necessary for these GPUs.

    Raises:
        InputError: The launcher cannot start these numbers of processes on these nodes.
    """
    if kind is LauncherKind.TORCHRUN:
        return list(options)
    if len(set(gpus)) > 1:
        raise InputError(
            f"accelerate needs the same number of GPUs on each node, but the nodes have {', '.join(map(str, gpus))}",
            fix="write torchrun instead of accelerate launch, or counts that fill whole nodes",
        )
    if len(gpus) > 1 and "--use_deepspeed" in options:
        raise InputError("accelerate --use_deepspeed needs all its GPUs on one node", fix="write torchrun instead")
    if sum(gpus) == 1:
        return [word for word in options if word != "--multi_gpu"]  # accelerate refuses it for one process
    return list(options)


#: Programs that start all ranks of a job and whose number PowerFlow cannot set; with the text to write instead.
_OTHERS = {
    "deepspeed": "write torchrun instead: deepspeed.init_distributed() reads the variables that torchrun sets",
    "mpirun": "write torchrun or python instead, or set rescale: none with one number of GPUs",
    "mpiexec": "write torchrun or python instead, or set rescale: none with one number of GPUs",
    "horovodrun": "set rescale: none with one number of GPUs, or change the script to torch.distributed",
    "srun": "remove it: PowerFlow starts one process per GPU itself",
    "composer": "write torchrun instead",
    "colossalai": "write torchrun instead",
}
_TORCH_MODULES = ("torch.distributed.run", "torch.distributed.launch", "torch.distributed.torchrun")
_TORCH_FLAGS = {"--standalone", "-m", "--module", "--no_python", "--run_path", "--virtual_local_rank"}
_TORCH_VALUED = {
    *("--nnodes", "--nproc_per_node", "--rdzv_backend", "--rdzv_endpoint", "--rdzv_id", "--rdzv_conf"),
    *("--max_restarts", "--monitor_interval", "--start_method", "--event_log_handler", "--role", "--log_dir", "-r"),
    *("--redirects", "-t", "--tee", "--local_ranks_filter", "--duplicate_stdout_filters"),
    *("--duplicate_stderr_filters", "--node_rank", "--master_addr", "--master_port", "--local_addr", "--logs_specs"),
    *("--numa_binding", "--signals_to_handle", "--shutdown_timeout"),
}
_TORCH_OURS = {
    *("--standalone", "--nnodes", "--nproc_per_node", "--rdzv_backend", "--rdzv_endpoint", "--rdzv_id", "--rdzv_conf"),
    *("--node_rank", "--master_addr", "--master_port", "--local_addr"),
}
_ACCELERATE_FLAGS = {
    *("--quiet", "-q", "--cpu", "--multi_gpu", "--tpu", "--enable_cpu_affinity", "--dynamo_use_fullgraph"),
    *("--dynamo_use_dynamic", "--dynamo_use_regional_compilation", "--use_deepspeed", "--use_fsdp"),
    *("--use_parallelism_config", "--use_megatron_lm", "--same_network", "-m", "--module", "--no_python"),
    *("--downcast_bf16", "--fp8_use_autocast_during_eval", "--debug"),
}
_ACCELERATE_VALUED = {
    *("--config_file", "--mixed_precision", "--num_processes", "--num_machines", "--num_cpu_threads_per_process"),
    *("--dynamo_backend", "--dynamo_mode", "--gpu_ids", "--machine_rank", "--main_process_ip", "--main_process_port"),
    *("-t", "--tee", "--log_dir", "--role", "--rdzv_backend", "--rdzv_conf", "--max_restarts", "--monitor_interval"),
    *("--main_training_function", "--zero_stage", "--offload_optimizer_device", "--offload_param_device"),
    *("--offload_optimizer_nvme_path", "--offload_param_nvme_path", "--gradient_accumulation_steps"),
    *("--gradient_clipping", "--zero3_init_flag", "--zero3_save_16bit_model", "--deepspeed_config_file"),
    *("--deepspeed_moe_layer_cls_names",),
}
#: Beginnings of options that have a value, unless they are among the flags.
_ACCELERATE_GROUPS = ("--fsdp_", "--megatron_lm_", "--fp8_", "--parallelism_config_")
_ACCELERATE_OURS = {
    *("--num_processes", "--num_machines", "--gpu_ids", "--machine_rank", "--main_process_ip", "--main_process_port"),
    *("--same_network", "--rdzv_backend", "--rdzv_conf"),
}
_ACCELERATE_WAYS = {"--multi_gpu", "--use_deepspeed", "--use_fsdp", "--use_megatron_lm", "--config_file"}
#: A part of a shell line: a sign that ends a command, or a word with its quotes.
_PIECE = re.compile(
    r"""(?P<sign>&&|\|\||[|&;()\n`])|(?P<word>(?:[^\s"'\\|&;()`]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+)""", re.DOTALL
)
#: Words after which a command begins.
_STARTERS = {"exec", "time", "nohup", "env", "command", "then", "do", "else", "if", "while", "!", "{", "sudo"}
#: Commands that run another command, which is among their arguments.
_WRAPPERS = {
    *("nice", "ionice", "timeout", "numactl", "taskset", "stdbuf", "chrt", "setsid", "xargs", "conda", "mamba"),
    *("micromamba", "uv", "uvx", "poetry", "pipenv", "pixi", "apptainer", "singularity", "docker", "podman", "nsys"),
}
_SHELLS = {"sh", "bash", "dash", "zsh"}
_INSIDE = re.compile(r"(^|[\s;&|/(])(torchrun|accelerate\s+launch|torch\.distributed\.(run|launch))\s")


def launcher_of(run: str) -> Launcher | None:
    """Return the launcher that a ``run`` line starts; None if the line starts no known launcher.

    Raises:
        InputError: PowerFlow cannot set the launcher's number of processes, cannot parse its options, or finds several
            launchers.
    """
    pieces = [(found["word"] or "", found.start(), found.end()) for found in _PIECE.finditer(run)]
    launchers = []
    begins = True  # whether a command may begin with the next word
    wrapped = False  # whether a command stands among the arguments of another
    for at, (word, _, _) in enumerate(pieces):
        if begins and word:
            found = _launcher_at(run, pieces[at:])
            launchers += [found] if found else []
        wrapped = bool(word) and (wrapped or (begins and PurePath(word).name in _WRAPPERS))
        begins = not word or wrapped or (begins and (word in _STARTERS or _is_assignment(word)))
    if len(launchers) > 1:
        raise InputError(f"run starts {len(launchers)} launchers", fix="write one launcher; prepare data in the script")
    return launchers[0] if launchers else None


def _launcher_at(run: str, pieces: list[tuple[str, int, int]]) -> Launcher | None:
    """Parse the launcher that begins with the first of these words; return None if the words are another command."""
    words = [word for word, _, _ in pieces]
    words = words[: words.index("")] if "" in words else words
    name = PurePath(words[0]).name
    if name in _OTHERS:
        raise InputError(f"PowerFlow cannot tell {name} how many processes to start", fix=_OTHERS[name])
    if name in _SHELLS and any(_INSIDE.search(f"{word} "[1:]) for word in words[1:] if word[0] in "\"'"):
        raise InputError(f"run starts a launcher inside {name} -c", fix="write the quoted command itself as run")
    module, begin = _module(words) if re.fullmatch(r"python[0-9.]*", name) else ("", 1)
    if module.startswith("deepspeed"):
        raise InputError("PowerFlow cannot tell deepspeed how many processes to start", fix=_OTHERS["deepspeed"])
    if name == "torchrun" or module in _TORCH_MODULES:
        kind = LauncherKind.TORCHRUN
        options, script = _options(words, begin, kind, _TORCH_FLAGS, _TORCH_VALUED, ())
        kept, processes = _torchrun(options, module)
    elif words[:2] == ["accelerate", "launch"] or name == "accelerate-launch" or module == "accelerate.commands.launch":
        kind, begin = LauncherKind.ACCELERATE, begin + (name == "accelerate")
        options, script = _options(words, begin, kind, _ACCELERATE_FLAGS, _ACCELERATE_VALUED, _ACCELERATE_GROUPS)
        kept, processes = _accelerate(options)
    else:
        return None
    if module == "torch.distributed.launch":  # which is `run` with an argument for the script, unless --use_env
        words[begin - 1] = "torch.distributed.run"
    before, after = run[: pieces[0][1]].strip(), run[pieces[script][1] :].strip()
    return Launcher(kind, before, tuple(words[:begin]), kept, words[script], after, processes)


def check_launcher(run: str, rescale: str, least: int, most: int) -> Launcher | None:
    """Return the launcher in a ``run`` line if it can run the job; None if PowerFlow runs the line as it is.

    Args:
        run: The line.
        rescale: The job's rescale mode. With ``none``, the line is run as it is.
        least, most: Smallest and largest GPU count of the job.

    Raises:
        InputError: As in `launcher_of`. Also if the mode is ``in-place``, or if the line's number of processes differs
            from the job's number of GPUs.
    """
    if rescale == "none":
        return None
    launcher = launcher_of(run)
    if launcher is None:
        return None
    if rescale == "in-place":
        raise InputError(
            f"{launcher.kind} starts the processes itself, but PowerFlow must start those of an in-place job",
            fix=f"write run: python {launcher.script} …, or rescale: restart",
        )
    if launcher.processes is not None and least == most != launcher.processes:
        raise InputError(
            f"run asks {launcher.kind} for {launcher.processes} processes, and the job has {most} GPUs",
            fix="remove the number: PowerFlow sets it to the number of the job's GPUs",
        )
    return launcher


_Options = list[tuple[str, str]]


def _torchrun(options: _Options, module: str) -> tuple[tuple[str, ...], int | None]:
    """Return torchrun's options without those that PowerFlow sets, and the number of processes in the line."""
    values = dict(options)
    if module == "torch.distributed.launch" and "--use_env" not in values:
        raise InputError(
            "PowerFlow does not start torch.distributed.launch, because its options change between versions of torch",
            fix="write torchrun, and read LOCAL_RANK from the environment instead of --local-rank",
        )
    kept = _written([(name, value) for name, value in options if name not in _TORCH_OURS], _TORCH_FLAGS)
    per_node, nodes = values.get("--nproc_per_node", ""), values.get("--nnodes", "1")
    return kept, int(per_node) * int(nodes) if per_node.isdecimal() and nodes.isdecimal() else None


def _accelerate(options: _Options) -> tuple[tuple[str, ...], int | None]:
    """Return accelerate's options without those that PowerFlow sets, and the number of processes in the line."""
    values = dict(options)
    for name in ("--cpu", "--tpu"):
        if name in values:
            raise InputError(
                f"accelerate launch {name} starts only one process, but PowerFlow needs one per GPU",
                fix="write torchrun instead",
            )
    if not _ACCELERATE_WAYS & values.keys():
        raise InputError(
            "accelerate launch has no option for distributed training, so it might start only one process",
            fix="add --multi_gpu (or --use_fsdp, --use_deepspeed, --config_file FILE)",
        )
    kept = _written([(name, value) for name, value in options if name not in _ACCELERATE_OURS], _ACCELERATE_FLAGS)
    asked = values.get("--num_processes", "")
    return kept, int(asked) if asked.isdecimal() else None


def _options(
    words: list[str], begin: int, kind: LauncherKind, flags: set[str], valued: set[str], groups: tuple[str, ...]
) -> tuple[_Options, int]:
    """Return a launcher's options as (name with underscores, value), and the index of the script among the words."""
    options: _Options = []
    at = begin
    while at < len(words) and words[at].startswith("-"):
        name, equals, value = words[at].partition("=")
        name = f"--{name[2:].replace('-', '_')}" if name.startswith("--") else name
        if name in flags or name == "--use_env":
            options.append((name, ""))
        elif equals:
            options.append((name, value))
        elif name in valued or name.startswith(groups):
            at += 1
            options.append((name, words[at] if at < len(words) else ""))
        else:
            raise InputError(
                f"PowerFlow does not know the option {words[at]} of {kind}",
                fix=f"write {words[at]}=VALUE if it has a value, or remove it",
            )
        at += 1
    if at >= len(words):
        raise InputError(f"run names no script for {kind}", fix=f"write {kind} train.py")
    return options, at


def _written(options: _Options, flags: set[str]) -> tuple[str, ...]:
    """Turn options (name, value) back into words of a command line."""
    words: list[str] = []
    for name, value in options:
        if name == "--use_env":  # torchrun always does
            continue
        if name in flags:
            words.append(name)
        elif name.startswith("--"):
            words.append(f"{name}={value}")
        else:
            words += [name, value]
    return tuple(words)


def _is_assignment(word: str) -> bool:
    return re.match(r"[A-Za-z_][A-Za-z0-9_]*=", word) is not None


def _module(words: list[str]) -> tuple[str, int]:
    """Return the module that ``python … -m MODULE`` runs and the index of its first argument; ("", 0) without -m."""
    at = 1
    while at < len(words) - 1 and words[at].startswith("-"):
        if words[at] == "-m":
            return words[at + 1], at + 2
        at += 2 if words[at] in ("-W", "-X", "--check-hash-based-pycs") else 1
    return "", 0


def _of_interpreter(program: Sequence[str], interpreter: str) -> list[str]:
    """Return the words that start a launcher. A launcher named without a path is run by PowerFlow's interpreter."""
    if program[0] == "torchrun":
        return [interpreter, "-m", "torch.distributed.run"]
    if program[0] in ("accelerate", "accelerate-launch"):
        return [interpreter, "-m", "accelerate.commands.launch"]
    if program[0] in ("python", "python3"):
        return [interpreter, *program[1:]]
    return list(program)
