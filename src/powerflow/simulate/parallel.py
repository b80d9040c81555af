"""Answer independent questions, such as simulations, in several processes; leave no process behind in any case.

Answers are in the order of the questions, so that results do not depend on the number of processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from typing import Any

from powerflow.cost.catalogue import GpuType, declare, declared
from powerflow.errors import InputError

#: ``ask_all(questions, answered)`` returns one answer per question, in order, and calls ``answered(i)`` for each.
AskAll = Callable[[Sequence[Any], Callable[[int], None]], list[Any]]


@contextmanager
def workers(answer: Callable[[Any], Any], processes: int) -> Iterator[AskAll]:
    """Start processes that answer questions, such as simulations; with ``processes=1`` this process answers them.

    Args:
        answer: Function that answers one question. It must be picklable; it is pickled once for each process.
        processes: Number of processes, at least 1.

    Yields:
        A function that takes questions and waits for all answers. If the ``with`` block ends early (error, Ctrl-C), the
        processes are ended at once.
    """
    if processes == 1:
        yield lambda questions, answered: [_told(answer(question), answered, i) for i, question in enumerate(questions)]
        return
    before = multiprocessing.active_children()
    pool = ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(answer, declared())
    )

    def ask_all(questions: Sequence[Any], answered: Callable[[int], None]) -> list[Any]:
        # the processes start here and ignore Ctrl-C, which a terminal sends to all of them: the parent ends them
        with _interrupt_later():
            futures = [pool.submit(_answer, question) for question in questions]
        number = {future: i for i, future in enumerate(futures)}
        left: set[Future[Any]] = set(futures)
        try:
            while left:
                done, left = wait(left, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=number.__getitem__):
                    future.result()
                    answered(number[future])
        except BrokenProcessPool:
            raise InputError(
                "a simulating process was ended from outside",
                fix="if memory is short, use fewer processes",
                exit_code=1,
            ) from None
        return [future.result() for future in futures]

    try:
        yield ask_all
    except BaseException:
        for child in multiprocessing.active_children():
            if child not in before:
                child.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


@contextmanager
def _interrupt_later() -> Iterator[None]:
    """Delay Ctrl-C until the ``with`` block ends, so that no process is left half-started.

    Processes that are started inside the block ignore Ctrl-C. The signal mask alone does not delay it: the kernel then
    gives the signal to another thread, such as the thread of a progress bar, and Python still raises KeyboardInterrupt
    in the main thread.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()  # other threads are never interrupted
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number)) if in_main_thread else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main_thread:
            signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _told(answer: Any, answered: Callable[[int], None], i: int) -> Any:
    answered(i)
    return answer


_do: Callable[[Any], Any]  # in a worker process: set once, at its start


def _begin(answer: Callable[[Any], Any], cards: Sequence[GpuType]) -> None:
    """Prepare a new worker process: it ends when its parent process ends."""
    global _do  # noqa: PLW0603 - the process has no other place for it
    _do = answer
    declare(*cards)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _answer(question: Any) -> Any:
    return _do(question)
