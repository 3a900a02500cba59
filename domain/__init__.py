"""What is true: events, states and deciders as pure functions. Imports nothing else of ours."""
