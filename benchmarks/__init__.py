"""What stagerun costs, measured beside hand-written code on the same machine in the same run."""
