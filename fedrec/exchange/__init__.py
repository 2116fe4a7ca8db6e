"""What both ends must agree on, both halves side by side: plan, request text, wire, passport, signatures."""
