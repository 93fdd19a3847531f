"""Trainings in lockstep: several networks in one program of JAX."""

from tf_tickets.search.lockstep.group import Group, Member, present

__all__ = ["Group", "Member", "present"]
