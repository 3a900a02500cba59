"""How tables are asked: typed queries, pages, and waiting for a position."""
