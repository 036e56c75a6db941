"""``maskrestore serve``: a gateway in front of a model server, or with the model in the process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from maskrestore.cli.classifier_options import MODEL_HELP, ClassifierOptions, with_classifier_options
from maskrestore.cli.options import (
    DefenseSetOption,
    DeviceOption,
    KeyFileOption,
    MaxQueriesOption,
    ProfileOption,
    RayOption,
    RestorerOption,
    read_key,
)
from maskrestore.cli.overrides import with_overrides
from maskrestore.cli.terminal import out, say
from maskrestore.defense.doubt import DOUBT_LIMIT, DoubtPolicy
from maskrestore.defense.profiles import PROFILES
from maskrestore.errors import ConfigError, MissingDependencyError
from maskrestore.imaging.views import Convention
from maskrestore.mae.choice import DEFAULT_RESTORER
from maskrestore.reporting import read_class_names
from maskrestore.runtime.digests import digest_of_key
from maskrestore.runtime.settings import differences, flat

if TYPE_CHECKING:
    from maskrestore.gateway.config import GatewayConfig

__all__ = ["serve"]


def _show_new_key(wanted: bool) -> None:
    if wanted:
        _need_extra()
        from maskrestore.gateway.access import new_key  # noqa: PLC0415 - an optional extra

        key = new_key()
        typer.echo(f"key, for whoever uses it: {key}\nfor the configuration:    key_hash = {digest_of_key(key)!r}")
        raise typer.Exit


@with_classifier_options
def serve(
    *,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file with models, keys and limits. Options of a model are then in the file."),
    ] = None,
    upstream: Annotated[
        str | None, typer.Option(metavar="URL", help="Address of the model: `http://host/v2/models/NAME`.")
    ] = None,
    classifier: Annotated[str | None, typer.Option(metavar="MODEL", help=MODEL_HELP)] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model for clients. If not given, from its address or file.")
    ] = None,
    model: ClassifierOptions,
    scores: Annotated[
        Literal["one-hot", "upstream", "labels"],
        typer.Option(
            help="What clients get where the model answers with scores: 1 for the label and 0 for the others, the "
            "model's own scores for the purified picture (`upstream`: one more query), or labels."
        ),
    ] = "one-hot",
    class_count: Annotated[
        int | None, typer.Option(min=2, help="Number of scores, if the model does not say it.")
    ] = None,
    class_names: Annotated[Path | None, typer.Option(help="Text file with one class name per line.")] = None,
    on_failure: Annotated[
        Literal["fail-closed", "fail-open"],
        typer.Option(
            help="If a picture cannot be purified: an error, or the model's plain label, marked as such. `fail-open` "
            "lets triggers pass meanwhile."
        ),
    ] = "fail-closed",
    resize: Annotated[Convention, typer.Option(help="How image files get the size of the model's input.")] = "crop",
    profile: ProfileOption = "fast",
    settings: DefenseSetOption = None,
    max_queries: MaxQueriesOption = None,
    on_doubt: Annotated[
        DoubtPolicy,
        typer.Option(
            help="What clients get for a picture whose answer is in doubt: the purified label all the same, the label "
            "of the picture as it came (`original`), or none (`abstain`)."
        ),
    ] = "answer",
    doubt_limit: Annotated[
        float, typer.Option(min=0, max=1, help="An answer is in doubt if its doubt is above this.")
    ] = DOUBT_LIMIT,
    restorer: RestorerOption = DEFAULT_RESTORER,
    device: DeviceOption = "cpu",
    key_file: KeyFileOption = None,
    decisions: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="SQLite file for the decisions, or the address of a PostgreSQL database, `postgresql://...`. If not "
            "given, they are in memory until the end.",
        ),
    ] = None,
    pictures: Annotated[
        Literal["off", "changed", "all"],
        typer.Option(help="Which pictures are kept with their decisions, reduced to 224 pixels a side."),
    ] = "off",
    host: Annotated[str, typer.Option(help="Address to listen on. Others than the loopback need keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8080,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that answer requests and share the cores. [default: 1, or as in the file]"),
    ] = None,
    ray: RayOption = None,
    replicas: Annotated[
        str | None,
        typer.Option(help="With --ray: how many replicas answer, `2`, or `1:8` for as many as needed. [default: 1]"),
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file with the certificate, for HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file with its key.")] = None,
    proxies: Annotated[
        str | None,
        typer.Option(help="Addresses of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed."),
    ] = None,
    new_key: Annotated[
        bool,
        typer.Option(
            "--new-key",
            callback=_show_new_key,
            is_eager=True,
            help="Print a new key for clients and its hash, and exit.",
        ),
    ] = False,
) -> None:
    """Shield a model server: clients change their address and get labels of purified pictures.

    The gateway speaks the Open Inference Protocol (KServe v2) over HTTP, as Triton, MLServer and KServe do, and takes
    image files at `/v1/purify`. Of each picture it keeps a decision: labels before and after, what was removed.

    Give an upstream, a model for this process, or a configuration file with several of both. Without keys in a
    configuration file, it listens on the loopback only.

    SIGTERM ends it once everything accepted is answered. SIGHUP reads the configuration file again. With --ray,
    replicas on a cluster answer, which share limits and decisions, and are replaced one after the other on SIGHUP.

    Examples:

        maskrestore serve --upstream http://models:8000/v2/models/signs --key-file key

        maskrestore serve --classifier model.onnx --mean 0.5 --std 0.5

        maskrestore serve --config gateway.toml --host 0.0.0.0

        maskrestore serve --config gateway.toml --ray --replicas 1:8
    """
    _need_extra()
    from maskrestore.gateway.config import checked_config, read_config  # noqa: PLC0415 - an optional extra
    from maskrestore.gateway.server import Listening  # noqa: PLC0415
    from maskrestore.gateway.server import serve as run  # noqa: PLC0415

    sources = [value for value in (config, upstream, classifier) if value is not None]
    if len(sources) != 1:
        raise ConfigError("give one of --upstream, --classifier and --config")
    if (tls_certificate is None) != (tls_key is None):
        raise ConfigError("HTTPS needs both --tls-certificate and --tls-key")
    if ray is None and replicas is not None:
        raise ConfigError("--replicas belongs to --ray; without it, give --workers")
    if ray is not None and (workers is not None or port == 0):
        raise ConfigError("with --ray, give --replicas instead of --workers, and a port other than 0")
    key = read_key(key_file)
    if config is not None:
        found: GatewayConfig = read_config(config)
    else:
        spec = upstream or classifier or ""
        if upstream is not None and not upstream.startswith(("http://", "https://")):
            raise ConfigError(f"--upstream must be an address such as http://host/v2/models/NAME, got {upstream!r}")
        changed = with_overrides(PROFILES[profile], settings or [])
        one: dict[str, Any] = {
            **_model_settings(model), "classifier": spec, "scores": scores, "class_count": class_count,
            "profile": profile, "settings": flat(differences(PROFILES[profile], changed)), "max_queries": max_queries,
            "on_doubt": on_doubt, "doubt_limit": doubt_limit, "resize": resize,
            "on_failure": dict.fromkeys(("upstream", "overload", "deadline", "defense"), on_failure),
        }  # fmt: skip
        if class_names is not None:
            one["classes"] = read_class_names(class_names)
        values = {
            "models": {name or _name_of(spec): one}, "restorer": restorer, "device": device,
            "decisions": {"pictures": pictures, **_place_of(decisions)},
        }  # fmt: skip
        found = checked_config(values, "command line")
    if workers is not None:
        found = found.model_copy(update={"workers": workers})
    where = Listening(host=host, port=port, tls_certificate=tls_certificate, tls_key=tls_key, proxies=proxies)

    def told(address: str) -> None:
        for each in found.models:
            out.print(f"{each}: {address}/v2/models/{each}", soft_wrap=True, highlight=False)

    if not found.tenants:
        say("note: there are no keys, so the gateway listens on the loopback only, and everyone there may use it")
    again = None if config is None else lambda: read_config(config)
    if ray is None:
        run(found, where, key=key, read_config=again, told=told)
        return
    from maskrestore.distributed.serve import Replicas  # noqa: PLC0415
    from maskrestore.distributed.serving import serve_on_ray  # noqa: PLC0415

    many = Replicas.parsed(replicas or "1")
    serve_on_ray(found, where, address=ray, replicas=many, key_file=key_file, read_config=again, told=told)


def _place_of(decisions: str | None) -> dict[str, str]:
    """Where decisions are kept, as fields of their configuration."""
    if decisions is None:
        return {}
    return {"url" if "://" in decisions else "path": decisions}


def _model_settings(model: ClassifierOptions) -> dict[str, Any]:
    """The options of a classifier as fields of a model's configuration."""
    given = model.settings
    http: dict[str, Any] = given.pop("http", {})
    return given | http


def _name_of(spec: str) -> str:
    """A name for a model, from its address, file or function."""
    found = re.search(r"/models/([^/?#]+)", spec)
    name = found[1] if found else re.split(r"[/:]", spec.rstrip("/"))[-1]
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name.removesuffix(".onnx")) or "model"


def _need_extra() -> None:
    try:
        import fastapi  # noqa: F401, PLC0415 - an optional extra
    except ImportError as error:
        raise MissingDependencyError("fastapi", "gateway") from error
