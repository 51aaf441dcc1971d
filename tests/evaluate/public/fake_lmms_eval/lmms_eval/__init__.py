"""The shapes of lmms-eval 0.7.3 that Limbeck's worker uses, for the local task of the tests."""
