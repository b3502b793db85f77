"""Methods to compare GLoRA with, trained by the same loop; see docs/peers.md."""

from __future__ import annotations

from glora.peers.base import Peer
from glora.peers.files import load_peer
from glora.peers.registry import PEERS, Method, peer
from glora.peers.train import TrainedPeer, train_peer

__all__ = ["PEERS", "Method", "Peer", "TrainedPeer", "load_peer", "peer", "train_peer"]
