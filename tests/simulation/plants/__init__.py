"""Bugs on purpose, by name: a harness that has never found one is not to be believed.

Each stands for a mistake that somebody could make, or once made, in one place of the engine. They
are put in from outside and taken out again: nothing of them is in the package.
"""

from tests.simulation.plants import commits, ownership, questions, work
from tests.simulation.plants.plant import PLANTS

__all__ = ["PLANTS", "commits", "ownership", "questions", "work"]
