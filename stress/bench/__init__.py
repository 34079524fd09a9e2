"""How fast it is: ratios measured inside one run, against everybody else and against limits of the interpreter."""
