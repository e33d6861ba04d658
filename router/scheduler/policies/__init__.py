"""In which order requests are served: one file per policy."""
