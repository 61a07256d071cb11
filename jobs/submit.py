"""Submit a run to a Ray cluster as soon as its head accepts jobs, and follow it to its end.

    RAY_AUTH_MODE=token python jobs/submit.py jobs/configs/batch.yaml \
        --input 's3://my-bucket/shards/train-{000000..000999}.tar' --bundle s3://my-bucket/bundles/stamps \
        --output s3://my-bucket/runs/today

Has the options and exit codes of `mmray run`. Only the config file is sent from this machine: mmray is
installed on the nodes, and input, bundle and output are URLs, or absolute paths that every node has. A head
that has just started refuses jobs for some seconds, because its job agent starts after its dashboard; refused
jobs are submitted again until --wait is over. Expected: the run's own lines, `audit clean`, exit code 0. The
same command resumes an unfinished run. Ctrl-C stops following, not the run.
"""

import asyncio
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer
from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

AGAIN_S = 1.0  # between two attempts


def submit(address: str, arguments: list[str], wait_s: float) -> tuple[JobSubmissionClient, str]:
    """Submit `mmray run ARGUMENTS`; the client, and the job's id.

    Args:
        address: of the dashboard, as `http://localhost:8265`.
        arguments: of `mmray run`; the first may be a config file.
        wait_s: how long to retry while the head does not exist or is not ready.

    Raises:
        TimeoutError: it was not ready in that time.
        AuthenticationError: no token, or a wrong one.
        RuntimeError: the head refuses the job permanently.
    """
    job = f"mmray-{uuid4().hex[:12]}"  # our own id, so that a job whose answer was lost is not run twice
    deadline = time.monotonic() + wait_s
    with tempfile.TemporaryDirectory() as directory:
        environment = {}
        if arguments and not arguments[0].startswith("-"):
            config = shutil.copy(arguments[0], directory)
            arguments = [Path(config).name, *arguments[1:]]
            environment = {"working_dir": directory}
        command = shlex.join(["mmray", "run", *arguments])
        while True:
            try:
                client = JobSubmissionClient(address)
                client.submit_job(entrypoint=command, submission_id=job, runtime_env=environment)
            except (OSError, RuntimeError) as e:
                if f"{job} already exists" in str(e):
                    return client, job
                if not _may_pass(e):
                    raise
                if time.monotonic() >= deadline:
                    reason = str(e).strip().splitlines()[-1]
                    raise TimeoutError(f"{address} accepted no job within {wait_s:g} s: {reason}") from e
                time.sleep(AGAIN_S)
            else:
                return client, job


def _may_pass(error: Exception) -> bool:
    """Whether the head does not exist or is not ready; it also answers 500 for its agent's 400."""
    return isinstance(error, OSError) or ("status code 5" in str(error) and "status code 4" not in str(error))


async def follow(client: JobSubmissionClient, job: str) -> int:
    """Print the job's output; returns its exit code."""
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)
    while not (info := client.get_job_info(job)).status.is_terminal():
        await asyncio.sleep(AGAIN_S)
    if info.driver_exit_code is None:
        print(f"{job}: {info.status}: {info.message}", file=sys.stderr)
        return 3
    return int(info.driver_exit_code)


def main(
    run: typer.Context,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Of the head's dashboard.")
    ] = "http://localhost:8265",
    wait: Annotated[float, typer.Option(help="Seconds that a head may take to become ready.")] = 120.0,
) -> None:
    """Submit `mmray run` with all other arguments, and follow it."""
    job = ""
    try:
        client, job = submit(address, run.args, wait)
        print(f"{job} is submitted; `ray job stop --address {address} {job}` stops it", file=sys.stderr)
        sys.exit(asyncio.run(follow(client, job)))
    except AuthenticationError as e:
        print(f"{address}: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH: {e}", file=sys.stderr)
        sys.exit(2)
    except (OSError, RuntimeError, ClientError) as e:
        print(e, file=sys.stderr)
        _tell_of(job, address)
        sys.exit(3 if job else 2)
    except KeyboardInterrupt:
        _tell_of(job, address)
        sys.exit(130)


def _tell_of(job: str, address: str) -> None:
    if job:
        print(f"the run goes on: ray job logs --address {address} --follow {job}", file=sys.stderr)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(main)
    app()
