"""One file a sender, named as its service: a delivery of its kind, as ``SAMPLE``. The conformance suite reads them all."""
