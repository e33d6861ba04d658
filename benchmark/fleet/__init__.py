"""Many replicas in virtual time: which one gets a request?"""
