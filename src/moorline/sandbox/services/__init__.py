"""One file a service: each defines ``STAND_IN``, a ``sandbox.standin.Registration``; the folder is the list."""
