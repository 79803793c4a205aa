"""Pure decisions of the device thread: who is loaded, admitted, evicted, and whose step is next."""
