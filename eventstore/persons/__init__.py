"""Keys of persons: what is personal is encrypted under them."""
