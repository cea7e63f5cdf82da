"""Where secrets are kept: one module for each kind of place, each with ``load`` and ``load_all``."""
