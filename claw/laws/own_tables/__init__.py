"""Tables as their owners have them, made tidy: `read` is `claw.laws.read`; `headings` has the words that it knows."""
