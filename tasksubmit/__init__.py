"""Tasks handed from agent to agent: the Pilot Protocol's task submission, on Twisted."""
