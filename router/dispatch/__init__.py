"""The dispatcher: live requests, the scheduler's decisions, one Step after another."""
