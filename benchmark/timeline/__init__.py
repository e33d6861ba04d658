"""What a record of the scheduler's decisions shows: who ran when."""
