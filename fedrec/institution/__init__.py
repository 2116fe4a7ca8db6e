"""The institution's side: the only code that ever sees rows."""
