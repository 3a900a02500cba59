"""How events become tables: folds, their one engine, and the declarations."""
