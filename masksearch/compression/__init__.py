"""Compression of a trained network in one call: find a mask, prune, fine-tune, and compare before with after."""

from masksearch.compression.one_call import Compressed, Measured, compress, find_mask

__all__ = ["Compressed", "Measured", "compress", "find_mask"]
