"""The HTTP side: an ASGI app to be mounted, with an API, live events and a dashboard."""
