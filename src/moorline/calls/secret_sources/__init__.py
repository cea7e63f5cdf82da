"""Sources of secrets that are asked over the network, by the pipeline of calls: see ``moorline.secrets.sources``."""
