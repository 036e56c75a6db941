"""``maskrestore purify``: purify an image or a folder of images and label them."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from maskrestore.cli.classifier_options import ClassifierOption, ClassifierOptions, with_classifier_options
from maskrestore.cli.options import (
    DefenseSetOption,
    DeviceOption,
    DoubtLimitOption,
    KeyFileOption,
    MaxQueriesOption,
    OnDoubtOption,
    ProfileOption,
    RayOption,
    RestorerOption,
    ScheduleOption,
    read_key,
    scheduled_profile,
)
from maskrestore.cli.overrides import with_overrides
from maskrestore.cli.purify_job import JobOptions
from maskrestore.cli.terminal import FAILED, command_line, out, progress, say, warn
from maskrestore.defense.beyond_paper.budget import within
from maskrestore.defense.doubt import DOUBT_LIMIT, check_on_doubt
from maskrestore.defense.profiles import PROFILES
from maskrestore.distributed.cluster import connect
from maskrestore.distributed.purify import ClusterJob, purify_on_cluster
from maskrestore.distributed.report import write_cluster_report
from maskrestore.errors import ConfigError, ImageFileError
from maskrestore.imaging.views import Convention
from maskrestore.jobs import FolderSummary, purify_folder
from maskrestore.jobs.sources.remote_files import is_remote
from maskrestore.mae.choice import DEFAULT_RESTORER
from maskrestore.reporting import printable, read_class_names
from maskrestore.runtime.words import counted

__all__ = ["purify"]


@with_classifier_options
def purify(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="An image, a folder of images, parquet files or tar shards of images, or a URL such as "
            "`s3://bucket/folder`.",
        ),
    ],
    *,
    classifier: ClassifierOption,
    target: Annotated[
        str, typer.Option("--out", metavar="TARGET", help="Folder for the results; with `--ray`, also a URL of one.")
    ],
    model: ClassifierOptions,
    profile: ProfileOption = "default",
    settings: DefenseSetOption = None,
    restorer: RestorerOption = DEFAULT_RESTORER,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "int8"],
        typer.Option(
            help="Number format of the restorer: `auto` is bfloat16 if the hardware is fast in it, else float32. "
            "`int8` is faster for large restorers on CPUs with VNNI, and less exact."
        ),
    ] = "auto",
    device: DeviceOption = "cpu",
    key_file: KeyFileOption = None,
    schedule: ScheduleOption = None,
    max_queries: MaxQueriesOption = None,
    on_doubt: OnDoubtOption = "answer",
    doubt_limit: DoubtLimitOption = DOUBT_LIMIT,
    budget: Annotated[
        int | None,
        typer.Option(min=1, help="The most queries of this run. It stops before it would need more."),
    ] = None,
    grey: Annotated[
        bool, typer.Option("--grey", help="Read grey images with one channel, for a classifier that expects that.")
    ] = False,
    image_column: Annotated[
        str | None, typer.Option(help="Column of images of parquet files, if they have several.")
    ] = None,
    resize: Annotated[
        Convention | None,
        typer.Option(
            help="How pictures get the size of the model's input: `crop` resizes the shorter side and cuts out the "
            "middle, `squash` resizes both sides, `letterbox` adds black bars. If not given, `crop`."
        ),
    ] = None,
    crop_share: Annotated[
        float | None,
        typer.Option(
            help="Of `crop`: side of the model's input as a share of the shorter side, e.g. `0.875` for a model whose "
            "pictures are resized to 256 and cropped to 224. If not given, 1."
        ),
    ] = None,
    full_size: Annotated[
        bool,
        typer.Option("--full-size", help="Also write each picture in full size with what was restored into `full/`."),
    ] = False,
    class_names: Annotated[
        Path | None, typer.Option(help="Text file with one class name per line, for the report.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images that are purified at a time. An interruption loses at most so many. If not given, 64 on a CPU "
            "and 256 on a GPU, fewer if the images are large.",
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Purify images again that already have results in `--out`.")
    ] = False,
    answer_cache: Annotated[
        bool | None,
        typer.Option(
            "--answer-cache/--no-answer-cache",
            help="Keep each answer in `--out` until all images are done, so that no picture is paid for twice after a "
            "crash. If not given, only for functions and addresses.",
            show_default=False,
        ),
    ] = None,
    ray: RayOption = None,
    form: Annotated[
        Literal["files", "parquet"],
        typer.Option(
            "--format",
            help="With `--ray`: a file for each purified image, or rows of parquet files, as the Hugging Face hub has "
            "them. A URL takes `parquet` only.",
        ),
    ] = "files",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="With `--ray`: processes that purify. If not given, one for each core or GPU."),
    ] = None,
    part_images: Annotated[
        int,
        typer.Option(min=1, help="With `--ray`: images that are recorded together. A worker that dies loses so many."),
    ] = 64,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit with status 1 also if anything in the folder was left out."),
    ] = False,
    report_images: Annotated[
        int, typer.Option(min=0, help="Images that the report shows with pictures. Changed labels come first.")
    ] = 30,
) -> None:
    """Purify an image, or all images of a folder or a data set, and label them with the classifier.

    Writes into the folder of `--out`:

    - `images/` with the purified images as PNG, and `maps/` with their score maps;
    - `records.jsonl` with a record for each image: labels before and after, suspicion, number of queries, share of
      the image that was restored, seconds, or the error;
    - `report.html` with pictures of what was removed.

    Pictures are purified at the size at which the classifier sees them, if that is known: from the model file, or from
    `--input-size`. `--full-size` puts what was restored back into the whole pictures.

    Pictures are told by their content, in any folder below and behind links. What is left out, such as hidden
    files and files that are no picture, is counted by reason in the end, in the report and in the records.

    If a file cannot be read, or the classifier fails at an image, the other images are purified and the exit
    status is 1. If the classifier raises `RetryLater`, a time-out or an error of the connection, the run waits and
    asks again, for up to ten minutes. After five other errors in a row it stops. What was answered is kept. With
    `--strict` the exit status is also 1 if anything was left out.

    With `--ray` the work is done on all machines of a Ray cluster, or by several processes of this one, with the same
    results: see the guide. Its machines must share the folders that the command names, or find them behind URLs.

    To continue after Ctrl-C, run the same command again. Images that have a result with the same settings and
    the same classifier are not purified again, except with `--again`. With another `--on-doubt` or `--doubt-limit`
    their answers change and nothing is asked.

    Examples:

        maskrestore purify photos --classifier model.onnx --mean 0.5 --std 0.5 --out cleaned

        maskrestore purify stop.png --classifier mypackage.models:signs --profile paper --out cleaned

        maskrestore purify s3://photos/2026 --classifier model.onnx --out s3://cleaned/2026 --format parquet --ray
    """
    profile = scheduled_profile(profile, schedule)
    config = with_overrides(PROFILES[profile], settings or [])
    config = config if max_queries is None else within(config, max_queries)
    check_on_doubt(on_doubt, doubt_limit, config)
    if budget is not None and budget < config.max_queries:
        raise ConfigError(
            f"an image may take {config.max_queries} queries, more than --budget {budget}; raise the budget, or give "
            f"each image less with --max-queries {budget}"
        )
    if ray is None and (form != "files" or is_remote(target) or workers is not None):
        raise ConfigError("--workers, parquet files and results behind a URL need the workers of --ray; add it")
    if ray is not None and answer_cache:
        raise ConfigError(
            "with --ray no answers are kept, only the records of finished parts; leave --answer-cache out"
        )
    # What can fail without a query is tried first, and what takes no time before the networks are loaded.
    names = None if class_names is None else read_class_names(class_names)
    key = read_key(key_file)
    if not is_remote(source) and not Path(source).exists():
        raise ImageFileError(f"{source}: expected images, found nothing")
    options = JobOptions(
        source=source, classifier=classifier, model=model, config=config, restorer=restorer, precision=precision,
        device=device, key=key, batch=batch, budget=budget, grey=grey, image_column=image_column, resize=resize,
        crop_share=crop_share, full_size=full_size, again=again, answer_cache=answer_cache, class_names=names,
        on_doubt=on_doubt, doubt_limit=doubt_limit,
    )  # fmt: skip
    with TemporaryDirectory(prefix="maskrestore-") as scratch:
        job = options.make(Path(scratch if is_remote(target) else target))
        plan = ClusterJob(
            make_job=functools.partial(options.make, job.out),
            shards=form == "parquet",
            url=target if is_remote(target) else None,
            workers=workers,
            part_images=part_images,
            environment=options.environment,
        )
        if ray is None:
            with progress("purify") as update:
                summary = purify_folder(job, update)
        else:
            with connect(ray), progress("purify") as update:
                summary = purify_on_cluster(plan, job, update)
        _print_summary(summary)  # also if there is no room for a report
        page = write_cluster_report(
            plan,
            job,
            settings={"restorer": restorer, "profile": profile},
            class_names=names or getattr(job.classifier, "classes", None),
            max_detailed=report_images,
        )
    if names is not None and summary.highest_label is not None and summary.highest_label >= len(names):
        warn(
            f"{class_names} names {len(names)} classes, but the classifier answered {summary.highest_label} (from 0 on)"
        )
    out.print(f"see {page}", soft_wrap=True, highlight=False)
    if not summary.complete or (strict and summary.left_out):
        raise typer.Exit(FAILED)


def _print_summary(summary: FolderSummary) -> None:
    out.print(
        f"{counted(summary.purified, 'image')} purified ({summary.reused} of them by an earlier run), "
        + (f"{counted(summary.changed, 'label')} changed, " if summary.changed is not None else "")
        + _in_doubt(summary)
        + f"{summary.queries} {'query' if summary.queries == 1 else 'queries'}, "
        + (f"{counted(summary.known_answers, 'answer')} of an earlier run, " if summary.known_answers else "")
        + f"{summary.seconds:.1f} s",
        soft_wrap=True,
    )
    if summary.answered_again:
        again = counted(summary.answered_again, "image")
        say(f"note: {again}: answered again, as --on-doubt and --doubt-limit now say; nothing was asked")
    if summary.without_suspicion:
        unknown = counted(summary.without_suspicion, "image")
        say(f"note: {unknown}: suspicion not known, so never in doubt: results of an earlier version; --again adds it")
    for name, error in summary.failures:
        say(f"failed: {printable(name)}: {printable(error)}")
    for note, count in summary.notes.items():
        say(f"note: {counted(count, 'image')}: {note}")
    for reason, count in summary.left_out.items():
        names = summary.names_left_out[reason]
        say(f"left out: {count} {reason}: {', '.join(map(printable, names))}{', ...' if count > len(names) else ''}")
    if summary.other_settings:
        say(f"not counted: {counted(summary.other_settings, 'image')} with results of other settings only")
    if summary.failed:
        say(f"{counted(summary.failed, 'image')} failed (see records.jsonl); the same command tries again")
    if summary.stopped is not None:
        left = f"{counted(summary.left, 'image')} left"
        kept = f", {counted(summary.kept_answers, 'answer')} kept" if summary.kept_answers else ""
        say(f"stopped: {summary.stopped}; {left}{kept}; to go on: {command_line()}")


def _in_doubt(summary: FolderSummary) -> str:
    if summary.without_suspicion == summary.purified:
        return ""
    abstained = f" ({summary.abstained} not answered)" if summary.abstained else ""
    return f"{counted(summary.doubtful, 'answer')} in doubt{abstained}, "
