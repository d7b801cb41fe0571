"""The engine of Ray Data: tasks that read feed actors that encode, on this machine or a cluster.

Back-pressure, placement and retries after a lost process are Ray's. The process that started it writes the shards.
"""

import logging
import os
import pickle
import re
import time
from functools import lru_cache
from typing import Any

import torch

from omnitok.errors import CheckpointError, MissingExtraError, OmnitokError
from omnitok.peers import load_tokenizer
from omnitok.tokenization.embedding import load_encoder
from omnitok.tokenization.job import Plan, Progress, TokenizeJob, silent
from omnitok.tokenization.pipeline import encode_group, read_group

MAX_BLOCKS = 2048
LARGEST_GROUP = 2**29
"""Groups of more bytes of pixels do not travel: the actor that encodes them reads them itself, batch by batch."""

RESTARTS = 1
"""So often per actor a process that died is replaced before a group is finished. Ray would go on forever: a file may be
what ends the processes."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def tokenize_on_ray(
    job: TokenizeJob,
    device: str = "auto",
    address: str | None = None,
    actors: int | None = None,
    progress: Progress = silent,
) -> None:
    """Make the shards of `job` with Ray Data.

    The tokenizer is loaded by its name in every actor, so a folder has to be reachable from all machines, as have the
    files of the collection.

    Args:
        device: "cpu", or "cuda" for one GPU per actor; "auto" is that where the cluster has GPUs.
        address: of an existing cluster; None starts one on this machine.
        actors: how many tokenizer actors; None is one per GPU, or one per two CPUs.
        progress: told about the files of every group.

    Raises:
        MissingExtraError: Ray is not installed.
        OmnitokError: the cluster cannot be reached, or the work failed there.
        OSError: a shard cannot be written.
    """
    try:
        import ray
        import ray.data as ray_data
    except ImportError as error:
        raise MissingExtraError.of("ray", "ray[data]") from error
    data: Any = ray_data  # whose types know functions of one argument only
    groups = job.groups
    if not groups:
        return
    begun = time.perf_counter()
    is_ours = not ray.is_initialized()
    try:
        if is_ours:
            _start(address)
        resources = ray.cluster_resources()
        on_gpu = device.startswith("cuda") or (device == "auto" and resources.get("GPU", 0) >= 1)
        count = actors or max(1, int(resources.get("GPU", 0)) if on_gpu else int(resources.get("CPU", 2)) // 2)
        data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it prints tracebacks of what is raised here anyway
        plan = ray.put(job.plan)
        restarts = ray.remote(num_cpus=0)(_Restarts).remote(RESTARTS * count)
        rows = (
            data.from_items([{"group": group} for group in groups], override_num_blocks=min(len(groups), MAX_BLOCKS))
            .map(_read, fn_kwargs={"plan": plan}, num_cpus=1)
            .map(
                _Encode,
                fn_constructor_kwargs={"plan": plan, "device": "cuda" if on_gpu else "cpu", "restarts": restarts},
                compute=data.ActorPoolStrategy(size=count),
                num_cpus=1,
                num_gpus=1 if on_gpu else 0,
            )
        )
        for row in rows.iter_rows():
            done = pickle.loads(row["done"])
            job.add(done)
            restarts.reset.remote()
            progress(len(job.plan.samples_of(done.group)))
        job.summary.seconds += time.perf_counter() - begun
        job.summary.encoding /= count  # actors that wait are waiting for pixels
    except ray.exceptions.RayError as error:
        raise OmnitokError(f"Ray: {_reason(error)}") from error
    finally:
        if is_ours:
            ray.shutdown()


def _start(address: str | None) -> None:
    """Join the cluster at the address, or start one of this machine."""
    import ray

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    except Exception as error:  # of many kinds, some of them plain Exception
        where = "cannot be started on this machine" if address is None else f"cannot be reached at {address}"
        raise OmnitokError(f"Ray {where}: {' '.join(str(error).split())}") from error


@lru_cache(maxsize=1)
def _fetched(plan: Any) -> Plan:
    """The plan from Ray's store; once per process, because the list of a large collection is large."""
    import ray

    return ray.get(plan)


def _read(row: dict[str, Any], plan: Any) -> dict[str, Any]:
    """The reading stage: a group's pixels, or nothing where they are too many."""
    torch.set_num_threads(1)
    batches, size = [], 0
    for batch in read_group(_fetched(plan), int(row["group"])):
        batches.append(batch)
        size += sum(item.pixels.nbytes for item in batch.items)
        if size > LARGEST_GROUP:
            return {"group": row["group"], "batches": b""}
    return {"group": row["group"], "batches": pickle.dumps(batches, protocol=5)}


class _Restarts:
    """How many processes of the whole cluster died since a group was finished."""

    def __init__(self, limit: int) -> None:
        self._limit, self._count = limit, 0

    def reset(self) -> None:
        """A group is finished."""
        self._count = 0

    def add(self) -> int | None:
        """A process died; how many did, where that is more than the limit."""
        self._count += 1
        return self._count if self._count > self._limit else None


class _Encode:
    """The encoding stage: an actor with a tokenizer."""

    def __init__(self, plan: Any, device: str, restarts: Any) -> None:
        import ray

        if ray.get_runtime_context().was_current_actor_reconstructed and (count := ray.get(restarts.add.remote())):
            raise OmnitokError(f"processes died {count} times and no files were finished; a file or memory ends them")
        torch.set_num_threads(1)
        self.plan = plan = _fetched(plan)
        tokenizer = load_tokenizer(plan.format.tokenizer)
        found = tokenizer.fingerprint
        if found != plan.format.tokenizer_sha256:
            wanted = plan.format.tokenizer_sha256
            raise CheckpointError(f"{plan.format.tokenizer}: has weights {found} on this Ray worker, not {wanted}")
        self.tokenizer = tokenizer.to(device, _DTYPES[plan.settings.precision]).eval()
        self.text_encoder = load_encoder(plan.format.embeddings, device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        group = int(row["group"])
        batches = pickle.loads(row["batches"]) if row["batches"] else read_group(self.plan, group)
        done = encode_group(self.plan, self.tokenizer, batches, group, self.text_encoder)
        return {"group": group, "done": pickle.dumps(done, protocol=5)}


def _reason(error: BaseException) -> str:
    """What went wrong in a task, without the traceback that Ray puts before it and the advice that it puts after."""
    lines = [line.rstrip() for line in str(error).splitlines() if line.strip()]
    # Ray Data's own exception comes last and only says that a function failed; source lines are indented.
    raised = [line for line in lines if re.match(r"(?!ray\.)(\w+\.)*\w*(Error|Exception)(: |$)", line)]
    reason = (raised or lines or [type(error).__name__])[-1].strip()
    return re.sub(r"^omnitok\.errors\.\w+: ", "", reason)
