"""What a conversation is about: the domain file, and what its words mean. Knows nothing of audio or sessions."""
