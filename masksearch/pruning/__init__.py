"""Pruned networks: physical pruning, networks ready for training, orthogonality repair, sparse inference, export."""

from masksearch.pruning.physical import load_pruned, prune, restore_state, save_pruned, slice_state
from masksearch.pruning.ticket import Ticket, draw_ticket

__all__ = ["Ticket", "draw_ticket", "load_pruned", "prune", "restore_state", "save_pruned", "slice_state"]
