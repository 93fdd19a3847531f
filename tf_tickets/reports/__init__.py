"""Reports: tables, costs and plots."""
