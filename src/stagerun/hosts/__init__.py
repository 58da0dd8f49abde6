"""Where the engine lives inside programs that are not trio's."""
