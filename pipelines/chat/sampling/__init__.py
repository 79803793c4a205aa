"""Chooses the next tokens of chats on the device."""
