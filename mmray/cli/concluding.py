"""Shows a run in progress, and its result or why it is not good enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mmray.cli.json_display import JsonDisplay
from mmray.cli.run_display import RunDisplay
from mmray.errors import AuditError
from mmray.page.table import number

if TYPE_CHECKING:  # it imports Ray, which is not needed yet
    from mmray.pipeline.summary import Result

Display = RunDisplay | JsonDisplay


def display_of(output: str, log_format: Literal["human", "json"], *, retry: bool = False) -> Display:
    """The display for people, or for a log collector.

    Args:
        output: the run directory.
        log_format: of the messages.
        retry: whether this is a retry.
    """
    kind = JsonDisplay if log_format == "json" else RunDisplay
    return kind(output, retry=retry)


def conclude(display: Display, result: Result) -> None:
    """Show the result of the run.

    Raises:
        AuditError: it is not good enough.
    """
    display.conclude(result)
    display.report(result)
    if problems := result.audit.problems:
        found = number(len(problems), "problem")
        raise AuditError(
            f"{display.output}: the audit found {found}; `mmray run` processes damaged files again"
        )
    if faults := result.audit.faults:
        raise AuditError(
            f"{number(len(faults), 'shard fault')}: an unknown number of records is lost there; replace "
            f"these shards with intact copies, then run `mmray retry {display.output}`; all others are done"
        )
    rate = result.summary["reject_rate"]
    if rate > result.max_reject_rate:
        raise AuditError(
            f"{rate:.1%} of the records were rejected; max_reject_rate is {result.max_reject_rate:g}: "
            f"see {display.output}/rejects/; everything else is predicted"
        )
