"""An engine without a model, exact and strict: the oracle of the tests."""
