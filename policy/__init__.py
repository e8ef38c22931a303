"""Guard rails: what no update of the stack may do. A CrossGuard pack; `guards` has the rules."""
