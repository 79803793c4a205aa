def compare_chats(only):
    return []
