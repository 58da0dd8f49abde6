"""The campaign: `python -m tests.campaign` does to stagerun what the world does, and counts."""
