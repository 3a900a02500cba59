"""The log's proof: Merkle trees, signed heads, proofs, and the walk over the log."""
