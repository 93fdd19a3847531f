"""Writing a model for use elsewhere: smaller, checked before it is handed over."""
