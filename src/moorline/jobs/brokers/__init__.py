"""The brokers, one file each; all keep the contract of ``moorline.jobs.broker``."""
