"""The door for people: commands that load, run and show. Needs the extra ``stagerun[cli]``."""
