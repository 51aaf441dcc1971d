"""Serve the page until it is interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress

from limbeck.compare.answering import Answerers
from limbeck.compare.models import comparison_of
from limbeck.compare.server import LOOPBACK, serving
from limbeck.progress import say
from limbeck.recipe import Recipe


def serve(
    recipe: Recipe,
    names: Sequence[str],
    *,
    host: str,
    port: int,
    announce: Callable[[str], None],
    as_json: bool = False,
) -> None:
    """Serve the page of a comparison until Ctrl-C.

    Args:
        recipe: it has been run.
        names: of the models.
        host: the address to listen on.
        port: 0 for any that is free.
        announce: gets the address of the page, as text or JSON.
        as_json: which of the two.

    Raises:
        LimbeckError: a model is not there, or the address cannot be listened on.
    """
    comparison = comparison_of(recipe, names)
    with (
        Answerers(recipe, comparison) as models,
        serving(recipe, models, host=host, port=port) as server,
    ):
        if host not in LOOPBACK:
            say(f"warning: whoever reaches {host} can ask the models, and see the data's pictures")
        if paid := [model.name for model in comparison.models if not model.local]:
            say(f"each question is also sent to the server of {', '.join(paid)}, which may cost")
        announce(json.dumps({"url": server.url}) if as_json else f"open {server.url}")
        say("Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.2)
