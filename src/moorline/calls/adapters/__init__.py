"""The pipeline under other people's HTTP clients and SDKs, with one registry of state behind all of them."""
