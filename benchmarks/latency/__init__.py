"""How late things are: dead owners settled, runs cancelled, deadlines kept, blocks reported."""
