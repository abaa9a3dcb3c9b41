"""Workers of a parallel scorer as coroutines of this process, for scorers that wait for other machines."""

import asyncio
from inspect import isawaitable
from typing import Any

from masksearch.scoring.parallel.worker_messages import Failed, Plan, Reply, Task, TaskScorer, repeated


class CoroutineWorkers:
    """Workers that are coroutines of one process: each awaits ``scorer.score(proposals)``, and all share one scorer.

    ``scorer.score`` may be an ``async def``.
    """

    def __init__(self, plan: Plan) -> None:
        self._scorer = TaskScorer(plan.scorer, plan.space, plan.fresh)
        self._loop = asyncio.new_event_loop()
        self._replies: asyncio.Queue[tuple[int, Reply | None]] = asyncio.Queue()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        for number in range(plan.workers):
            self._replies.put_nowait((number, None))

    def send(self, number: int, task: Task) -> None:
        """Start to score a mask on worker ``number``, which must be free; return at once."""
        self._tasks[number] = self._loop.create_task(self._work(number, task))
        self._loop.run_until_complete(asyncio.sleep(0))  # the scoring begins now, not with the next wait

    async def _work(self, number: int, task: Task) -> None:
        reply: Reply
        try:
            found = []
            for _ in range(1 + task.twice):
                scores: Any = self._scorer.scorer.score([self._scorer.proposal(task)])
                found += await scores if isawaitable(scores) else scores
            reply = repeated(found)
        except Exception as error:
            reply = Failed.of(error)
        self._replies.put_nowait((number, reply))

    def wait(self) -> tuple[int, Reply | None]:
        """Wait for any worker's reply; return (worker's number, reply). A worker's first reply is None: it is ready."""
        return self._loop.run_until_complete(self._replies.get())

    def replace(self, number: int) -> None:
        """Do nothing: a coroutine can't die while its process lives, so that no worker has to be replaced."""

    def close(self) -> None:
        """Cancel all coroutines, including those that are scoring masks."""
        for task in self._tasks.values():
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks.values(), return_exceptions=True))
        self._loop.close()
