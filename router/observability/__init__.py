"""What the server tells about itself: metrics and the scheduler's status."""
