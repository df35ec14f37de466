"""Publishing: what is sent, that nothing private is in it, and that it loads."""
