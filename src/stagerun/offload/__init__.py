"""Where code runs that must not run on trio's loop: worker processes, and asyncio's own loop."""
