"""The sources of a node, the agent that schedules them, and the publisher that sends what they read."""
