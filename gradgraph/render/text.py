"""A graph as text: what it is made of, what it keeps in memory, and an outline of it."""

from gradgraph.render.memory import Kept, Memory, memory
from gradgraph.render.outline import outline
from gradgraph.render.summary import LeafEntry, NodeEntry, Summary, summary

__all__ = ["Kept", "LeafEntry", "Memory", "NodeEntry", "Summary", "memory", "outline", "summary"]
