"""As `lmms_eval.api`."""
