"""Peers on small vision transformers."""

from __future__ import annotations

from typing import Any

from vits import SETTINGS, vit

from glora.peers import Peer, peer


def made(name: str, kind: str = "vit", **settings: Any) -> Peer:
    return peer(name, vit(kind), **{**SETTINGS.get(name, {}), **settings})
