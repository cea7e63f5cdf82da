"""Services that watch: errors, metrics, logs, alerts."""
