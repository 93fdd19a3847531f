"""The command `tf-tickets`.

A package of its own, because importing anything below `tf_tickets` imports Keras,
which takes seconds. The modules of the commands import it only when they run.
"""
