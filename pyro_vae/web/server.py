"""The explorer's server: on this computer alone, until Ctrl-C."""

from __future__ import annotations

import os
import socket
import threading
import webbrowser
from collections.abc import Sequence
from typing import Any

from pyro_vae.datasets import Splits
from pyro_vae.models import VAE
from pyro_vae.web.explored import Explored

__all__ = ["HOST", "check_installed", "make_server", "serve"]

HOST = "127.0.0.1"
HOSTS = [HOST, "localhost"]  # a page elsewhere that resolves its own name to this address is refused


def check_installed() -> None:
    """Raise an ImportError that says what to install, unless dash can be imported."""
    try:
        import dash  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"`pyro-vae explore` must have dash; got {error}. Install it: pip install 'pyro-vae[explore]'."
        ) from error


def make_server(runs: Sequence[tuple[str, VAE, Splits]], port: int) -> Any:
    """A server of the explorer's page that has not started.

    Args:
        runs: name, model and data of one run, or of two.
        port: the port; 0 for one that is free.

    Raises:
        ImportError: if dash is not installed.
        NotImplementedError: if the latents of a model are not one vector of real numbers for each row.
        ValueError: if the runs have other test rows.
        OSError: if the port is in use.
    """
    check_installed()
    import flask
    from werkzeug import serving

    from pyro_vae.web.explorer import explorer

    explored = [Explored(*run) for run in runs]
    if len({run.digest for run in explored}) > 1:
        first, second = (run.name for run in explored)
        raise ValueError(
            f"RUN2 must be on the test rows of RUN, {first!r}; got {second!r}, which is on others. Explore it alone."
        )
    app = explorer(explored).server

    @app.before_request
    def refuse_other_hosts() -> None:
        if flask.request.host.rpartition(":")[0] not in HOSTS:
            flask.abort(400)

    class Quiet(serving.WSGIRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Requests are not printed."""

    with _bound(port) as listening:  # the server has a copy of its own
        number = listening.getsockname()[1]
        return serving.make_server(HOST, number, app, threaded=True, request_handler=Quiet, fd=listening.fileno())


def _bound(port: int) -> socket.socket:
    """A socket at this port of this computer."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was in use a moment ago is free
    try:
        made.bind((HOST, port))
    except OSError as error:
        made.close()
        raise OSError(f"--port must be free; got {port} ({error.strerror}). Choose another, or 0 for any.") from error
    made.listen()
    return made


def serve(runs: Sequence[tuple[str, VAE, Splits]], port: int, *, browser: bool) -> int:
    """Serve the explorer until Ctrl-C.

    Args:
        runs: as in `make_server`.
        port: as in `make_server`.
        browser: whether to open the page in the user's browser.

    Returns:
        The exit code, 0.
    """
    server = make_server(runs, port)
    address = f"http://{HOST}:{server.port}/"
    try:
        print(f"Latent explorer of {' and '.join(name for name, _, _ in runs)}: {address} (Ctrl-C ends it)", flush=True)
        if browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    return 0
