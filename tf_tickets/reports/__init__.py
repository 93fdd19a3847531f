"""Reports: tables, FLOPs and plots."""
