"""Units of a model: what must be removed together to make it smaller."""
