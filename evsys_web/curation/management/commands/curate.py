"""`manage.py curate RUN…`: attempts of eval runs become a dataset version, as on the workbench, for scripts on this machine."""

from __future__ import annotations

import json
from argparse import BooleanOptionalAction
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from django.core.exceptions import PermissionDenied
from django.core.management.base import BaseCommand, CommandError, CommandParser

from evsys_web.accounts.commands import add_user_argument, chosen_user
from evsys_web.accounts.models import Project, User
from evsys_web.curation.actions import USUAL_SPLITS, Published, SplitNames, check_split_names, nothing_to_publish, publish
from evsys_web.curation.columns import columns_of
from evsys_web.curation.forms import curatable
from evsys_web.curation.pools import open_sources
from evsys_web.curation.reading import size_of, slow_to_read
from evsys_web.evals.models import EvalRun
from recipes.config import validated
from recipes.curation import CurationSettings, FilterError, Preview, Rows, Select, compile_filter, preview
from recipes.errors import ConfigError, RecipeError

BAR_WIDTH = 40
NUM_REASONS = 10
NOT_HERE = {
    "trajectory": "An attempt here is one conversation, chosen when the run is brought in: manage.py import_attempts RUN "
    "--trajectory NAME. Curate the eval run that gives.",
    "category": "Datasets here have no category. Put the word into --description, or into --name.",
}
"""Options of rLLM's that nothing here answers to."""
CLOSED: dict[Any, str] = {Select: "|".join(Select), Rows: "|".join(Rows)}


class Command(BaseCommand):
    help = "Curate attempts of eval runs: filter the tasks, select attempts, publish the rows as a version of a dataset."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("runs", nargs="+", type=int, metavar="RUN", help="Ids of eval runs; their attempts are pooled.")
        parser.add_argument("--name", default="", help="Name of the dataset; needed unless --dry-run.")
        parser.add_argument("--description", default="", help="Of the dataset, when it is new.")
        for option, usual, what in (
            ("--split", USUAL_SPLITS.train, "to learn from"),
            ("--val-split", USUAL_SPLITS.held_out, "held out"),
        ):
            parser.add_argument(option, default=usual, metavar="NAME", help=f"Name of the split {what}. [{usual}]")
        for name, field in CurationSettings.model_fields.items():
            option, sentence = f"--{name.replace('_', '-')}", f"{field.description} [{_shown(field.default)}]".replace("%", "%%")
            if field.annotation is bool:
                parser.add_argument(option, action=BooleanOptionalAction, help=sentence)
            else:
                parser.add_argument(option, metavar=CLOSED.get(field.annotation), help=sentence)
        for name, sentence in NOT_HERE.items():
            parser.add_argument(f"--{name}", metavar="NAME", help=f"rLLM's; refused. {sentence}")
        parser.add_argument("--dry-run", action="store_true", help="Print what would come of it and write nothing.")
        add_user_argument(parser)
        parser.add_argument("--json", action="store_true", help="Print JSON and nothing else.")

    def handle(self, *args: Any, **options: Any) -> None:
        user = chosen_user(options["user"])
        for name, sentence in NOT_HERE.items():
            if options[name] is not None:
                raise CommandError(f"--{name}: {sentence}")
        chosen = _settings(options)
        names = SplitNames(options["split"], options["val_split"])
        try:
            check_split_names(names, chosen)
            runs = _runs(user, options["runs"])
            self._read(runs)
            found = preview(open_sources(runs).pool, chosen)
            published = None
            if not options["dry_run"]:
                published = _publish(user, runs, chosen, names, options["name"], options["description"])
        except (RecipeError, PermissionDenied) as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            self.stdout.write(json.dumps(as_json(runs, chosen, found, published), indent=2, ensure_ascii=False))
        else:
            self._print(chosen, names, found, published)
        if not found.num_rows:
            raise CommandError(nothing_to_publish(chosen))
        if found.holdout_error:
            raise CommandError(found.holdout_error)

    def _read(self, runs: Sequence[EvalRun]) -> None:
        """Says on stderr what it waits for, where that takes more than a moment."""
        for run in slow_to_read(runs):
            self.stderr.write(f"Reading {size_of(run):,} attempts of eval run {run.pk}; once, later calls are fast.", str)
            told = 0

            def tell(num_read: int, size: int = size_of(run)) -> None:
                nonlocal told
                if (tenths := 10 * num_read // size) > told:
                    told = tenths
                    self.stderr.write(f"{num_read:,} of {size:,}", str)

            columns_of(run, tell=tell)

    def _print(self, chosen: CurationSettings, names: SplitNames, found: Preview, published: Published | None) -> None:
        is_pairs = chosen.rows is Rows.PAIRS
        lines = [
            f"Tasks      {found.num_tasks:,}: {found.num_kept:,} kept, {found.num_dropped:,} dropped, "
            f"{found.num_without_attempts:,} without attempts that count",
            f"Attempts   {found.num_attempts:,}, of which {found.num_errors:,} ended in an error",
            f"{'Pairs' if is_pairs else 'Rows':10} {found.num_rows:,}, {_tokens(found)}",
            f"Splits     {names.train} {found.num_train_rows:,} rows of {found.num_train_tasks:,} tasks, "
            f"{names.held_out} {found.num_validation_rows:,} rows of {found.num_validation_tasks:,} tasks",
        ]
        left_out = {
            "have no such metric": found.num_without_metric,
            "are alike": found.num_duplicates,
            "gave a reply that was judged both ways": found.num_contradicted,
            **({} if is_pairs else {"are beyond the rows per task": found.num_over_cap}),
            **{f"cannot be used: {reason}": number for reason, number in list(found.skipped.items())[:NUM_REASONS]},
        }
        lines += [f"Left out   {number:,} attempts {reason}" for reason, number in left_out.items() if number]
        if is_pairs and found.num_over_cap:
            lines.append(f"Left out   {found.num_over_cap:,} pairs are beyond the pairs per task")
        most = max((bin.num_tasks for bin in found.histogram), default=0)
        lines += ["", f"{'avg':12} tasks (kept)"] if most else []
        lines += [_bar(bin.low, bin.high, bin.num_tasks, bin.num_kept, most) for bin in found.histogram if bin.num_tasks]
        if published is not None:
            done = "Published" if published.created else "Nothing new:"
            lines += ["", f"{done} {published.version.reference}, {published.version.num_rows:,} rows."]
        self.stdout.write("\n".join(lines))


def as_json(runs: Sequence[EvalRun], chosen: CurationSettings, found: Preview, published: Published | None) -> dict[str, Any]:
    """dataset, version and curation are null for a dry run; the rest is the same for both."""
    return {
        "dataset": published.version.reference if published else None,
        "dataset_version_id": published.version.pk if published else None,
        "curation_id": published.curation.pk if published else None,
        "created": bool(published and published.created),
        "eval_runs": [run.pk for run in runs],
        "settings": chosen.model_dump(mode="json"),
        "counts": found.counts(),
        "skipped": found.skipped,
        "holdout_error": found.holdout_error,
        "histogram": [asdict(bin) for bin in found.histogram],
    }


def _settings(options: dict[str, Any]) -> CurationSettings:
    """Raises CommandError, for a filter with the place of the mistake under it."""
    given = {name: options[name] for name in CurationSettings.model_fields if options[name] is not None}
    try:
        compile_filter(given.get("filter", "solved"))
        return validated(CurationSettings, given)
    except FilterError as error:
        marked = "\n".join(f"  {line}" for line in error.caret().split("\n"))
        raise CommandError(f"--filter: {error}\n{marked}") from None
    except ConfigError as error:
        raise CommandError(str(error)) from None


def _runs(user: User, asked: Sequence[int]) -> list[EvalRun]:
    """In the order asked, each once. Raises CommandError for what the user cannot see, or has nothing to curate."""
    visible = EvalRun.objects.visible_to(user).filter(pk__in=asked).values_list("pk", flat=True)
    if missing := sorted(set(asked) - set(visible)):
        raise CommandError(f"{user} has no eval run {', '.join(map(str, missing))}.")
    found = curatable(user).in_bulk(asked)
    if empty := [pk for pk in dict.fromkeys(asked) if pk not in found]:
        raise CommandError(f"Eval run {', '.join(map(str, empty))} has no attempt with a verdict yet.")
    return [found[pk] for pk in dict.fromkeys(asked)]


def _publish(
    user: User, runs: Sequence[EvalRun], chosen: CurationSettings, names: SplitNames, name: str, description: str
) -> Published:
    if not name.strip():
        raise CommandError("--name is needed: the dataset that gets the rows. --dry-run only looks.")
    project: Project = runs[0].project
    return publish(
        user=user, project=project, eval_runs=runs, settings=chosen, name=name, description=description, split_names=names
    )


def _tokens(found: Preview) -> str:
    if found.num_rows and found.num_rows_without_tokens == found.num_rows:
        return "sampled tokens not known"
    known = f"{found.num_tokens:,} sampled tokens"
    return f"{known}, unknown for {found.num_rows_without_tokens:,} rows" if found.num_rows_without_tokens else known


def _shown(default: Any) -> str:
    return "not set" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _bar(low: float, high: float, num_tasks: int, num_kept: int, most: int) -> str:
    span = f"{low:.4g}" if low == high else f"{low:.4g}–{high:.4g}"
    width = max(1, round(num_tasks / most * BAR_WIDTH))
    kept = round(num_kept / num_tasks * width)
    return f"{span:12} {'█' * kept}{'░' * (width - kept)} {num_tasks:,} ({num_kept:,})"
