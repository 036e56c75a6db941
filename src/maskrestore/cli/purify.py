"""``maskrestore purify``: clean an image or a folder of them for a classifier."""

from __future__ import annotations

import glob
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer

from maskrestore.classifiers import ModuleClassifier, load_classifier
from maskrestore.cli.options import (
    DefenseSetOption,
    DeviceOption,
    KeyFileOption,
    MaxQueriesOption,
    ProfileOption,
    RestorerOption,
    ScheduleOption,
    parse_channels,
    read_key,
    scheduled_profile,
)
from maskrestore.cli.overrides import with_overrides
from maskrestore.cli.terminal import FAILED, out, progress, say
from maskrestore.defense.bdmae import BDMAE
from maskrestore.defense.beyond_paper.budget import within
from maskrestore.defense.profiles import PROFILES
from maskrestore.defense.streams import key_fingerprint
from maskrestore.errors import ConfigError, InvalidImageError
from maskrestore.imaging.codec import read_image
from maskrestore.jobs.folder import MAP_FIELDS, FolderJob, Summary, purify_folder
from maskrestore.jobs.image_log import ImageLog
from maskrestore.mae.checkpoints.weight_files import weights_digest
from maskrestore.mae.restorer import DEFAULT_RESTORER, load_restorer
from maskrestore.reporting import Evidence, ReportEntry, ReportSummary, entries_from, write_report
from maskrestore.runtime.digests import digest, digest_of_json, raw_digest
from maskrestore.runtime.settings import flat
from maskrestore.types import Classifier, Purification

__all__ = ["purify"]

_SHOWN_FAILURES = 20


def purify(
    source: Annotated[Path, typer.Argument(metavar="IMAGE_OR_FOLDER", help="An image, or a folder of them.")],
    *,
    classifier: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="The black box: `model.onnx`, or `package.module:name` of a torch.nn.Module or of a "
            "function from images (B, C, H, W) in [0, 1] to labels (B,).",
        ),
    ],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
    mean: Annotated[
        str | None,
        typer.Option(help="Of the model's normalisation, in units of [0, 1], e.g. `0.485,0.456,0.406`."),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(help="Likewise, e.g. `0.229,0.224,0.225`."),
    ] = None,
    profile: ProfileOption = "default",
    settings: DefenseSetOption = None,
    restorer: RestorerOption = DEFAULT_RESTORER,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "int8"],
        typer.Option(
            help="What the restorer computes in: `auto` is bfloat16 where the hardware is fast in it, else float32. "
            "`int8` is faster with large restorers on CPUs with VNNI, and less exact."
        ),
    ] = "auto",
    device: DeviceOption = "cpu",
    key_file: KeyFileOption = None,
    schedule: ScheduleOption = None,
    max_queries: MaxQueriesOption = None,
    budget: Annotated[
        int | None,
        typer.Option(min=1, help="Stop before the classifier is asked about more pictures than this in this run."),
    ] = None,
    grey: Annotated[
        bool, typer.Option("--grey", help="Keep grey images grey, for a classifier with one channel.")
    ] = False,
    class_names: Annotated[
        Path | None, typer.Option(help="Text file with the name of a class on each line, for the report.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images worked on at a time, and lost at most when interrupted; 64 unless given, or 256 on a GPU, and "
            "fewer where they are large.",
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Do images again that the folder of `--out` has results of.")
    ] = False,
    report_images: Annotated[
        int, typer.Option(min=0, help="Images shown with pictures in the report; changed labels come first.")
    ] = 100,
) -> None:
    """Purify an image or a folder of images, and label them with the classifier.

    Writes into the folder of `--out`: `images/` with a purified PNG of each image, `maps/` with its score
    maps, `records.jsonl` with one record per image (labels before and after, queries, share restored,
    seconds, or the error), written as images are finished, and `report.html` with pictures of what was
    removed.

    A file that cannot be read, or an image at which the classifier fails, does not stop the others; the exit status is
    then 1. After Ctrl-C the same command goes on where it stopped: images that are recorded with the same settings and
    classifier (its file, or the file that its function is in) are not done again, unless with `--again`.

    Examples:

        maskrestore purify photos --classifier model.onnx --mean 0.5 --std 0.5 --out cleaned

        maskrestore purify stop.png --classifier mypackage.models:signs --profile paper --out cleaned
    """
    profile = scheduled_profile(profile, schedule)
    config = with_overrides(PROFILES[profile], settings or [])
    config = config if max_queries is None else within(config, max_queries)
    if budget is not None and budget < config.max_queries:
        raise ConfigError(
            f"an image may take {config.max_queries} queries, more than --budget {budget}; raise the budget, or give "
            f"each image less with --max-queries {budget}"
        )
    names = _read_class_names(class_names)
    channels = {"mean": parse_channels(mean, "--mean"), "std": parse_channels(std, "--std")}
    black_box = load_classifier(classifier, **channels, device=device)
    key = read_key(key_file)
    masked_autoencoder = load_restorer(restorer, precision=precision, device=device)
    weights = getattr(masked_autoencoder, "weights_digest", None)
    arithmetic = getattr(masked_autoencoder, "precision", None)
    identity = [
        classifier,
        _model_digest(classifier, black_box),
        mean,
        std,
        restorer,
        weights,
        arithmetic,
        grey,
        device,
    ]
    job = FolderJob(
        source=source,
        out=out_dir,
        defense=BDMAE(masked_autoencoder, config, key=key, chunk_size=batch),
        classifier=black_box,
        config_digest=digest_of_json([config.to_dict(), key_fingerprint(key), *identity]),
        key_fingerprint=key_fingerprint(key),
        budget=budget,
        keep_grey=grey,
        again=again,
    )
    with progress("purify") as update:
        summary = purify_folder(job, update)
    facts = {
        "classifier": classifier,
        "restorer": restorer,
        "profile": profile,
        "max_queries": config.max_queries,
        **flat(config.to_dict()),
    }
    heading = ReportSummary(title=f"maskrestore: {source.name}", settings=facts, key_fingerprint=job.key_fingerprint)
    with closing(summary.log) as log:
        page = write_report(
            out_dir,
            (_entry(record) for record in log.records(job.config_digest) if not record["error"]),
            heading,
            class_names=names,
            errors=((record["file"], record["error"]) for record in log.records(job.config_digest) if record["error"]),
            max_detailed=report_images,
            evidence_of=partial(_evidence, job, log),
        )
        _conclude(summary, job, page, asked_before=not config.restoration.single_query)


def _conclude(summary: Summary, job: FolderJob, page: Path, *, asked_before: bool) -> None:
    """Say how it went; exit with status 1 unless every image was purified.

    asked_before: whether the classifier was asked about images as they came.
    """
    finished = changed = failed = other = 0
    failures = []
    for record in summary.log.records():
        if record.get("config_digest") != job.config_digest:
            other += 1
        elif record["error"] is None:
            finished += 1
            changed += record["label"] != record["original_label"]
        else:
            failed += 1
            if failed <= _SHOWN_FAILURES:
                failures.append(f"failed: {record['file']}: {record['error']}")
    out.print(
        f"{finished} images purified ({finished - summary.log.purified} of them by an earlier run), "
        + (f"{changed} labels changed, " if asked_before else "")
        + f"{summary.queries} queries, {summary.seconds:.1f} s; see {page}",
        soft_wrap=True,
    )
    for failure in failures:
        say(failure)
    if other:
        say(f"{other} images have results of other settings only, which are not counted here")
    if failed:
        say(f"{failed} images failed (all in records.jsonl); the same command tries them again")
    if summary.stopped is not None:
        left = len(summary.log) - finished - failed
        say(f"stopped: {summary.stopped}; {left} images are left, and the same command goes on with them")
    for note in summary.skipped:
        say(note)
    if failed or summary.skipped or summary.stopped is not None:
        raise typer.Exit(FAILED)


def _entry(record: dict[str, Any]) -> ReportEntry:
    """What the report says of an image, from its record, so that it also covers earlier runs."""
    return ReportEntry(
        name=record["file"],
        original_label=record["original_label"],
        label=record["label"],
        queries=record["queries"],
        restored=record["restored"],
    )


def _evidence(job: FolderJob, log: ImageLog, name: str) -> Evidence | None:
    """The pictures and maps of an image, read back from the results."""
    record = log.record(name)
    try:
        original = read_image(job.file(name), keep_grey=job.keep_grey)[None]
        purified = read_image(job.out / record["output"], keep_grey=job.keep_grey)[None]
        with np.load(job.out / record["maps"]) as arrays:
            maps = {field: torch.from_numpy(arrays[field])[None] for field in MAP_FIELDS if field in arrays}
    except (InvalidImageError, OSError):  # the original was moved in the meantime
        return None
    purification = Purification(
        images=purified,
        labels=torch.tensor([record["label"]]),
        original_labels=torch.tensor([record["original_label"]]),
        queries=torch.tensor([record["queries"]]),
        **maps,
    )
    return entries_from(original, purification, names=[name])[0].evidence


def _read_class_names(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read class names from {path}: {error}") from error


def _model_digest(spec: str, classifier: Classifier) -> str:
    """Digest of the model's files, or of the file that its function is in and of its weights.

    A new model under an old name is another classifier.
    """
    parts: list[bytes] = []
    module = sys.modules.get(spec.partition(":")[0])
    source = Path(getattr(module, "__file__", None) or spec)
    # Weights of a large ONNX file lie beside it, and their names begin with its own.
    for path in sorted(source.parent.glob(f"{glob.escape(source.name)}*")) if source.suffix == ".onnx" else [source]:
        if path.is_file():
            parts.append(raw_digest([path.read_bytes()]))
    if isinstance(classifier, ModuleClassifier):
        parts.append((weights_digest(classifier.module) or "").encode())
    return digest(parts)
